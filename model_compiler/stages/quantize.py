"""Stage 5: int8 candidates as QDQ graphs: weights signed per channel, activations unsigned, ranges from one calibration."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.normalise import FloatModel

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

CLIPPINGS: Final[dict[str, float]] = {
    "min-max": 1.0,
    "p99.999": 0.99999,
    "p99.99": 0.9999,
    "p99.95": 0.9995,
    "p99.9": 0.999,
}
"""Percentiles: shares of values kept inside the range on each side. No single one wins: on PP-LCNet min-max loses 12 points of
accuracy, 99.95 loses 2; on EfficientNet 99.9 loses 10, min-max 1."""

LEAST_ERROR: Final = "mse"
"""The clipping that is chosen for every activation apart: of the percentiles the one that its histogram says costs least."""

OPERATORS: Final = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm", "GlobalAveragePool", "LeakyRelu",
    "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Not Softmax and Sigmoid: they cost nothing in float, and a confidence in steps of 1/256 is worth less."""


WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that gain by integers; the others are quantized so that the tensors between these need no conversion. (Only these
alone, measured: EfficientNet is 1.6 times slower and loses 9 dB, as what lies before a ReLU6 is cut into steps.)"""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to quantize: how activations are clipped, and the nodes that stay in float, sorted."""

    clipping: str = "min-max"
    excluded: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """``qdq-u8s8-p99.99``; ``qdq-u8s8-p99.99-3.a1f0`` where three nodes stay in float, with a mark of which."""
        mark = hashlib.sha256("\n".join(self.excluded).encode()).hexdigest()[:4]
        return f"qdq-u8s8-{self.clipping}{f'-{len(self.excluded)}.{mark}' if self.excluded else ''}"

    def without(self, node: str) -> Scheme:
        """The same with one more node in float."""
        return replace(self, excluded=tuple(sorted({*self.excluded, node})))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to make a variant: the runtime's file, and the name of the way."""

    method: str
    model: bytes


def activations(model: FloatModel) -> tuple[str, ...]:
    """Names of the tensors whose ranges :func:`candidates` needs, in the graph's order."""
    import onnx

    graph = onnx.load_from_string(model.content).graph
    weights = {each.name for each in graph.initializer}
    named = (name for node in graph.node if node.op_type in OPERATORS for name in (*node.input, *node.output))
    floats = {each.name for each in (*graph.value_info, *graph.output, *graph.input) if _is_float(each)}
    return tuple(dict.fromkeys(name for name in named if name not in weights and name in floats))


def candidates(model: FloatModel, ranges: Ranges) -> list[Candidate]:
    """What every quantizer makes by default; the search goes on from there where that does not suffice."""
    return [build(model, ranges, Scheme())]


def clipped(ranges: Ranges, clipping: str) -> dict[str, tuple[float, float]]:
    """The range of every activation under one of ``CLIPPINGS`` or ``LEAST_ERROR``."""
    if clipping == LEAST_ERROR:
        return ranges.least_error(tuple(CLIPPINGS.values()))
    return ranges.clipped(CLIPPINGS[clipping])


def build(model: FloatModel, ranges: Ranges, scheme: Scheme) -> Candidate:
    """The QDQ graph of ``scheme``: about a third of a second for small models, no calibration is repeated."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    quantizer = QDQQuantizer(
        model=onnx.load_from_string(model.content),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=_as_tensors_data(clipped(ranges, scheme.clipping)),
        nodes_to_quantize=[],
        nodes_to_exclude=list(scheme.excluded),
        op_types_to_quantize=list(OPERATORS),
        extra_options={"WeightSymmetric": True},
    )
    # It warns of channels without weights; the evaluation judges what comes of them.
    logging.getLogger().addFilter(_is_not_of_the_quantizer)
    try:
        quantizer.quantize_model()
    finally:
        logging.getLogger().removeFilter(_is_not_of_the_quantizer)
    quantized: ModelProto = quantizer.model.model
    del quantized.metadata_props[:]
    quantized.producer_name, quantized.producer_version = "edgefleet", ""
    return Candidate(scheme.method, quantized.SerializeToString(deterministic=True))


def _is_not_of_the_quantizer(record: logging.LogRecord) -> bool:
    return "onnxruntime" not in record.pathname


def layers(model: FloatModel) -> dict[str, int]:
    """The nodes with weights, by name in the graph's order, with the multiplications that each makes per frame."""
    import onnx

    graph = onnx.load_from_string(model.content).graph
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
    return {node.name: _products(node, shapes) for node in graph.node if node.op_type in WEIGHTED}


def tail(model: FloatModel) -> tuple[str, ...]:
    """The nodes between the last layers with weights and the outputs: they cost little, and what they join may need float.

    A detector joins scores below 1 with offsets of 10; one scale for both leaves the scores six bits or fewer.
    """
    import onnx

    graph = onnx.load_from_string(model.content).graph
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, str] = {}
    waiting = [each.name for each in graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type not in WEIGHTED and node.name not in found:
            found[node.name] = node.op_type
            waiting.extend(node.input)
    return tuple(sorted(name for name, operator in found.items() if operator in OPERATORS))


def _products(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Every weight is used once per position: of the output for convolutions, of the input for transposed ones."""
    source, weight, out = (shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "MatMul":
        return math.prod(out) * (source[-1] if source else 1)
    if node.op_type == "Gemm":
        return math.prod(weight)
    return math.prod(weight) * math.prod((out if node.op_type == "Conv" else source)[2:])


def _as_tensors_data(ranges: dict[str, tuple[float, float]]) -> Any:
    import numpy as np
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

    # Zero must be representable exactly: padding and ReLU make many of them.
    limits = {
        name: TensorData(lowest=np.float32(min(low, 0.0)), highest=np.float32(max(high, 0.0)))
        for name, (low, high) in ranges.items()
    }
    return TensorsData(CalibrationMethod.MinMax, limits)


def _is_float(value: Any) -> bool:
    import onnx

    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
