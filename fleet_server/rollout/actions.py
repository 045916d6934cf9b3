"""What the planner may ask for. Each is carried out in one transaction, and asking twice does no harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from fleet_protocol.identifiers import DeviceId, Digest


@dataclass(frozen=True, slots=True)
class OpenWave:
    """Let the wave's devices in: PENDING to RUNNING, and the rollout's window up to ``opened``."""

    wave: int
    opened: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Make ``manifest`` the desired state of ``device``, as a member of ``wave``."""

    device: DeviceId
    wave: int
    manifest: Digest


@dataclass(frozen=True, slots=True)
class MarkTimedOut:
    """Stop waiting for ``device``; ``reason`` says for what and how long."""

    device: DeviceId
    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Make ``previous`` (None: nothing) the desired state of ``device`` again."""

    device: DeviceId
    previous: Digest | None


@dataclass(frozen=True, slots=True)
class BeginBake:
    """Every device of the wave has ended and enough are confirmed; from now on they have to stay so."""

    wave: int


@dataclass(frozen=True, slots=True)
class ResumeWave:
    """The evidence changed under a baking or held wave: back to RUNNING, its bake starts anew."""

    wave: int


@dataclass(frozen=True, slots=True)
class PassWave:
    wave: int
    verdict: str


@dataclass(frozen=True, slots=True)
class HoldWave:
    wave: int
    verdict: str


@dataclass(frozen=True, slots=True)
class BreachWave:
    wave: int
    verdict: str


@dataclass(frozen=True, slots=True)
class PauseBreached:
    """The policy wants a person to decide about a breach: the wave and the rollout become PAUSED."""

    wave: int


@dataclass(frozen=True, slots=True)
class BeginRollback:
    """The wave's devices are to return to what they served before."""

    wave: int


@dataclass(frozen=True, slots=True)
class EndRollback:
    """Every device of the wave returned, or was waited for long enough; ``verdict`` says which."""

    wave: int
    verdict: str


@dataclass(frozen=True, slots=True)
class FinishRollout:
    """Every wave has passed."""


@dataclass(frozen=True, slots=True)
class FinishRolledBack:
    """Every opened wave is rolled back."""


Action: TypeAlias = (
    OpenWave
    | Assign
    | MarkTimedOut
    | RollBack
    | BeginBake
    | ResumeWave
    | PassWave
    | HoldWave
    | BreachWave
    | PauseBreached
    | BeginRollback
    | EndRollback
    | FinishRollout
    | FinishRolledBack
)
