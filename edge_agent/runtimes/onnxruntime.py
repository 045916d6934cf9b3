"""ONNX Runtime on the CPU. Set ``ORT_DISABLE_TELEMETRY=1`` before this module is imported: newer releases write a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as binding

from edge_agent.runtimes import InferenceFailed
from fleet_protocol.errors import ModelNotLoadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fleet_protocol.manifest import Manifest, TensorSpec

_NO_FOLDER: Final = "/proc/self/no-external-data"
_FATAL_ONLY: Final = 4
_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
# The binding's exceptions share no base below Exception, so each is named by what it is: an exception of that module.
_ORT_ERRORS: Final[tuple[type[Exception], ...]] = (
    RuntimeError,
    ValueError,
    *(each for each in vars(binding).values() if isinstance(each, type) and issubclass(each, Exception)),
)
_RUN_ERRORS: Final[tuple[type[Exception], ...]] = (MemoryError, *_ORT_ERRORS)


class OnnxRuntime:
    """Loads ONNX models from bytes; standard and com.microsoft operators only, nothing outside the bytes."""

    @staticmethod
    def load(model: bytes, manifest: Manifest, threads: int) -> OnnxSession:
        """Raises ModelNotLoadable: not ONNX, unknown operator, external data, or other tensors than the manifest's.

        Raises MemoryError where the process may not have as much as the model needs.
        """
        try:
            session = ort.InferenceSession(
                model, _options(threads), providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except _ORT_ERRORS as error:
            if "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise ModelNotLoadable(f"ONNX Runtime {ort.__version__} refuses the model: {_sentence(error)}") from error
        # It keeps the plaintext for a fallback to other providers, which is switched off: one copy less in memory.
        session._model_bytes = None  # noqa: SLF001
        _check_tensors("input", session.get_inputs(), manifest.inputs)
        _check_tensors("output", session.get_outputs(), manifest.outputs)
        return OnnxSession(session, manifest)


class OnnxSession:
    """A loaded model whose input and outputs stay in the same memory from frame to frame."""

    def __init__(self, session: ort.InferenceSession, manifest: Manifest) -> None:
        spec = manifest.inputs[0]
        self._session = session
        self._input = ort.OrtValue.ortvalue_from_numpy(np.zeros(spec.shape, spec.dtype))
        self._outputs = [
            ort.OrtValue.ortvalue_from_shape_and_type(list(each.shape), np.dtype(each.dtype).type, "cpu")
            for each in manifest.outputs
        ]
        self._dtype, self._shape = np.dtype(spec.dtype), spec.shape
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(spec.name, self._input)
        for each, value in zip(manifest.outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(each.name, value)

    def run(self, tensor: NDArray[Any]) -> list[NDArray[Any]]:
        """See :class:`edge_agent.runtimes.Session`."""
        if tensor.shape != self._shape:
            raise InferenceFailed(f"the model takes {list(self._shape)}, got {list(tensor.shape)}")
        try:
            self._input.update_inplace(np.ascontiguousarray(tensor, self._dtype))
            self._session.run_with_iobinding(self._binding)
        except _RUN_ERRORS as error:
            raise InferenceFailed(_sentence(error)) from error
        return [value.numpy() for value in self._outputs]


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # What goes wrong comes back as an exception; a line per frame on stderr would fill the journal.
    options.log_severity_level = _FATAL_ONLY
    # Measured: without this entry, external data of a model loaded from bytes is read from the working directory.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    return options


def _check_tensors(kind: str, found: Sequence[Any], specs: tuple[TensorSpec, ...]) -> None:
    have = {each.name: (_DTYPES.get(each.type, each.type), tuple(each.shape)) for each in found}
    want = {spec.name: (spec.dtype, spec.shape) for spec in specs}
    if have != want:
        raise ModelNotLoadable(f"the manifest promises the {kind}s {want}, the model has {have}")


def _sentence(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
