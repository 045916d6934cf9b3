"""Stage 5: int8 candidates as QDQ graphs: weights signed per channel, activations unsigned, ranges from one calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.normalise import FloatModel

if TYPE_CHECKING:
    from onnx import ModelProto

CLIPPINGS: Final[dict[str, float]] = {
    "min-max": 1.0,
    "p99.999": 0.99999,
    "p99.99": 0.9999,
    "p99.95": 0.9995,
    "p99.9": 0.999,
}
"""Percentiles: shares of values kept inside the range on each side. No single one wins: on PP-LCNet min-max loses 12 points of
accuracy, 99.95 loses 2; on EfficientNet 99.9 loses 10, min-max 1."""

OPERATORS: Final = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm", "GlobalAveragePool", "LeakyRelu",
    "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Not Softmax and Sigmoid: they cost nothing in float, and a confidence in steps of 1/256 is worth less."""


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
    """One candidate per clipping, least clipped first. Rebuilding costs a third of a second, no calibration is repeated."""
    return [Candidate(f"qdq-u8s8-{name}", _quantize(model, ranges.clipped(share))) for name, share in CLIPPINGS.items()]


def _quantize(model: FloatModel, ranges: dict[str, tuple[float, float]]) -> bytes:
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    quantizer = QDQQuantizer(
        model=onnx.load_from_string(model.content),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=_as_tensors_data(ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={"WeightSymmetric": True},
    )
    quantizer.quantize_model()
    quantized: ModelProto = quantizer.model.model
    del quantized.metadata_props[:]
    quantized.producer_name, quantized.producer_version = "edgefleet", ""
    content: bytes = quantized.SerializeToString(deterministic=True)
    return content


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
