"""Runtimes that a variant can be made for: one module each, found by the name that boards use.

A new runtime is one file here that keeps :class:`Target`'s promises, and one row in ``_MODULES``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from fleet_protocol.board import RuntimeName
from fleet_protocol.manifest import Precision, Preprocessing, TensorSpec
from model_compiler.errors import UnwantedVariant

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_compiler.samples import CalibrationSet
    from model_compiler.stages.calibrate import Ranges
    from model_compiler.stages.normalise import FloatModel
    from model_compiler.stages.quantize import Candidate

_MODULES: Final[dict[RuntimeName, str]] = {
    "onnxruntime": "model_compiler.targets.ort",
    "openvino": "model_compiler.targets.openvino",
    "litert": "model_compiler.targets.litert",
    "tflite-runtime": "model_compiler.targets.tflite_runtime",
    "edgetpu": "model_compiler.targets.vendor:EDGETPU",
    "hailo": "model_compiler.targets.vendor:HAILO",
    "tensorrt": "model_compiler.targets.vendor:TENSORRT",
}


class Session(Protocol):
    """A model loaded by its runtime. Answers depend on the inputs only; several threads may run it at once."""

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Every output for one frame; raises ModelNotLoadable.

        A tensor in the layout of the normalised model is laid out as this runtime's file takes it.
        """
        ...

    def output_specs(self, inputs: Sequence[NDArray[Any]]) -> tuple[TensorSpec, ...]:
        """Name, type and shape of every output, as a run on ``inputs`` gives them."""
        ...


class Target(Protocol):
    """A runtime. A module under ``targets/``, or a value in one, is one: these are its names."""

    RUNTIME: RuntimeName
    PREFIX: str
    """First part of a variant's name, e.g. ``ort`` in ``ort-int8``."""
    PACKAGES: tuple[str, ...]
    """Distributions whose versions change what is made."""
    PRECISIONS: frozenset[Precision]
    CALIBRATED: frozenset[Precision]
    """The precisions that need ranges."""

    def candidates(
        self, model: FloatModel, precision: Precision, ranges: Ranges | None, samples: CalibrationSet
    ) -> list[Candidate]:
        """Ways to make one variant, the one that changes the model least first.

        Raises UnwantedVariant, UnsupportedModel where the runtime's converter refuses the model, ParityBroken where what
        it made computes something else.
        """
        ...

    def from_qdq(self, model: bytes) -> bytes | None:
        """The runtime's file for a quantized ONNX graph; None where it cannot run such a graph in integers."""
        ...

    def open_session(self, model: bytes, *, threads: int, optimised: bool) -> Session:
        """Load a candidate on the true runtime; ``optimised=False``: the graph as written. Raises ModelNotLoadable."""
        ...

    def preprocessing(self, wanted: Preprocessing) -> Preprocessing:
        """What a device has to do for this runtime's files where the normalised model's input is made by ``wanted``."""
        ...

    def joined(self, steps: bytes, model: bytes) -> bytes | None:
        """A candidate with the ONNX graph ``steps`` in front of its input; None where its files cannot be joined so."""
        ...

    def parts(self, model: bytes) -> list[tuple[str, bytes]]:
        """A candidate's file as the named parts of a payload, in order (SPEC 3.2)."""
        ...


def target(runtime: RuntimeName) -> Target:
    """The target of ``runtime``; raises UnwantedVariant where this compiler has none, or not what it needs."""
    if runtime not in _MODULES:
        known = ", ".join(_MODULES)
        raise UnwantedVariant(f"this compiler makes variants for {known}, not for {runtime}; leave its boards out")
    module, _, name = _MODULES[runtime].partition(":")
    found = importlib.import_module(module)
    return cast("Target", getattr(found, name) if name else found)
