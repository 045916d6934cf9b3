"""LiteRT (TensorFlow Lite) on the CPU, made without TensorFlow: onnx2tf in a process of its own, then ai-edge-quantizer.

Its files take pictures interleaved (NHWC); outputs are kept as the ONNX model lays them out.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fleet_protocol.board import RuntimeName
from fleet_protocol.errors import ModelNotLoadable
from fleet_protocol.manifest import MODEL_PART, Precision, Preprocessing, TensorSpec
from model_compiler.errors import MissingExtra, UnsupportedModel
from model_compiler.isolated import alone
from model_compiler.samples import CalibrationSet
from model_compiler.stages import parity
from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.quantize import Candidate
from model_compiler.targets.openvino import spec_of
from model_compiler.targets.refusals import refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUNTIME: Final[RuntimeName] = "litert"
PREFIX: Final = "tfl"
PACKAGES: Final = ("ai-edge-litert", "ai-edge-quantizer", "onnx2tf")
PRECISIONS: Final[frozenset[Precision]] = frozenset({"fp32", "fp16", "int8"})
CALIBRATED: Final[frozenset[Precision]] = frozenset()

CONVERSION_LIMIT_S: Final = 600.0
IMAGES: Final = 100
_BATCH: Final = 16
_IN_FLOAT: Final = ("PADV2", "HARD_SWISH", "INPUT", "OUTPUT")
"""PADV2 in integers makes a file that the runtime refuses; HARD_SWISH has no fast integer form (PP-LCNet: 21.7 ms in integers,
1.4 ms in float); inputs and outputs stay float, as the manifest promises for all runtimes."""
_WEIGHTED: Final = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED", "BATCH_MATMUL"})
_SCHEMES: Final = {"aeq-wi8-ai8": frozenset[str](), "aeq-wi8-ai8-weighted": _WEIGHTED}
"""Per method the operators that are computed in integers; empty: all that can be."""
_SIGNATURE: Final = "serving_default"
_STDERR: Final = 2
_FIRST: Final = threading.Lock()
_GREETED: Final = threading.Event()


def candidates(
    model: FloatModel, precision: Precision, ranges: Ranges | None, samples: CalibrationSet
) -> list[Candidate]:
    """fp32: the converted model. fp16: its weights halved. int8: per channel, all operators or those with weights."""
    del ranges
    content = _converted(model)
    if precision == "fp32":
        parity.check_conversion(model.content, open_session(content, threads=1, optimised=True), samples, "LiteRT")
        return [Candidate("float", content)]
    if precision == "fp16":
        return [Candidate("half", alone(_halved, content))]
    shown = CalibrationSet(samples.some(IMAGES).pictures, preprocessing(samples.wanted))
    return [Candidate(method, made) for method, made in alone(_quantized, content, shown).items()]


def from_qdq(model: bytes) -> None:
    """None: a QDQ graph of ONNX has no TensorFlow Lite form here."""
    del model


def open_session(model: bytes, *, threads: int, optimised: bool) -> LiteRtSession:
    """Load ``model``; ``optimised=False``: without the XNNPACK delegate. Raises ModelNotLoadable."""
    return LiteRtSession(model, threads=threads, optimised=optimised)


def preprocessing(wanted: Preprocessing) -> Preprocessing:
    """The same, interleaved."""
    return msgspec.structs.replace(wanted, layout="nhwc")


def joined(steps: bytes, model: bytes) -> None:
    """None: what is ONNX cannot be put in front of what is quantized already."""
    del steps, model


def parts(model: bytes) -> list[tuple[str, bytes]]:
    """One file."""
    return [(MODEL_PART, model)]


class LiteRtSession:
    """A model with an interpreter per thread, as an interpreter is not to be shared."""

    def __init__(self, model: bytes, *, threads: int = 1, optimised: bool = True) -> None:
        """Raises ModelNotLoadable."""
        self._model, self._threads, self._optimised = model, threads, optimised
        self._own = threading.local()
        self._interpreter()

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Every output for one frame; raises ModelNotLoadable where the runtime refuses to compute."""
        interpreter = self._interpreter()
        details = interpreter.get_input_details()
        try:
            for each, tensor in zip(details, inputs, strict=True):
                interpreter.set_tensor(each["index"], _laid_out(tensor, tuple(each["shape"])))
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise ModelNotLoadable(f"LiteRT cannot run the model: {_first_line(error)}") from error
        return [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]

    def output_specs(self, inputs: Sequence[NDArray[Any]]) -> tuple[TensorSpec, ...]:
        """Name, type and shape of every output; raises UnsupportedModel on a type that a manifest cannot hold."""
        pairs = zip(self._interpreter().get_output_details(), self.run(inputs), strict=True)
        return tuple(spec_of(detail["name"], tensor) for detail, tensor in pairs)

    def _interpreter(self) -> Any:
        if not hasattr(self._own, "interpreter"):
            self._own.interpreter = _opened(self._model, self._threads, optimised=self._optimised)
        return self._own.interpreter


def _opened(model: bytes, threads: int, *, optimised: bool) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.AUTO if optimised else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = Interpreter(model_content=model, num_threads=threads, experimental_op_resolver_type=resolver)
        with _greeting_unheard():
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelNotLoadable(f"LiteRT cannot load the model: {_first_line(error)}") from error
    return interpreter


