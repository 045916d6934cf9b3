"""The updater's core: every pair of state and event, and what bake, limits, restarts and newer assignments lead to."""

from __future__ import annotations

from itertools import product
from typing import get_args

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edge_agent import execution as values
from edge_agent.execution import Effect, Event, Execution
from edge_agent.ports import BakeWindow
from edge_agent.records import ModelRecord
from edge_agent.updater import ENTERING, MAX_ATTEMPTS, MOVES, Policy, failure, offer, report, step
from fleet_protocol.errors import ChunkTampered, DiskFull, GoldenFramesDiffer, WorkerDied, WrongBoard
from fleet_protocol.identifiers import Digest
from fleet_protocol.states import NEXT, TERMINAL, DeploymentState
from tests.protocol import samples

S = DeploymentState
POLICY = Policy(bake_s=60.0, min_frames=20, max_error_share=0.05)
SEALED = samples.Sealed(*samples.sample(), X25519PrivateKey.generate())
OTHER = Digest("f" * 64)
GOOD = BakeWindow(frames=100, errors=0, p95_ms=5.0, is_alive=True)


def in_state(state: DeploymentState, **changes: object) -> Execution:
    fresh = offer(1, 5, SEALED.item, now_s=0.0)
    return msgspec.structs.replace(fresh, state=state, attempts=1, **changes)


def observed(window: BakeWindow = GOOD, serving: Digest | None = SEALED.digest) -> values.Observed:
    return values.Observed(window, serving)


SAMPLES: dict[type[Event], Event] = {
    type(event): event
    for event in (
        values.Admitted(ModelRecord(item=SEALED.item, manifest=SEALED.content), 1), values.AlreadyServed(),
        values.Ready(), values.Progressed(1, 4), values.Verified(), values.Kept(), values.TurnCame(),
        values.Proved(), values.Switched(), observed(), values.Reverted(), values.NotReverted("lost"),
        values.Refused("wrong-board", "no"), values.Broke("disk-full", "no"),
        values.Superseded(6, OTHER), values.Resumed(), values.Tick(),
    )
}  # fmt: skip
JUDGED = {values.Tick, values.Resumed, values.Superseded, values.Observed, values.Refused, values.Broke}


def test_every_event_has_a_sample() -> None:
    assert set(SAMPLES) == set(get_args(Event))


def test_every_move_of_the_updater_is_a_move_of_the_contract() -> None:
    for (state, _), after in MOVES.items():
        assert after in NEXT[state], (state, after)


def test_the_updater_can_reach_every_state_but_the_shadow() -> None:
    assert set(MOVES.values()) | {S.OFFERED} == set(DeploymentState) - {S.IDLE, S.SHADOW}


@pytest.mark.parametrize(("state", "kind"), list(product(ENTERING, SAMPLES)))
def test_every_event_either_lands_where_the_table_says_or_is_a_bug(state: DeploymentState, kind: type[Event]) -> None:
    before = in_state(state)
    if state not in TERMINAL and (state, kind) not in MOVES and kind not in JUDGED:
        if (state, kind) == (S.BAKING, values.Switched):
            assert step(before, SAMPLES[kind], POLICY, now_s=9.0)[0].state is S.BAKING
            return
        with pytest.raises(RuntimeError, match="this is a bug"):
            step(before, SAMPLES[kind], POLICY, now_s=9.0)
        return
    after, _ = step(before, SAMPLES[kind], POLICY, now_s=9.0)
    assert after.state is state or after.state in NEXT[state]
    if state in TERMINAL:
        assert after == before


def test_the_way_without_trouble_is_the_contracts_order() -> None:
    execution, seen = offer(1, 5, SEALED.item, now_s=0.0), [S.OFFERED]
    for kind in ("Admitted", "Ready", "Verified", "Kept", "TurnCame", "Proved", "Switched"):
        execution, _ = step(execution, SAMPLES[getattr(values, kind)], POLICY, now_s=1.0)
        seen.append(execution.state)
    execution, effects = step(execution, observed(), POLICY, now_s=62.0)
    assert [*seen, execution.state] == [
        S.OFFERED, S.PREFLIGHT, S.DOWNLOADING, S.VERIFIED, S.STAGED, S.SELFTEST, S.SWITCHING, S.BAKING, S.COMMITTED,
    ]  # fmt: skip
    assert effects == (Effect.COMMIT,)
    assert execution.version == 9


