"""ONNX Runtime, opened in the one way that this compiler measures with: CPU, a fixed number of threads, from bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fleet_protocol.errors import ModelNotLoadable
from fleet_protocol.manifest import DType, TensorSpec
from model_compiler.errors import UnsupportedModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES: dict[str, DType] = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


def import_onnxruntime() -> Any:
    """The module; from 1.29 on it queues telemetry on disk unless it is told not to before it is imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


class OnnxSession:
    """A loaded model. May be run by several threads at once; answers depend on the inputs only."""

    def __init__(self, model: bytes, *, threads: int = 1, optimised: bool = True) -> None:
        """Load ``model``; ``optimised=False`` runs the graph as written. Raises ModelNotLoadable."""
        runtime = import_onnxruntime()
        self._failures = _failures(runtime)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not optimised:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except self._failures as error:
            raise ModelNotLoadable(
                f"ONNX Runtime {runtime.__version__} cannot load the model: {_first_line(error)}"
            ) from error
        self.input_names = tuple(each.name for each in self._session.get_inputs())
        self.output_names = tuple(each.name for each in self._session.get_outputs())

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Every output for one frame; raises ModelNotLoadable where the runtime refuses to compute."""
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, dict(zip(self.input_names, inputs, strict=True)))
        except self._failures as error:
            raise ModelNotLoadable(f"ONNX Runtime cannot run the model: {_first_line(error)}") from error
        return outputs

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Name, type and shape of each input; raises UnsupportedModel on a type or shape that a manifest cannot hold."""
        return tuple(_spec(each.name, each.type, each.shape) for each in self._session.get_inputs())

    def output_specs(self, inputs: Sequence[NDArray[Any]]) -> tuple[TensorSpec, ...]:
        """The same for the outputs; their shapes are taken from a real run, as models often do not declare them."""
        outputs = zip(self._session.get_outputs(), self.run(inputs), strict=True)
        return tuple(_spec(declared.name, declared.type, tensor.shape) for declared, tensor in outputs)


def _spec(name: str, kind: str, shape: Sequence[object]) -> TensorSpec:
    sides = tuple(side for side in shape if isinstance(side, int))
    if kind not in _DTYPES or len(sides) != len(shape) or not sides:
        raise UnsupportedModel(f"tensor {name!r} is {kind} {list(shape)}; a static shape and a numeric type are needed")
    return TensorSpec(name=name, dtype=_DTYPES[kind], shape=sides)


def _failures(runtime: Any) -> tuple[type[Exception], ...]:
    # The runtime has no base class of its own for what it raises.
    raised = vars(runtime.capi.onnxruntime_pybind11_state).values()
    return tuple(each for each in raised if isinstance(each, type) and issubclass(each, Exception))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
