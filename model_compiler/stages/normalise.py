"""Stage 2: from any ONNX model of images to the one form that every target starts from.

One float32 input of static shape, opset 17 to 20, IR 9, batch normalisation folded, every node named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fleet_protocol.manifest import Preprocessing, TensorSpec
from fleet_protocol.tasks import Postprocessing, objection
from model_compiler.errors import UnsupportedModel
from model_compiler.onnx_session import OnnxSession

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

MAX_ELEMENTS: Final = 1 << 27
OPSET: Final = 17
"""Per-channel QDQ needs 13; ONNX Runtime otherwise accepts the file in the quantizer and refuses it when it loads."""
_NEWEST_OPSET: Final = 20
_IR_VERSION: Final = 9
"""What ONNX Runtime 1.17 reads, the oldest that a board asks for. onnx itself would write 14, which even 1.28 refuses."""


@dataclass(frozen=True, slots=True)
class FloatModel:
    """A normalised model: ``content`` is its ONNX file; one input, its outputs' shapes seen in a real run."""

    content: bytes
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]


def normalise(model: ModelProto, wanted: Preprocessing, task: Postprocessing, path: Path) -> FloatModel:
    """Bring ``model`` into the common form; raises UnsupportedModel with what ``path`` or the recipe should change."""
    import numpy as np
    import onnx

    _fix_input(model, wanted, path)
    _refuse_giants(model, path)
    slim = _slim(model, path)
    raised = _raise_opset(slim, path)
    shaped = onnx.shape_inference.infer_shapes(raised, data_prop=True)
    _strip(shaped)
    content = shaped.SerializeToString(deterministic=True)
    session = OnnxSession(content)
    inputs = session.input_specs()
    outputs = session.output_specs([np.zeros(inputs[0].shape, np.float32)])
    _check_outputs(outputs, task, path)
    return FloatModel(content, inputs[0], outputs)


def _fix_input(model: ModelProto, wanted: Preprocessing, path: Path) -> None:
    # Old files list their weights among the inputs.
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(repr(each.name) for each in inputs) or "none"
        raise UnsupportedModel(f"{path} takes {len(inputs)} inputs ({names}); a model for images takes exactly one")
    channels = 1 if wanted.color == "gray" else 3
    planar = (1, channels, wanted.height, wanted.width)
    interleaved = (1, wanted.height, wanted.width, channels)
    _set_shape(inputs[0], planar if wanted.layout == "nchw" else interleaved, path)


def _set_shape(value: ValueInfoProto, shape: tuple[int, ...], path: Path) -> None:
    import onnx

    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise UnsupportedModel(f"{path}: input {value.name!r} is {kind}; export the model with a float32 input")
    declared = [side.dim_value if side.HasField("dim_value") else 0 for side in tensor.shape.dim]
    fits = len(declared) == len(shape) and all(old <= 0 or old == new for old, new in zip(declared, shape, strict=True))
    if not fits:
        raise UnsupportedModel(
            f"{path}: input {value.name!r} has shape {declared} (0 is free), the recipe's preprocessing makes {list(shape)}"
        )
    for side, new in zip(tensor.shape.dim, shape, strict=True):
        side.dim_value = new


def _refuse_giants(model: ModelProto, path: Path) -> None:
    """Folding computes what does not depend on the picture: a file of 200 bytes must not unpack to gigabytes."""
    import onnx

    try:
        known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UnsupportedModel(f"{path}: shapes do not fit together ({reason}); export the model again") from error
    makers = {name: node for node in known.node for name in node.output}
    for value in known.value_info:
        elements = math.prod(side.dim_value or 1 for side in value.type.tensor_type.shape.dim)
        if elements > MAX_ELEMENTS:
            node = makers[value.name]
            raise UnsupportedModel(
                f"{path}: layer {node.name or value.name!r} ({node.op_type}) makes {elements} numbers, at most {MAX_ELEMENTS} "
                "are taken; this is no model for an edge device"
            )


def _slim(model: ModelProto, path: Path) -> ModelProto:
    import onnxslim

    try:
        slim: ModelProto = onnxslim.slim(model)
    except Exception as error:  # onnxslim has no error class of its own
        raise UnsupportedModel(
            f"{path} cannot be simplified; export it with static shapes and opset {OPSET}"
        ) from error
    return slim


def _raise_opset(model: ModelProto, path: Path) -> ModelProto:
    from onnx import version_converter

    now = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
    if OPSET <= now <= _NEWEST_OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except RuntimeError as error:  # onnx.version_converter.ConvertError is one
        raise UnsupportedModel(
            f"{path} uses opset {now}, which cannot be brought to {OPSET}; export it with opset {OPSET}"
        ) from error


def _strip(model: ModelProto) -> None:
    """Leave in the file only what changes the result, so that equal models are equal bytes."""
    model.ir_version = _IR_VERSION
    model.producer_name, model.producer_version = "edgefleet", ""
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:]
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
        node.doc_string = ""


def _check_outputs(outputs: tuple[TensorSpec, ...], task: Postprocessing, path: Path) -> None:
    strange = next((each for each in outputs if each.dtype != "float32"), None)
    if strange:
        raise UnsupportedModel(
            f"{path}: output {strange.name!r} is {strange.dtype} {list(strange.shape)}; export the model with float32 outputs"
        )
    if reason := objection(task, tuple(each.shape for each in outputs)):
        raise UnsupportedModel(
            f"{path}: {reason}; name as many classes as the model has, and the task that it was made for"
        )