def test_every_change_of_state_is_a_new_version() -> None:
    for (state, kind), after in MOVES.items():
        moved, _ = step(in_state(state), SAMPLES[kind], POLICY, now_s=100.0)
        if moved.state is after and after is not state:
            assert moved.version == 2, (state, kind)


@pytest.mark.parametrize(
    ("window", "serving", "elapsed_s", "sentence"),
    [
        (BakeWindow(0, 0, None, is_alive=False, cause_of_death="signal 11"), SEALED.digest, 1.0, "signal 11"),
        (GOOD, OTHER, 1.0, "does not serve"),
        (GOOD, None, 1.0, "does not serve"),
        (BakeWindow(90, 10, 5.0, is_alive=True), SEALED.digest, 1.0, "10 of 100 frames failed"),
        (BakeWindow(0, 30, None, is_alive=True), SEALED.digest, 1.0, "30 of 30 frames failed"),
        (BakeWindow(100, 0, 100.1, is_alive=True), SEALED.digest, 1.0, "p95 100.1 ms over the budget of 100.0 ms"),
        (BakeWindow(19, 0, 5.0, is_alive=True), SEALED.digest, 60.0, "19 frames in the bake time, 20 are needed"),
    ],
)
def test_a_bake_that_goes_badly_is_judged_before_it_is_undone(
    window: BakeWindow, serving: Digest | None, elapsed_s: float, sentence: str
) -> None:
    after, effects = step(
        in_state(S.BAKING), observed(window, serving), POLICY, now_s=elapsed_s, latency_budget_ms=100.0
    )
    assert (after.state, after.code, effects) == (S.BAKING, "bake-failed", (Effect.REVERT,))
    assert sentence in after.detail
    undone, _ = step(after, values.Reverted(), POLICY, now_s=elapsed_s)
    assert (undone.state, undone.code) == (S.ROLLED_BACK, "bake-failed")


@pytest.mark.parametrize(
    "window", [BakeWindow(19, 1, 5.0, is_alive=True), BakeWindow(95, 5, 100.0, is_alive=True), GOOD]
)
def test_a_bake_within_its_limits_goes_on_until_its_time_is_over(window: BakeWindow) -> None:
    early = step(in_state(S.BAKING), observed(window), POLICY, now_s=59.9, latency_budget_ms=100.0)
    late = step(in_state(S.BAKING), observed(window), POLICY, now_s=60.0, latency_budget_ms=100.0)
    assert (early[0].state, late[0].state) == (S.BAKING, S.COMMITTED)


def test_what_cannot_be_restored_is_inconsistent() -> None:
    judged = in_state(S.BAKING, code="bake-failed", detail="too slow")
    after, _ = step(judged, values.NotReverted("blob gone"), POLICY, now_s=1.0)
    assert (after.state, after.code, after.detail) == (S.INCONSISTENT, "bake-failed", "too slow; blob gone")


@pytest.mark.parametrize(("state", "limit_s"), sorted(POLICY.limits_s.items()))
def test_every_state_that_waits_has_a_limit(state: DeploymentState, limit_s: float) -> None:
    before = in_state(state)
    if state is S.SHADOW:
        return  # the contract has it, this updater never enters it
    in_time, none = step(before, values.Tick(), POLICY, now_s=limit_s)
    late, effects = step(before, values.Tick(), POLICY, now_s=limit_s + 1)
    assert (in_time, none) == (before, ())
    assert late.code == "state-timed-out"
    assert late.state is S.FAILED or (late.state is S.SWITCHING and effects == (Effect.REVERT,))


def test_only_baking_has_no_limit_but_its_own_end() -> None:
    assert set(ENTERING) - TERMINAL - set(POLICY.limits_s) == {S.BAKING}


