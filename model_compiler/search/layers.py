"""How much noise has gathered at each layer of a quantized graph: signal over noise, in dB, on a few images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from model_compiler.metrics.noise import decibel
from model_compiler.onnx_session import OnnxSession
from model_compiler.samples import CalibrationSet
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.quantize import WEIGHTED

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

IMAGES: Final = 8
_DEQUANTIZED: Final = "_DequantizeLinear_Output"


def noise_by_layer(model: FloatModel, quantized: bytes, samples: CalibrationSet) -> dict[str, float]:
    """Decibels by the name of each layer with weights, in the graph's order; ``quantized``: a QDQ graph made from ``model``.

    A layer whose output the quantizer has renamed beyond recognition is left out.
    """
    import numpy as np
    import onnx

    whole, cut = onnx.load_from_string(model.content), onnx.load_from_string(quantized)
    pairs = _pairs(whole.graph, cut.graph)
    one = _tapped(whole, [pair[0] for pair in pairs.values()])
    other = _tapped(cut, [pair[1] for pair in pairs.values()])
    energy, error = np.zeros(len(pairs)), np.zeros(len(pairs))
    for tensor in samples.some(IMAGES).tensors():
        for place, (want, have) in enumerate(zip(one.run([tensor]), other.run([tensor]), strict=True)):
            energy[place] += np.square(want, dtype=np.float64).sum()
            error[place] += np.square(np.subtract(have, want, dtype=np.float64)).sum()
    ratios = error / np.maximum(energy, 1e-30)
    return {layer: round(decibel(float(ratio)), 2) for layer, ratio in zip(pairs, ratios, strict=True)}


def _pairs(whole: GraphProto, cut: GraphProto) -> dict[str, tuple[str, str]]:
    """Per layer a tensor of the float graph and the one that stands for it in the quantized graph."""
    there = {name for node in cut.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in whole.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, tuple[str, str]] = {}
    for node in whole.node:
        if node.op_type not in WEIGHTED:
            continue
        # The quantizer drops a ReLU whose range begins at zero; the convolution then has the ReLU's output.
        after = readers.get(node.output[0], [])
        names = [node.output[0], *(after[0].output if len(after) == 1 else [])]
        for name in names:
            match = next((each for each in (name + _DEQUANTIZED, name) if each in there), None)
            if match:
                found[node.name] = name, match
                break
    return found


def _tapped(model: ModelProto, names: list[str]) -> OnnxSession:
    import onnx

    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return OnnxSession(model.SerializeToString(), optimised=False)
