"""ONNX Runtime on the CPU: fp32 as normalised, fp16 for size, int8 as QDQ graphs."""

from __future__ import annotations

import warnings
from typing import Final

from fleet_protocol.board import RuntimeName
from fleet_protocol.manifest import MODEL_PART, Precision, Preprocessing
from model_compiler import graph
from model_compiler.errors import UnwantedVariant
from model_compiler.onnx_session import OnnxSession
from model_compiler.samples import CalibrationSet
from model_compiler.stages import quantize
from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.quantize import Candidate

RUNTIME: Final[RuntimeName] = "onnxruntime"
PREFIX: Final = "ort"
PACKAGES: Final = ("onnxruntime", "onnxconverter-common")
PRECISIONS: Final[frozenset[Precision]] = frozenset({"fp32", "fp16", "int8"})
CALIBRATED: Final[frozenset[Precision]] = frozenset({"int8"})


def candidates(
    model: FloatModel, precision: Precision, ranges: Ranges | None, samples: CalibrationSet
) -> list[Candidate]:
    """fp32: the normalised model itself. fp16: its weights halved. int8: one candidate per clipping of ``ranges``."""
    del samples
    if precision == "fp32":
        return [Candidate("float", graph.lazy(model.content))]
    if precision == "fp16":
        return [Candidate("half", _halved(model))]
    if precision == "int8" and ranges is not None:
        found = quantize.candidates(model, ranges)
        return [Candidate(each.method, graph.lazy(each.model)) for each in found]
    raise UnwantedVariant(f"int8 needs calibrated ranges, and ONNX Runtime has no {precision} otherwise")


def from_qdq(model: bytes) -> bytes:
    """ONNX Runtime's own form of integers; a cascade's second model goes into a branch."""
    return graph.lazy(model)


def open_session(model: bytes, *, threads: int, optimised: bool) -> OnnxSession:
    """Load ``model``; raises ModelNotLoadable."""
    return OnnxSession(model, threads=threads, optimised=optimised)


def preprocessing(wanted: Preprocessing) -> Preprocessing:
    """As the recipe says."""
    return wanted


def joined(steps: bytes, model: bytes) -> bytes:
    """The ONNX ``model`` with the graph ``steps`` in front of its only input."""
    import onnx

    first, joined = onnx.load_from_string(steps), onnx.load_from_string(model)
    (taken,) = joined.graph.input
    for node in joined.graph.node:
        node.input[:] = [first.graph.output[0].name if name == taken.name else name for name in node.input]
    nodes = list(joined.graph.node)
    del joined.graph.node[:]
    joined.graph.node.extend([*first.graph.node, *nodes])
    joined.graph.initializer.extend(first.graph.initializer)
    taken.CopyFrom(first.graph.input[0])
    content: bytes = joined.SerializeToString(deterministic=True)
    return content


def parts(model: bytes) -> list[tuple[str, bytes]]:
    """One file."""
    return [(MODEL_PART, model)]


def _halved(model: FloatModel) -> bytes:
    """The model in float16 with float32 inputs and outputs: half the size, on most CPUs no faster."""
    import onnx
    from onnxconverter_common import float16

    with warnings.catch_warnings():
        # It warns of every weight below float16's smallest number; the evaluation judges what that costs.
        warnings.simplefilter("ignore")
        halved = float16.convert_float_to_float16(onnx.load_from_string(model.content), keep_io_types=True)
    content: bytes = halved.SerializeToString(deterministic=True)
    return content
