"""What the updater speaks of: an execution, the events that move it, the effects that it asks for (SPEC 8.1). Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import msgspec

from edge_agent.ports import BakeWindow
from edge_agent.records import ModelRecord
from fleet_protocol.assignment import Item
from fleet_protocol.identifiers import Digest, SlotName
from fleet_protocol.states import TERMINAL, DeploymentState


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one item of an assignment. ``version`` counts its reports; ``code`` is set with the verdict.

    ``since_s``: monotonic seconds of this run of the agent at which ``state`` was entered.
    """

    number: int
    slot: SlotName
    assignment_seq: int
    item: Item
    state: DeploymentState = DeploymentState.OFFERED
    version: int = 1
    attempts: int = 0
    since_s: float = 0.0
    code: str = ""
    detail: str = ""
    chunks_done: int = 0
    chunks_total: int = 0

    @property
    def digest(self) -> Digest:
        """The manifest that it wants served."""
        return Digest(self.item.target_sha256)

    @property
    def is_over(self) -> bool:
        """Whether its state can never move again."""
        return self.state in TERMINAL


# --- events -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Admitted:
    """The item was verified and its key opened (SPEC 6.5, 6.6): what to install, and the slot's security floor with it."""

    record: ModelRecord
    floor: int


@dataclass(frozen=True, slots=True)
class AlreadyServed:
    """The slot serves that manifest and it was committed before."""


@dataclass(frozen=True, slots=True)
class Ready:
    """There is room for the blob."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """``done`` of ``total`` chunks are on disk, verified."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Verified:
    """The whole blob opens and its payload is the one that the manifest names."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The blob has its final name."""


@dataclass(frozen=True, slots=True)
class TurnCame:
    """Nothing else stands before the self-test."""


@dataclass(frozen=True, slots=True)
class Proved:
    """The staged worker loaded the model and passed its golden frames."""


@dataclass(frozen=True, slots=True)
class Switched:
    """Frames go to the new worker."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the new worker did since the switch, and which digest the slot serves."""

    window: BakeWindow
    serving: Digest | None


@dataclass(frozen=True, slots=True)
class Reverted:
    """The slot serves what it served before (or nothing, where there was nothing)."""


@dataclass(frozen=True, slots=True)
class NotReverted:
    """What was served before could not be restored."""

    detail: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A step failed and repeating it cannot help."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Broke:
    """A step failed; another attempt might not."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """A newer assignment wants ``digest`` in the slot."""

    seq: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Resumed:
    """The agent started and finds this execution in its journal."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Admitted | AlreadyServed | Ready | Progressed | Verified | Kept | TurnCame | Proved | Switched | Observed
    | Reverted | NotReverted | Refused | Broke | Superseded | Resumed | Tick
)  # fmt: skip


class Effect(Enum):
    """What the runner shall do, in order, after the journal has the new state."""

    ADMIT = auto()
    PREFLIGHT = auto()
    DOWNLOAD = auto()
    KEEP = auto()
    TAKE_TURN = auto()
    PROVE = auto()
    SWITCH = auto()
    RESTAGE = auto()
    COMMIT = auto()
    REVERT = auto()
    DISCARD = auto()
