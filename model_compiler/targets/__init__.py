"""Runtimes that a variant can be made for: one module each, found by the name that boards use.

A new runtime is one file here that keeps :class:`Target`'s promises, and one row in ``_MODULES``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from fleet_protocol.board import RuntimeName
from fleet_protocol.manifest import Precision, TensorSpec
from model_compiler.errors import UnwantedVariant

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_compiler.stages.calibrate import Ranges
    from model_compiler.stages.normalise import FloatModel
    from model_compiler.stages.quantize import Candidate

_MODULES: Final[dict[RuntimeName, str]] = {"onnxruntime": "model_compiler.targets.ort"}


class Session(Protocol):
    """A model loaded by its runtime. Answers depend on the inputs only; several threads may run it at once."""

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Every output for one frame; raises ModelNotLoadable."""
        ...

    def output_specs(self, inputs: Sequence[NDArray[Any]]) -> tuple[TensorSpec, ...]:
        """Name, type and shape of every output, as a run on ``inputs`` gives them."""
        ...


class Target(Protocol):
    """A runtime. A module under ``targets/`` is one: these are its names."""

    RUNTIME: RuntimeName
    PREFIX: str
    """First part of a variant's name, e.g. ``ort`` in ``ort-int8``."""
    PACKAGES: tuple[str, ...]
    """Distributions whose versions change what is made."""
    PRECISIONS: frozenset[Precision]
    CALIBRATED: frozenset[Precision]
    """The precisions that need ranges."""

    def candidates(self, model: FloatModel, precision: Precision, ranges: Ranges | None) -> list[Candidate]:
        """Ways to make one variant, the one that changes the model least first."""
        ...

    def open_session(self, model: bytes, *, threads: int, optimised: bool) -> Session:
        """Load a candidate on the true runtime; ``optimised=False``: the graph as written. Raises ModelNotLoadable."""
        ...


def target(runtime: RuntimeName) -> Target:
    """The target of ``runtime``; raises UnwantedVariant where this compiler has none."""
    if runtime not in _MODULES:
        known = ", ".join(_MODULES)
        raise UnwantedVariant(f"this compiler makes variants for {known}, not for {runtime}; leave its boards out")
    return cast("Target", importlib.import_module(_MODULES[runtime]))
