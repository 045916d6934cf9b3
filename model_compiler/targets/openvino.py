"""OpenVINO on the CPU: fp32 and fp16 as IR, int8 by NNCF or from the quantized ONNX graph; always judged in pinned precision.

A candidate is OpenVINO's two files end to end: the XML, which ends with ``</net>``, then the weights.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.board import RuntimeName
from fleet_protocol.errors import ModelNotLoadable
from fleet_protocol.manifest import ITEM_BYTES, MODEL_PART, WEIGHTS_PART, Precision, Preprocessing, TensorSpec
from model_compiler.errors import UnsupportedModel, UnwantedVariant
from model_compiler.isolated import alone
from model_compiler.samples import CalibrationSet
from model_compiler.stages import parity, quantize
from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.quantize import Candidate
from model_compiler.targets.refusals import refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUNTIME: Final[RuntimeName] = "openvino"
PREFIX: Final = "ov"
PACKAGES: Final = ("openvino", "nncf")
PRECISIONS: Final[frozenset[Precision]] = frozenset({"fp32", "fp16", "int8"})
CALIBRATED: Final[frozenset[Precision]] = frozenset({"int8"})

NNCF_PRESETS: Final = ("performance", "mixed")
NNCF_IMAGES: Final = 300
_END_OF_XML: Final = b"</net>"


def candidates(
    model: FloatModel, precision: Precision, ranges: Ranges | None, samples: CalibrationSet
) -> list[Candidate]:
    """fp32, fp16: the IR. int8: NNCF's two presets, then the QDQ graphs that ONNX Runtime would run."""
    if precision != "int8":
        content = alone(_converted, model.content, is_halved=precision == "fp16")
        if precision == "fp32":
            parity.check_conversion(
                model.content, open_session(content, threads=1, optimised=True), samples, "OpenVINO"
            )
        return [Candidate("float" if precision == "fp32" else "half", content)]
    if ranges is None:
        raise UnwantedVariant("int8 for OpenVINO needs calibrated ranges")
    shown = samples.some(NNCF_IMAGES)
    made = [Candidate(f"nncf-{preset}", alone(_quantized, model.content, preset, shown)) for preset in NNCF_PRESETS]
    return made + [Candidate(each.method, from_qdq(each.model)) for each in quantize.candidates(model, ranges)]


def from_qdq(model: bytes) -> bytes:
    """The IR of a QDQ graph, which OpenVINO runs in integers."""
    # In a process of its own: OpenVINO numbers the constants that it makes, from the start of the process.
    return alone(_converted, model, is_halved=False)


def open_session(model: bytes, *, threads: int, optimised: bool) -> OpenVinoSession:
    """Load ``model``; ``optimised=False``: quantized layers are computed in float. Raises ModelNotLoadable."""
    return OpenVinoSession(model, threads=threads, optimised=optimised)


def preprocessing(wanted: Preprocessing) -> Preprocessing:
    """As the recipe says."""
    return wanted


def joined(steps: bytes, model: bytes) -> bytes:
    """Both as one IR."""
    return alone(_joined_here, steps, model)


def parts(model: bytes) -> list[tuple[str, bytes]]:
    """XML and weights, one after the other as they lie in ``model``."""
    xml, weights = split(model)
    return [(MODEL_PART, xml), (WEIGHTS_PART, weights)]


def split(model: bytes) -> tuple[bytes, bytes]:
    """XML and weights; raises ModelNotLoadable where ``model`` is no such pair."""
    end = model.find(_END_OF_XML)
    if end < 0:
        raise ModelNotLoadable("not an OpenVINO model: its description does not end")
    cut = end + len(_END_OF_XML)
    return model[:cut], model[cut:]


class OpenVinoSession:
    """A compiled model, float32 wherever it is not quantized: on some CPUs the default would be bfloat16."""

    def __init__(self, model: bytes, *, threads: int = 1, optimised: bool = True) -> None:
        """Raises ModelNotLoadable."""
        import openvino

        xml, weights = split(model)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if not optimised:
            settings["LP_TRANSFORMS_MODE"] = "NO"
        try:
            core = openvino.Core()
            self._model = core.compile_model(core.read_model(model=xml, weights=weights), "CPU", settings)
        except RuntimeError as error:  # OpenVINO raises nothing else
            raise ModelNotLoadable(f"OpenVINO cannot load the model: {_last_line(error)}") from error
        # A request is not to be shared between threads, the compiled model is.
        self._own = threading.local()

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Every output for one frame; raises ModelNotLoadable where the runtime refuses to compute."""
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        try:
            found = self._own.request.infer(list(inputs))
        except RuntimeError as error:
            raise ModelNotLoadable(f"OpenVINO cannot run the model: {_last_line(error)}") from error
        return [found[output].copy() for output in self._model.outputs]

    def output_specs(self, inputs: Sequence[NDArray[Any]]) -> tuple[TensorSpec, ...]:
        """Name, type and shape of every output; raises UnsupportedModel on a type that a manifest cannot hold."""
        pairs = zip(self._model.outputs, self.run(inputs), strict=True)
        return tuple(spec_of(output.get_any_name(), tensor) for output, tensor in pairs)


def spec_of(name: str, tensor: NDArray[Any]) -> TensorSpec:
    """How a manifest describes ``tensor``; raises UnsupportedModel where it cannot."""
    kind = str(tensor.dtype)
    if kind not in ITEM_BYTES or not tensor.shape:
        raise UnsupportedModel(f"tensor {name!r} is {kind} {list(tensor.shape)}; a numeric type and a shape are needed")
    return TensorSpec(name=name, dtype=kind, shape=tensor.shape)  # type: ignore[arg-type]  # one of ITEM_BYTES


def _converted(model: bytes, *, is_halved: bool) -> bytes:
    import openvino

    try:
        return _saved(openvino.Core().read_model(model=model), is_halved=is_halved)
    except RuntimeError as error:
        raise refusal("OpenVINO", model, str(error)) from error


def _quantized(model: bytes, preset: str, samples: CalibrationSet) -> bytes:
    import nncf
    import openvino

    quantized = nncf.quantize(
        openvino.Core().read_model(model=model),
        nncf.Dataset(samples.pictures, samples.tensor),
        preset=nncf.QuantizationPreset(preset),
        subset_size=len(samples.pictures),
    )
    return _saved(quantized, is_halved=False)


def _joined_here(steps: bytes, model: bytes) -> bytes:
    import openvino

    core = openvino.Core()
    xml, weights = split(model)
    first, second = core.read_model(model=steps), core.read_model(model=xml, weights=weights)
    source = first.get_results()[0].input_value(0)
    for consumer in second.get_parameters()[0].output(0).get_target_inputs():
        consumer.replace_source_output(source)
    # Whole as it was: what is halved stays so.
    return _saved(openvino.Model(second.get_results(), first.get_parameters(), "baked"), is_halved=False)


def _saved(model: Any, *, is_halved: bool) -> bytes:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=is_halved)
        return path.read_bytes().rstrip() + path.with_suffix(".bin").read_bytes()


def _last_line(error: Exception) -> str:
    # OpenVINO names its own source files first and the reason last.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
