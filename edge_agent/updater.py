"""The life of one deployment, decided without touching anything: state and event in, state and effects out (SPEC 8.1).

:data:`MOVES` is the one table of legal moves; a pair that is not in it is a programming mistake and raises RuntimeError.
``step`` never acts: the runner journals what it returns, reports it, and only then performs the effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from edge_agent.errors import Superseded as SupersededError
from edge_agent.execution import (
    Admitted,
    AlreadyServed,
    Broke,
    Effect,
    Event,
    Execution,
    Kept,
    NotReverted,
    Observed,
    Progressed,
    Proved,
    Ready,
    Refused,
    Resumed,
    Reverted,
    Superseded,
    Switched,
    Tick,
    TurnCame,
    Verified,
)
from fleet_protocol.assignment import Item
from fleet_protocol.errors import (
    BakeFailed,
    ChunkTampered,
    FleetError,
    GoldenFramesDiffer,
    LoopDetected,
    MalformedInput,
    ModelNotLoadable,
    StateTimedOut,
    TrustError,
)
from fleet_protocol.identifiers import Digest, SlotName
from fleet_protocol.messages import DeploymentReport
from fleet_protocol.states import DeploymentState

_S = DeploymentState
MAX_DETAIL: Final = 300
MAX_ATTEMPTS: Final = 3
"""Tries of a dangerous state over restarts before the device gives up on a model (SPEC 8.6)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of this device. ``limits_s``: most seconds in a state; the latency budget comes with each manifest.

    ``metadata_wait_s``: an assignment may be faster than the metadata that releases its items; so long it may wait.
    """

    bake_s: float = 60.0
    min_frames: int = 20
    max_error_share: float = 0.05
    metadata_wait_s: float = 60.0
    limits_s: Mapping[DeploymentState, float] = field(
        default_factory=lambda: {
            _S.OFFERED: 600.0, _S.PREFLIGHT: 120.0, _S.DOWNLOADING: 24 * 3600.0, _S.VERIFIED: 600.0,
            _S.STAGED: 600.0, _S.SELFTEST: 900.0, _S.SHADOW: 900.0, _S.SWITCHING: 300.0,
        }
    )  # fmt: skip


# --- the table --------------------------------------------------------------------------------------------------------
ENTERING: Final[Mapping[DeploymentState, tuple[Effect, ...]]] = {
    _S.OFFERED:      (Effect.ADMIT,),
    _S.PREFLIGHT:    (Effect.PREFLIGHT,),
    _S.DOWNLOADING:  (Effect.DOWNLOAD,),
    _S.VERIFIED:     (Effect.KEEP,),
    _S.STAGED:       (Effect.TAKE_TURN,),
    _S.SELFTEST:     (Effect.PROVE,),
    _S.SWITCHING:    (Effect.SWITCH,),
    _S.BAKING:       (),
    _S.COMMITTED:    (Effect.COMMIT,),
    _S.REJECTED:     (Effect.DISCARD,),
    _S.FAILED:       (Effect.DISCARD,),
    _S.ROLLED_BACK:  (Effect.DISCARD,),
    _S.INCONSISTENT: (),
}  # fmt: skip
"""Effects of entering a state. A restart enters the state again, except that a worker has to be staged anew."""

MOVES: Final[Mapping[tuple[DeploymentState, type[Event]], DeploymentState]] = {
    (_S.OFFERED,     Admitted):      _S.PREFLIGHT,
    (_S.OFFERED,     Refused):       _S.REJECTED,
    (_S.OFFERED,     Broke):         _S.FAILED,
    (_S.PREFLIGHT,   AlreadyServed): _S.COMMITTED,
    (_S.PREFLIGHT,   Ready):         _S.DOWNLOADING,
    (_S.PREFLIGHT,   Refused):       _S.REJECTED,
    (_S.PREFLIGHT,   Broke):         _S.FAILED,
    (_S.DOWNLOADING, Progressed):    _S.DOWNLOADING,
    (_S.DOWNLOADING, Verified):      _S.VERIFIED,
    (_S.DOWNLOADING, Refused):       _S.REJECTED,
    (_S.DOWNLOADING, Broke):         _S.FAILED,
    (_S.VERIFIED,    Kept):          _S.STAGED,
    (_S.VERIFIED,    Refused):       _S.REJECTED,
    (_S.VERIFIED,    Broke):         _S.FAILED,
    (_S.STAGED,      TurnCame):      _S.SELFTEST,
    (_S.STAGED,      Broke):         _S.FAILED,
    (_S.SELFTEST,    Proved):        _S.SWITCHING,
    (_S.SELFTEST,    Refused):       _S.REJECTED,
    (_S.SELFTEST,    Broke):         _S.FAILED,
    (_S.SWITCHING,   Switched):      _S.BAKING,
    (_S.SWITCHING,   Reverted):      _S.ROLLED_BACK,
    (_S.SWITCHING,   NotReverted):   _S.INCONSISTENT,
    (_S.BAKING,      Observed):      _S.COMMITTED,
    (_S.BAKING,      Reverted):      _S.ROLLED_BACK,
    (_S.BAKING,      NotReverted):   _S.INCONSISTENT,
}  # fmt: skip
"""What an event that ends a step leads to. ``Tick``, ``Observed``, ``Resumed`` and ``Superseded`` are judged first and
become one of these; in SWITCHING and BAKING a failure is first recorded as the verdict, then the old worker is restored."""

_TOUCHED: Final = frozenset({_S.SWITCHING, _S.BAKING})
"""States in which the old model may no longer be what serves: their failures need a revert."""
_COUNTED: Final = frozenset({_S.SELFTEST, _S.SWITCHING, _S.BAKING})
"""States that run the new model: if the agent dies in them it may be the model that kills it (SPEC 8.6)."""


def offer(number: int, seq: int, item: Item, *, now_s: float) -> Execution:
    """A new execution of ``item``."""
    return Execution(number=number, slot=SlotName(item.slot), assignment_seq=seq, item=item, since_s=now_s)


def failure(error: FleetError) -> Refused | Broke:
    """The event that tells of ``error``: refused where trying again cannot change the answer (SPEC 8.1)."""
    final = isinstance(error, TrustError | MalformedInput | GoldenFramesDiffer | ModelNotLoadable)
    if final and not isinstance(error, ChunkTampered):
        return Refused(error.code, str(error)[:MAX_DETAIL])
    return Broke(error.code, str(error)[:MAX_DETAIL])


def step(
    execution: Execution, event: Event, policy: Policy, *, now_s: float, latency_budget_ms: float | None = None
) -> tuple[Execution, tuple[Effect, ...]]:
    """Where ``event`` takes ``execution``, and what has to be done about it. A finished execution never moves (SPEC 8.4)."""
    if execution.is_over:
        return execution, ()
    match event:
        case Tick():
            return _timed(execution, policy, now_s)
        case Resumed():
            return _resumed(execution, now_s)
        case Superseded():
            return _superseded(execution, event, now_s)
        case Observed():
            return _observed(execution, event, policy, now_s, latency_budget_ms)
        case Progressed() if execution.state is _S.DOWNLOADING:
            return _progressed(execution, event), ()
        case Switched() if execution.state is _S.BAKING:  # staged anew after a restart: the bake starts over
            return msgspec.structs.replace(execution, since_s=now_s), ()
        case Refused() | Broke():
            return _failed(execution, event, now_s)
        case NotReverted():
            return _moved(_judged(execution, execution.code, f"{execution.detail}; {event.detail}"), event, now_s)
        case _:
            return _moved(execution, event, now_s)


def is_proven(
    event: Observed, digest: Digest, policy: Policy, *, elapsed_s: float, latency_budget_ms: float | None
) -> bool:
    """Whether the bake is over and went well; raises BakeFailed where the new model must go (SPEC 8.3)."""
    window = event.window
    if not window.is_alive:
        raise BakeFailed(f"the new model's worker died: {window.cause_of_death or 'no cause known'}")
    if event.serving != digest:
        raise BakeFailed("the runtime does not serve the new model")
    tried = window.frames + window.errors
    enough = tried >= policy.min_frames
    if enough and window.errors > policy.max_error_share * tried:
        raise BakeFailed(f"{window.errors} of {tried} frames failed, allowed {policy.max_error_share:.0%}")
    if enough and window.p95_ms is not None and latency_budget_ms is not None and window.p95_ms > latency_budget_ms:
        raise BakeFailed(f"p95 {window.p95_ms:.1f} ms over the budget of {latency_budget_ms:.1f} ms")
    if elapsed_s >= policy.bake_s and not enough:
        raise BakeFailed(f"{tried} frames in the bake time, {policy.min_frames} are needed")
    return elapsed_s >= policy.bake_s


def report(execution: Execution, serving: Digest | None, *, at: float) -> DeploymentReport:
    """What the device says of ``execution`` (SPEC 8.4). ``at``: trusted Unix seconds."""
    return DeploymentReport(
        assignment_seq=execution.assignment_seq,
        execution=execution.number,
        version=execution.version,
        slot=execution.slot,
        manifest_sha256=execution.digest,
        state=execution.state,
        at=at,
        code=execution.code,
        detail=execution.detail[:MAX_DETAIL],
        chunks_done=execution.chunks_done,
        chunks_total=execution.chunks_total,
        served_sha256=serving or "",
    )


# --- judgements -------------------------------------------------------------------------------------------------------
def _moved(execution: Execution, event: Event, now_s: float) -> tuple[Execution, tuple[Effect, ...]]:
    after = MOVES.get((execution.state, type(event)))
    if after is None:
        raise RuntimeError(f"{type(event).__name__} cannot happen in {execution.state}; this is a bug")
    counted = 1 if after in _COUNTED else 0
    return (
        msgspec.structs.replace(execution, state=after, version=execution.version + 1, since_s=now_s, attempts=counted),
        # What serves already needs no act.
        () if isinstance(event, AlreadyServed) else ENTERING[after],
    )


def _judged(execution: Execution, code: str, detail: str) -> Execution:
    return msgspec.structs.replace(execution, code=code, detail=detail[:MAX_DETAIL])


def _failed(execution: Execution, event: Refused | Broke, now_s: float) -> tuple[Execution, tuple[Effect, ...]]:
    judged = _judged(execution, event.code, event.detail)
    if execution.state in _TOUCHED:
        # Verdict first, then the act: after a power cut the journal still knows that this model has to go.
        return (judged, (Effect.REVERT,)) if not execution.code else (execution, ())
    if (execution.state, type(event)) not in MOVES:
        event = Broke(event.code, event.detail)
    return _moved(judged, event, now_s)


def _timed(execution: Execution, policy: Policy, now_s: float) -> tuple[Execution, tuple[Effect, ...]]:
    limit = policy.limits_s.get(execution.state)
    if limit is None or now_s - execution.since_s <= limit:
        return execution, ()
    late = StateTimedOut(f"{execution.state} took longer than {limit:.0f} s")
    return _failed(execution, Broke(late.code, str(late)), now_s)


def _resumed(execution: Execution, now_s: float) -> tuple[Execution, tuple[Effect, ...]]:
    again = msgspec.structs.replace(execution, since_s=now_s)
    if execution.state not in _COUNTED:
        return again, ENTERING[execution.state]
    if execution.code:  # the verdict was written, the act was not
        return again, (Effect.REVERT,)
    if execution.attempts >= MAX_ATTEMPTS:
        loop = LoopDetected(f"the agent restarted {execution.attempts} times in {execution.state}")
        return _failed(again, Broke(loop.code, str(loop)), now_s)
    again = msgspec.structs.replace(again, attempts=execution.attempts + 1)
    return again, (Effect.RESTAGE,) if execution.state in _TOUCHED else ENTERING[execution.state]


def _superseded(execution: Execution, event: Superseded, now_s: float) -> tuple[Execution, tuple[Effect, ...]]:
    if execution.state in _TOUCHED and event.digest == execution.digest:
        return execution, ()  # the newer assignment wants the same model: let it finish
    return _failed(
        execution, Broke(SupersededError.code, f"assignment {event.seq} wants something else in this slot"), now_s
    )


def _observed(
    execution: Execution, event: Observed, policy: Policy, now_s: float, latency_budget_ms: float | None
) -> tuple[Execution, tuple[Effect, ...]]:
    if execution.state is not _S.BAKING or execution.code:
        return execution, ()
    elapsed_s = now_s - execution.since_s
    try:
        proven = is_proven(event, execution.digest, policy, elapsed_s=elapsed_s, latency_budget_ms=latency_budget_ms)
    except BakeFailed as error:
        return _failed(execution, Broke(error.code, str(error)), now_s)
    return _moved(execution, event, now_s) if proven else (execution, ())


def _progressed(execution: Execution, event: Progressed) -> Execution:
    def quarter(done: int) -> int:
        return done * 4 // max(event.total, 1)

    # A report for each quarter, the last one left to VERIFIED: enough for a progress bar, little for a million devices.
    told = quarter(execution.chunks_done) < quarter(event.done) < 4
    return msgspec.structs.replace(
        execution, chunks_done=event.done, chunks_total=event.total, version=execution.version + told
    )
