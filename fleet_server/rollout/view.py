"""What the planner looks at: one rollout, its waves, the devices it has assigned, and those it may assign next.

Values only; ``services/rollout_rows.py`` reads them from the registry, tests write them down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fleet_protocol.errors import StateTimedOut
from fleet_protocol.identifiers import DeviceId, Digest
from fleet_protocol.states import UNSUCCESSFUL, DeploymentState
from fleet_server.rollout.policy import Policy


class RolloutState(StrEnum):
    """Of a whole rollout."""

    DRAFT = "DRAFT"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    FINISHED = "FINISHED"
    ABORTED = "ABORTED"
    ROLLED_BACK = "ROLLED_BACK"


class WaveState(StrEnum):
    """Of one wave. HELD: the evidence neither passes nor breaches. PAUSED: breached, and a person decides."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    BAKING = "BAKING"
    PASSED = "PASSED"
    HELD = "HELD"
    BREACHED = "BREACHED"
    PAUSED = "PAUSED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"


LIVE: Final = frozenset({RolloutState.RUNNING, RolloutState.PAUSED})
"""Only rollouts in these states are planned."""
UNDER_TEST: Final = frozenset({WaveState.RUNNING, WaveState.BAKING, WaveState.HELD})
"""Waves whose evidence still decides something."""
TURNED_BACK: Final = frozenset({WaveState.ROLLING_BACK, WaveState.ROLLED_BACK})


class Custody(StrEnum):
    """Who decides what the device's slot shall serve now."""

    OURS = "ours"
    RETURNED = "returned"
    OTHER = "other"


class Outcome(StrEnum):
    """What an attempt has come to. WITHDRAWN: the device was revoked; it is evidence of nothing."""

    QUEUED = "queued"
    UNDERWAY = "underway"
    UNCONFIRMED = "unconfirmed"
    SUCCESS = "success"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    WITHDRAWN = "withdrawn"


IN_FLIGHT: Final = frozenset({Outcome.QUEUED, Outcome.UNDERWAY, Outcome.UNCONFIRMED})
LOST: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT})


@dataclass(frozen=True, slots=True)
class Member:
    """A device that the rollout has assigned. ``heard_at``: when its newest heartbeat came in."""

    device: DeviceId
    wave: int
    manifest: Digest
    previous: Digest | None
    state: DeploymentState
    code: str
    assigned_at: float
    state_since: float
    confirmed_at: float | None
    restored_at: float | None
    heard_at: float | None
    custody: Custody
    is_active: bool

    @property
    def outcome(self) -> Outcome:
        """Success needs COMMITTED *and* heartbeats that serve the new digest (SPEC 8.5)."""
        if not self.is_active:
            return Outcome.WITHDRAWN
        if self.code == StateTimedOut.code:
            return Outcome.TIMED_OUT
        if self.state in UNSUCCESSFUL:
            return Outcome.FAILED
        if self.state is DeploymentState.COMMITTED:
            return Outcome.SUCCESS if self.confirmed_at is not None else Outcome.UNCONFIRMED
        return Outcome.QUEUED if self.state is DeploymentState.IDLE else Outcome.UNDERWAY

    @property
    def changes_nothing(self) -> bool:
        """Whether the device was already to serve this manifest before the rollout came."""
        return self.previous == self.manifest

    @property
    def must_be_returned(self) -> bool:
        """Whether its previous desired state, or none, can still be set again."""
        return self.is_active and self.custody is Custody.OURS and not self.changes_nothing

    @property
    def is_restored(self) -> bool:
        """Whether nothing is left to wait for after its previous desired state was set again."""
        if not self.is_active or self.changes_nothing or self.custody is Custody.OTHER:
            return True
        return self.custody is Custody.RETURNED and self.restored_at is not None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that the rollout would take next: its place in the order of opening and the variant that fits it."""

    device: DeviceId
    offset: int
    manifest: Digest


@dataclass(frozen=True, slots=True)
class WaveStand:
    """One wave as the registry has it."""

    number: int
    title: str
    window_end: int
    members: int
    state: WaveState
    opened_at: float | None = None
    baking_since: float | None = None
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One rollout at one moment. ``candidates``: active, matching, not yet assigned, in order of offset then id."""

    id: int
    state: RolloutState
    opened: int
    policy: Policy
    waves: tuple[WaveStand, ...]
    members: tuple[Member, ...]
    candidates: tuple[Candidate, ...]

    @property
    def current(self) -> WaveStand | None:
        """The wave that was opened and has neither passed nor been turned back."""
        over = TURNED_BACK | {WaveState.PENDING, WaveState.PASSED}
        return next((wave for wave in self.waves if wave.state not in over), None)

    @property
    def waiting(self) -> tuple[Candidate, ...]:
        """Candidates inside the open window. Late joiners of earlier waves are among them."""
        return tuple(candidate for candidate in self.candidates if candidate.offset < self.opened)

    def of_wave(self, wave: WaveStand) -> tuple[Member, ...]:
        """The devices that were assigned in ``wave``."""
        return tuple(member for member in self.members if member.wave == wave.number)


def tally(members: Iterable[Member]) -> Mapping[Outcome, int]:
    """How many members have come to what; absent outcomes read as 0."""
    return Counter(member.outcome for member in members)


def custody(
    manifest: Digest, rollout: int, *, desired: Digest | None, desired_by: int | None, is_live: bool
) -> Custody:
    """Who decides about the slot, from its ``desired`` row: ours while it names ``manifest``, returned once we replaced it.

    A rollout that is over does not claim a wish that a later one repeated.
    """
    if desired is None:
        return Custody.RETURNED
    if desired == manifest:
        return Custody.OURS if is_live or desired_by == rollout else Custody.OTHER
    return Custody.RETURNED if desired_by == rollout else Custody.OTHER
