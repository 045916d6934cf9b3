"""What happens next in a rollout: a pure function of what is known and the time (DESIGN 5, FIELD 3).

Deterministic and idempotent: carrying out any part of a plan and planning again leads to the same end, so the server may be
killed between any two actions. Silence is failure: every state in which something is awaited has a limit.
"""

from __future__ import annotations

from fleet_protocol.states import DeploymentState
from fleet_server.rollout.actions import (
    Action,
    Assign,
    BeginRollback,
    BreachWave,
    EndRollback,
    FinishRolledBack,
    FinishRollout,
    MarkTimedOut,
    OpenWave,
    PauseBreached,
    RollBack,
)
from fleet_server.rollout.gate import evidence, judge
from fleet_server.rollout.view import (
    IN_FLIGHT,
    LIVE,
    LOST,
    TURNED_BACK,
    UNDER_TEST,
    Member,
    Outcome,
    RolloutState,
    Snapshot,
    WaveStand,
    WaveState,
)


def plan(view: Snapshot, now: float, *, listening_since: float) -> tuple[Action, ...]:
    """Everything that the evidence allows now, in order.

    ``listening_since``: since when the server has been hearing devices. Silence is counted from then at the earliest, for
    while the server was down it was the server that did not hear.
    """
    if view.state not in LIVE:
        return ()
    if any(wave.state in TURNED_BACK for wave in view.waves):
        return _turn_back(view, max(now - listening_since, 0.0), now)
    current = view.current
    if current is not None and current.state is WaveState.BREACHED:
        return _answer_breach(view, current)
    silent = _silent(view, current, now, listening_since)
    returns = tuple(_returned(member) for member in view.members if member.outcome in LOST and member.must_be_returned)
    if silent:
        return (*returns, *silent)  # the gate judges once these are written down
    return (*returns, *_advance(view, current, now))


def leftovers(view: Snapshot) -> tuple[RollBack, ...]:
    """What an abort takes back: every assigned device that has not proved itself yet."""
    return tuple(
        _returned(member)
        for member in view.members
        if member.outcome is not Outcome.SUCCESS and member.must_be_returned
    )


def opened_waves(view: Snapshot) -> tuple[BeginRollback, ...]:
    """What an undo turns back: every wave that was ever opened."""
    return tuple(
        BeginRollback(wave.number)
        for wave in view.waves
        if wave.state is not WaveState.PENDING and wave.state not in TURNED_BACK
    )


def _returned(member: Member) -> RollBack:
    return RollBack(member.device, member.previous)


def _advance(view: Snapshot, current: WaveStand | None, now: float) -> tuple[Action, ...]:
    is_running = view.state is RolloutState.RUNNING
    if current is None:
        return _next_wave(view) if is_running else ()
    if current.state not in UNDER_TEST:
        return ()
    step = judge(current, evidence(view, current), view.policy, now)
    if isinstance(step, BreachWave):
        return (step,)  # also in a paused rollout: pausing must not keep a bad model where it is
    if not is_running:
        return ()
    if step is not None:
        return (step,)
    return _assignments(view, current) if current.state is WaveState.RUNNING else ()


def _next_wave(view: Snapshot) -> tuple[Action, ...]:
    pending = next((wave for wave in view.waves if wave.state is WaveState.PENDING), None)
    if pending is not None:
        return (OpenWave(pending.number, max(pending.window_end, view.opened)),)
    # The release has passed everywhere: who joined meanwhile, or was left out by a promotion, gets it without a gate.
    assignments = _assignments(view, view.waves[-1])
    if assignments or any(member.outcome in IN_FLIGHT for member in view.members):
        return assignments
    return (FinishRollout(),)


def _assignments(view: Snapshot, wave: WaveStand) -> tuple[Action, ...]:
    room = view.policy.max_in_flight - sum(member.outcome in IN_FLIGHT for member in view.members)
    chosen = view.waiting[: max(room, 0)]
    return tuple(Assign(candidate.device, wave.number, candidate.manifest) for candidate in chosen)


def _silent(view: Snapshot, current: WaveStand | None, now: float, listening_since: float) -> tuple[Action, ...]:
    marks = []
    for member in view.members:
        reason = _overdue(view, member, now, listening_since)
        if reason is None and current is not None and member.wave == current.number:
            reason = _gone_quiet(view, member, now, listening_since)
        if reason is not None:
            marks.append(MarkTimedOut(member.device, reason))
    return tuple(marks)


def _overdue(view: Snapshot, member: Member, now: float, listening_since: float) -> str | None:
    if member.outcome not in IN_FLIGHT:
        return None
    limit = view.policy.limit_s(member.state)
    if now - max(member.state_since, listening_since) > limit:
        return _SILENCE.get(member.state, f"not a word in {member.state} for {{:g}} s").format(limit)
    total = view.policy.attempt_limit_s
    if now - member.assigned_at > total and now - listening_since > limit:
        return f"not COMMITTED within {total:g} s of its assignment, last seen in {member.state}"
    return None


_SILENCE = {
    DeploymentState.IDLE: "did not take up its assignment within {:g} s",
    DeploymentState.COMMITTED: "COMMITTED, but for {:g} s no heartbeat served the new model",
}


def _gone_quiet(view: Snapshot, member: Member, now: float, listening_since: float) -> str | None:
    if member.outcome is not Outcome.SUCCESS or view.state is not RolloutState.RUNNING:
        return None
    limit = view.policy.limit_s(DeploymentState.COMMITTED)
    heard_at = max(member.heard_at or member.state_since, member.state_since, listening_since)
    return f"COMMITTED and confirmed, then no heartbeat for {limit:g} s" if now - heard_at > limit else None


def _answer_breach(view: Snapshot, wave: WaveStand) -> tuple[Action, ...]:
    # The whole rollout turns back, not this wave alone: a model that fails here is no longer trusted there.
    return opened_waves(view) if view.policy.auto_rollback else (PauseBreached(wave.number),)


def _turn_back(view: Snapshot, heard_for_s: float, now: float) -> tuple[Action, ...]:
    begin = opened_waves(view)
    returns = tuple(_returned(member) for member in view.members if member.must_be_returned)
    if begin or returns:
        return (*begin, *returns)
    rolling = [wave for wave in view.waves if wave.state is WaveState.ROLLING_BACK]
    if not rolling:
        return (FinishRolledBack(),)
    ends = (_end_rollback(view, wave, heard_for_s, now) for wave in rolling)
    return tuple(end for end in ends if end is not None)


def _end_rollback(view: Snapshot, wave: WaveStand, heard_for_s: float, now: float) -> EndRollback | None:
    members = view.of_wave(wave)
    missing = [member.device for member in members if not member.is_restored]
    if not missing:
        return EndRollback(wave.number, f"all {len(members)} devices returned to what they served before")
    waited = min(now - (wave.finished_at or now), heard_for_s)
    if waited <= view.policy.rollback_limit_s:
        return None
    return EndRollback(
        wave.number,
        f"{len(members) - len(missing)} of {len(members)} devices returned; {len(missing)} did not answer within "
        f"{view.policy.rollback_limit_s:g} s and return when they are heard of again (first {min(missing)})",
    )
