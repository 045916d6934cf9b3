"""From TensorFlow Lite, OpenVINO IR or a PyTorch program to ONNX: converted in a process of its own, then compared."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.errors import ModelNotLoadable, WorkerDied
from model_compiler.errors import MalformedModel, MissingExtra, ParityBroken, UnsupportedModel
from model_compiler.isolated import alone
from model_compiler.onnx_session import OnnxSession
from model_compiler.sources import TITLES, Kind
from model_compiler.targets.litert import LiteRtSession
from model_compiler.targets.openvino import OpenVinoSession
from model_compiler.targets.refusals import telling_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from model_compiler.targets import Session

    Tensors = Sequence[NDArray[Any]]

TOLERANCE: Final = 1e-3
"""Largest difference, as a share of the largest output; conversions that are right differ by about 1e-6."""
_FRAMES: Final = 3
_SEED: Final = 20_26


def to_onnx(path: Path, kind: Kind, content: bytes, weights: bytes) -> ModelProto:
    """The model as ONNX that computes what its own runtime computes, outputs in the same order.

    Raises MalformedModel where the file is cut or damaged, UnsupportedModel with the operator that cannot be taken over,
    ParityBroken where the result computes something else.
    """
    import onnx

    title = TITLES[kind]
    if kind == "torch":
        return onnx.load_from_string(_converted(path, title, _from_torch, content))
    source = _opened(path, kind, content, weights)
    convert = _from_tflite if kind == "tflite" else _from_openvino
    model = onnx.load_from_string(_converted(path, title, convert, content, weights))
    _compare(path, title, source, model)
    return model


def _opened(path: Path, kind: Kind, content: bytes, weights: bytes) -> Session:
    try:
        return LiteRtSession(content) if kind == "tflite" else OpenVinoSession(content.rstrip() + weights)
    except ModelNotLoadable as error:
        raise MalformedModel(
            f"{path} is not an intact model in {TITLES[kind]} ({error}); export or copy it again"
        ) from error


def _converted(path: Path, title: str, convert: Any, *content: bytes) -> bytes:
    try:
        made: bytes = alone(convert, *content)
    except WorkerDied as error:
        raise UnsupportedModel(f"{path} broke the program that reads {title}; give the model as ONNX") from error
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{path}, {title}: {error}") from error
    return made


def _compare(path: Path, title: str, source: Session, model: ModelProto) -> None:
    """Bring the outputs of ``model`` into the source's order; raises ParityBroken where a frame of noise comes out otherwise."""
    import numpy as np

    noise = np.random.default_rng(_SEED)
    session = OnnxSession(model.SerializeToString())
    (spec,) = session.input_specs()
    order: list[int] = []
    for _ in range(_FRAMES):
        frame = noise.random(spec.shape, np.float32)
        expected, got = source.run([frame]), session.run([frame])
        order = order or [_nearest(each, got) for each in expected]
        worst = max(_difference(want, got[place]) for want, place in zip(expected, order, strict=True))
        if not worst <= TOLERANCE or len(set(order)) != len(got):
            raise ParityBroken(
                f"{path}: brought from {title} to ONNX it differs by {worst:.2g} of its largest output (at most {TOLERANCE}); "
                "give the model as ONNX"
            )
    outputs = [model.graph.output[place] for place in order]
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def _nearest(wanted: NDArray[Any], found: Tensors) -> int:
    return min(range(len(found)), key=lambda place: _difference(wanted, found[place]))


def _difference(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    import numpy as np

    if wanted.shape != found.shape:
        return float("inf")
    return float(np.abs(found - wanted).max() / max(1e-6, float(np.abs(wanted).max())))


def _from_tflite(content: bytes, _: bytes) -> bytes:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        try:
            return _graph(openvino.Core().read_model(path))
        except RuntimeError as error:
            raise UnsupportedModel(_reason(error)) from error


def _from_openvino(xml: bytes, weights: bytes) -> bytes:
    import openvino

    try:
        return _graph(openvino.Core().read_model(model=xml, weights=weights))
    except RuntimeError as error:
        raise UnsupportedModel(_reason(error)) from error


def _graph(model: Any) -> bytes:
    """ONNX for an OpenVINO model with one float32 input; a free batch becomes 1."""
    import openvino

    taken = model.inputs
    if len(taken) != 1 or taken[0].element_type != openvino.Type.f32:
        kinds = ", ".join(each.element_type.get_type_name() for each in taken)
        raise UnsupportedModel(
            f"it takes {len(taken)} inputs ({kinds}); one float32 picture is needed, not a quantized model"
        )
    shape = taken[0].partial_shape
    if shape.is_dynamic:
        if shape.rank.is_dynamic or any(side.is_dynamic for side in list(shape)[1:]):
            raise UnsupportedModel(f"its input has the free shape {shape}; export it with static sides")
        model.reshape([1, *(side.get_length() for side in list(shape)[1:])])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        import onnxifier

        try:
            content: bytes = onnxifier.convert(path, print_passes=False).SerializeToString(deterministic=True)
        except Exception as error:  # it lets its own assertions and KeyErrors out
            raise UnsupportedModel(
                f"an operator has no form in ONNX ({_reason(error)}); give the model as ONNX"
            ) from error
        return content


def _from_torch(content: bytes) -> bytes:
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it, and says so only when it is called
        import torch
    except ImportError as error:
        raise MissingExtra(
            "a PyTorch program needs PyTorch; install edgefleet[torch], or export the model to ONNX"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder) / "model.pt2", Path(folder) / "model.onnx"
        path.write_bytes(content)
        try:
            program = torch.export.load(path)
            torch.onnx.export(program, (), made, dynamo=True, external_data=False)
        except Exception as error:  # torch raises whatever its parts raise
            raise UnsupportedModel(f"torch {torch.__version__} cannot export it ({_reason(error)})") from error
        return made.read_bytes()


def _reason(error: Exception) -> str:
    return telling_line(str(error)) or type(error).__name__
