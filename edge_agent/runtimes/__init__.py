"""What can run a model on a device: one file per runtime, named in one table, imported only by the worker that needs it."""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from fleet_protocol.board import Board, RuntimeName
from fleet_protocol.errors import MalformedConfig, ModelNotLoadable
from fleet_protocol.fingerprint import Fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fleet_protocol.manifest import Manifest


class Session(Protocol):
    """A loaded model. Not thread-safe: one caller at a time."""

    def run(self, tensor: NDArray[Any]) -> list[NDArray[Any]]:
        """All outputs for one input, in the manifest's order; the arrays are overwritten by the next call.

        Raises InferenceFailed where the runtime refuses this input; the session stays usable.
        """
        ...


class Runtime(Protocol):
    """A way to load models; a class with this one method is the whole of a runtime's file."""

    @staticmethod
    def load(model: bytes, manifest: Manifest, threads: int) -> Session:
        """Load from memory. Raises ModelNotLoadable where the bytes are no such model or do not fit the manifest.

        Raises MemoryError where the model needs more memory than the process may have.
        """
        ...


class InferenceFailed(Exception):  # not a FleetError: it never leaves the worker, a frame's failure is a count
    """The runtime raised on one frame. ``str(error)`` is the runtime's first line."""


@dataclass(frozen=True, slots=True)
class RuntimeEntry:
    """Where a runtime is: the distribution that brings it, and ``module:class`` of the file here that drives it."""

    distribution: str
    path: str


RUNTIMES: Final[dict[RuntimeName, RuntimeEntry]] = {
    "onnxruntime": RuntimeEntry("onnxruntime", "edge_agent.runtimes.onnxruntime:OnnxRuntime"),
}


def runtime_for(name: str) -> Runtime:
    """Import the runtime called ``name``; raises ModelNotLoadable where this agent has none or it is not installed."""
    entry = RUNTIMES.get(cast("RuntimeName", name))
    if entry is None:
        raise ModelNotLoadable(f"this agent drives {', '.join(RUNTIMES)}, the model needs {name}")
    module, _, attribute = entry.path.partition(":")
    try:
        return cast("Runtime", getattr(importlib.import_module(module), attribute))
    except ImportError as error:
        raise ModelNotLoadable(f"the runtime {name} cannot be imported; install edgefleet[{name}]") from error


def measure_fingerprint(board: Board) -> Fingerprint:
    """What this device can run, measured without loading the runtime (SPEC 3.5).

    Raises MalformedConfig where the board's runtime is not installed or not driven by this agent.
    """
    name = board.runtime.name
    entry = RUNTIMES.get(name)
    if entry is None:
        raise MalformedConfig(f"board {board.name} asks for {name}, this agent drives {', '.join(RUNTIMES)}")
    try:
        installed = version(entry.distribution)
    except PackageNotFoundError as error:
        raise MalformedConfig(
            f"board {board.name} asks for {name}, which is not installed; install edgefleet[{name}]"
        ) from error
    return Fingerprint(board.name, name, installed, platform.machine())