@contextlib.contextmanager
def _greeting_unheard() -> Iterator[None]:
    """The first delegate of a process announces itself on stderr, which no option prevents; later ones are silent."""
    with _FIRST:
        if _GREETED.is_set():
            told = None
        else:
            _GREETED.set()
            told, nowhere = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STDERR)
            os.close(nowhere)
        try:
            yield
        finally:
            if told is not None:
                os.dup2(told, _STDERR)
                os.close(told)


def _laid_out(tensor: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    import numpy as np

    if tensor.shape == shape or tensor.ndim != 4:
        return tensor
    return np.ascontiguousarray(tensor.transpose(0, 2, 3, 1))


@functools.lru_cache(maxsize=2)
def _converted(model: FloatModel) -> bytes:
    """The float32 file; raises UnsupportedModel with the operator that onnx2tf stumbled over, MissingExtra without it."""
    if importlib.util.find_spec("onnx2tf") is None:
        raise MissingExtra(
            "variants for LiteRT need onnx2tf; pip install --no-deps --ignore-requires-python onnx2tf==2.6.9 sne4onnx sng4onnx"
        )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.onnx").write_bytes(_with_fixed_outputs(model))
        # It changes the process that imports it (other packages, the random state): only as a program of its own.
        command = [
            sys.executable, "-m", "onnx2tf", "-i", "model.onnx", "-o", "made", "-tb", "flatbuffer_direct", "-n",
            *(["-kat", model.input.name] if model.input.shape[1] > model.input.shape[3] else []),
        ]  # fmt: skip
        quiet = {**os.environ, "HOME": folder, "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            ended = subprocess.run(
                command, cwd=folder, env=quiet, capture_output=True, check=False, timeout=CONVERSION_LIMIT_S
            )
        except subprocess.TimeoutExpired as error:
            raise UnsupportedModel(f"onnx2tf did not end within {CONVERSION_LIMIT_S:g} s") from error
        made = Path(folder) / "made" / "model_float32.tflite"
        if ended.returncode != 0 or not made.is_file():
            raise refusal("onnx2tf", model.content, (ended.stdout + ended.stderr).decode(errors="replace"))
        content = made.read_bytes()
    try:
        # What it does not know it writes down as an operator of its own, which no runtime has.
        _opened(content, 1, optimised=True)
    except ModelNotLoadable as error:
        raise refusal("LiteRT", model.content, str(error)) from error
    return content


def _with_fixed_outputs(model: FloatModel) -> bytes:
    """The model with every output of more than two dimensions flattened and shaped again, so that it keeps its layout."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    changed = onnx.load_from_string(model.content)
    graph = changed.graph
    for number, spec in enumerate(model.outputs):
        if len(spec.shape) <= 2:
            continue
        for node in graph.node:
            node.output[:] = [f"{name}_before" if name == spec.name else name for name in node.output]
            node.input[:] = [f"{name}_before" if name == spec.name else name for name in node.input]
        flat, shape = (f"edgefleet_{kind}_{number}" for kind in ("flat", "shape"))
        graph.initializer.append(numpy_helper.from_array(np.array([1, -1], np.int64), f"{flat}_of"))
        graph.initializer.append(numpy_helper.from_array(np.array(spec.shape, np.int64), shape))
        graph.node.append(helper.make_node("Reshape", [f"{spec.name}_before", f"{flat}_of"], [flat], name=flat))
        graph.node.append(helper.make_node("Reshape", [flat, shape], [spec.name], name=f"{flat}_shaped"))
    content: bytes = changed.SerializeToString(deterministic=True)
    return content


def _halved(model: bytes) -> bytes:
    from ai_edge_quantizer import qtyping, quantizer

    halves = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
    )
    made = quantizer.Quantizer(model)
    made.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=halves,
        algorithm_key="float_casting",
    )
    return bytes(made.quantize().quantized_model)


def _quantized(model: bytes, samples: CalibrationSet) -> dict[str, bytes]:
    """One file per entry of ``_SCHEMES``, from one calibration."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer

    (name,) = Interpreter(model_content=model).get_signature_list()[_SIGNATURE]["inputs"]
    widest = quantizer.Quantizer(model)
    _follow(widest, _SCHEMES["aeq-wi8-ai8"])
    seen: Any = None
    try:
        # It makes a list of what it is given, so it is given little at a time.
        for start in range(0, len(samples.pictures), _BATCH):
            batch = samples.pictures[start : start + _BATCH]
            seen = widest.calibrate({_SIGNATURE: [{name: samples.tensor(each)} for each in batch]}, seen, num_threads=1)
        return {method: _file(model, integers, seen) for method, integers in _SCHEMES.items()}
    except (RuntimeError, ValueError) as error:
        raise UnsupportedModel(f"ai-edge-quantizer cannot quantize the model: {_first_line(error)}") from error


def _file(model: bytes, integers: frozenset[str], seen: Any) -> bytes:
    from ai_edge_quantizer import quantizer

    made = quantizer.Quantizer(model)
    _follow(made, integers)
    return bytes(made.quantize(seen).quantized_model)


def _follow(made: Any, integers: frozenset[str]) -> None:
    """Set the recipe: 8 bits for weights (per channel) and activations of the operators in ``integers`` (empty: of all)."""
    from ai_edge_quantizer import qtyping, recipe

    made.load_quantization_recipe(recipe.static_wi8_ai8())
    for operator in qtyping.TFLOperationName:
        is_kept = integers and operator.name not in integers and operator.name != "ALL_SUPPORTED"
        if is_kept or operator.name in _IN_FLOAT:
            made.update_quantization_recipe(regex=".*", operation_name=operator, algorithm_key="no_quantize")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