@pytest.mark.parametrize("state", [S.SELFTEST, S.SWITCHING, S.BAKING])
def test_a_model_that_kills_the_agent_is_given_up(state: DeploymentState) -> None:
    execution = in_state(state)
    for _ in range(MAX_ATTEMPTS - 1):
        execution, effects = step(execution, values.Resumed(), POLICY, now_s=1.0)
        assert execution.state is state
        assert effects == ((Effect.PROVE,) if state is S.SELFTEST else (Effect.RESTAGE,))
    execution, effects = step(execution, values.Resumed(), POLICY, now_s=1.0)
    assert execution.code == "loop-detected"
    if state is not S.SELFTEST:
        assert effects == (Effect.REVERT,)
        execution, _ = step(execution, values.Reverted(), POLICY, now_s=1.0)
    assert execution.state is (S.FAILED if state is S.SELFTEST else S.ROLLED_BACK)


@pytest.mark.parametrize("state", [S.OFFERED, S.PREFLIGHT, S.DOWNLOADING, S.VERIFIED, S.STAGED])
def test_a_restart_begins_a_harmless_step_again_and_counts_nothing(state: DeploymentState) -> None:
    before = in_state(state)
    after, effects = step(before, values.Resumed(), POLICY, now_s=7.0)
    assert (after, effects) == (msgspec.structs.replace(before, since_s=7.0), ENTERING[state])


@pytest.mark.parametrize("state", [S.SWITCHING, S.BAKING])
def test_a_verdict_that_was_written_before_the_power_went_is_carried_out_after(state: DeploymentState) -> None:
    judged = in_state(state, code="bake-failed", detail="too slow")
    after, effects = step(judged, values.Resumed(), POLICY, now_s=1.0)
    assert (after.code, effects) == ("bake-failed", (Effect.REVERT,))


@pytest.mark.parametrize("state", [S.OFFERED, S.PREFLIGHT, S.DOWNLOADING, S.VERIFIED, S.STAGED, S.SELFTEST])
@pytest.mark.parametrize("digest", [OTHER, SEALED.digest])
def test_a_newer_assignment_ends_what_has_not_switched_yet(state: DeploymentState, digest: Digest) -> None:
    after, effects = step(in_state(state), values.Superseded(6, digest), POLICY, now_s=1.0)
    assert (after.state, after.code, effects) == (S.FAILED, "superseded", (Effect.DISCARD,))


@pytest.mark.parametrize("state", [S.SWITCHING, S.BAKING])
def test_a_newer_assignment_takes_back_what_has_switched_unless_it_wants_the_same(state: DeploymentState) -> None:
    other, undo = step(in_state(state), values.Superseded(6, OTHER), POLICY, now_s=1.0)
    same, none = step(in_state(state), values.Superseded(6, SEALED.digest), POLICY, now_s=1.0)
    assert (other.code, undo) == ("superseded", (Effect.REVERT,))
    assert (same, none) == (in_state(state), ())


@pytest.mark.parametrize(
    ("error", "state", "ends"),
    [
        (WrongBoard("x"), S.OFFERED, S.REJECTED),
        (DiskFull("x"), S.PREFLIGHT, S.FAILED),
        (ChunkTampered("x"), S.DOWNLOADING, S.FAILED),
        (GoldenFramesDiffer("x"), S.SELFTEST, S.REJECTED),
        (WorkerDied("x"), S.SELFTEST, S.FAILED),
        (WrongBoard("x"), S.STAGED, S.FAILED),
    ],
)
def test_what_cannot_become_right_is_rejected_and_the_rest_failed(
    error: Exception, state: DeploymentState, ends: DeploymentState
) -> None:
    after, _ = step(in_state(state), failure(error), POLICY, now_s=1.0)  # type: ignore[arg-type]
    assert (after.state, after.code) == (ends, error.code)  # type: ignore[attr-defined]


def test_progress_is_reported_by_quarters() -> None:
    execution, versions = in_state(S.DOWNLOADING), []
    for done in range(101):
        execution, _ = step(execution, values.Progressed(done, 100), POLICY, now_s=1.0)
        versions.append(execution.version)
    assert versions[-1] == 4
    assert [versions.index(version) for version in (2, 3, 4)] == [25, 50, 75]


def test_a_report_says_where_the_execution_stands() -> None:
    made = report(in_state(S.FAILED, code="disk-full", detail="x" * 999), SEALED.digest, at=12.0)
    assert (made.assignment_seq, made.execution, made.version, made.slot) == (5, 1, 1, "textline")
    assert (made.state, made.code, len(made.detail), made.served_sha256) == (S.FAILED, "disk-full", 300, SEALED.digest)
