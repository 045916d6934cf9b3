"""The planner as a pure function: no registry, no clock, any evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from fleet_protocol.identifiers import DeviceId, Digest
from fleet_protocol.states import TERMINAL, UNSUCCESSFUL, DeploymentState
from fleet_server.rollout import policy as policies
from fleet_server.rollout.actions import (
    Action,
    Assign,
    BeginBake,
    BeginRollback,
    BreachWave,
    FinishRollout,
    HoldWave,
    MarkTimedOut,
    OpenWave,
    PassWave,
    ResumeWave,
    RollBack,
)
from fleet_server.rollout.planner import plan
from fleet_server.rollout.view import Candidate, Custody, Member, RolloutState, Snapshot, WaveStand, WaveState

NOW = 10_000.0
NEW, OLD = Digest("a" * 64), Digest("b" * 64)
S = DeploymentState


def policy(**changes: object) -> policies.Policy:
    return policies.parse({"waves": [{"title": "canary", "size": 2}, {"title": "rest", "size": "100%"}], **changes})


def wave(number: int = 1, state: WaveState = WaveState.RUNNING, **changes: object) -> WaveStand:
    stand = WaveStand(
        number=number, title="w", window_end=number * 5000, members=2, state=state, opened_at=NOW - 100
    )  # fmt: skip
    return replace(stand, **changes)  # type: ignore[arg-type]


def member(name: str, state: DeploymentState = S.COMMITTED, **changes: object) -> Member:
    """A member of wave 1 that is a proven success, unless changed."""
    made = Member(
        device=DeviceId(name), wave=1, manifest=NEW, previous=OLD, state=state, code="", assigned_at=NOW - 90,
        state_since=NOW - 50, confirmed_at=NOW - 40, restored_at=None, heard_at=NOW - 1, custody=Custody.OURS,
        is_active=True,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def view(members: Sequence[Member] = (), *waves: WaveStand, **changes: object) -> Snapshot:
    made = Snapshot(
        id=1, state=RolloutState.RUNNING, opened=5000, policy=policy(),
        waves=waves or (wave(), wave(2, WaveState.PENDING)), members=tuple(members), candidates=(),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def planned(snapshot: Snapshot, now: float = NOW) -> tuple[Action, ...]:
    return plan(snapshot, now, listening_since=0.0)


def test_the_first_wave_opens_first() -> None:
    snapshot = view([], wave(1, WaveState.PENDING), wave(2, WaveState.PENDING), opened=0)

    assert planned(snapshot) == (OpenWave(1, 5000),)


def test_devices_are_assigned_in_order_and_never_more_than_in_flight_allows() -> None:
    waiting = tuple(Candidate(DeviceId(f"c{number}"), number, NEW) for number in range(5))
    snapshot = view([member("a", S.DOWNLOADING)], policy=policy(max_in_flight=3), candidates=waiting)

    assert planned(snapshot) == (Assign(DeviceId("c0"), 1, NEW), Assign(DeviceId("c1"), 1, NEW))


def test_devices_outside_the_open_window_wait() -> None:
    outside = (Candidate(DeviceId("c"), 5000, NEW),)

    assert planned(view([member("a", S.DOWNLOADING)], candidates=outside)) == ()


def test_a_proven_wave_bakes_then_passes() -> None:
    proven = [member("a"), member("b")]
    assert planned(view(proven)) == (BeginBake(1),)

    baking = wave(1, WaveState.BAKING, baking_since=NOW - 60)
    (step,) = planned(view(proven, baking, wave(2, WaveState.PENDING)))
    assert isinstance(step, PassWave)


def test_a_wave_does_not_pass_before_its_bake_is_over() -> None:
    baking = wave(1, WaveState.BAKING, baking_since=NOW - 59.9)

    assert planned(view([member("a"), member("b")], baking)) == ()


def test_a_wave_does_not_pass_on_heartbeats_from_before_its_bake() -> None:
    baking = wave(1, WaveState.BAKING, baking_since=NOW - 61)
    stale = member("b", heard_at=NOW - 62)

    assert planned(view([member("a"), stale], baking)) == ()


def test_a_wave_resumes_when_a_baking_device_no_longer_serves_the_model() -> None:
    baking = wave(1, WaveState.BAKING, baking_since=NOW - 61)

    assert planned(view([member("a"), member("b", confirmed_at=None)], baking)) == (ResumeWave(1),)


def test_errors_at_the_threshold_are_allowed_and_above_it_breach() -> None:
    ten = [member(f"m{number}") for number in range(9)] + [member("bad", S.FAILED, custody=Custody.RETURNED)]
    at_the_limit = view(ten, policy=policy(error_threshold=0.1, success_threshold=0.9))
    above = replace(at_the_limit, policy=policy(error_threshold=0.09, success_threshold=0.9))

    assert planned(at_the_limit) == (BeginBake(1),)
    (breach,) = planned(above)
    assert isinstance(breach, BreachWave)
    assert breach.verdict.startswith(
        "1 of 10 devices failed or went silent: 10.0%, more than the 9.0% allowed (first bad"
    )


def test_a_breach_waits_for_the_minimum_sample() -> None:
    """One early failure of twenty is not yet 100 %: the denominator is who was assigned, the sample who has ended."""
    some = [member("bad", S.FAILED, custody=Custody.RETURNED), member("a", S.DOWNLOADING), member("b", S.STAGED)]
    big = wave(members=20)

    assert planned(view(some, big, policy=policy(min_sample=3))) == ()
    assert isinstance(planned(view(some, big, policy=policy(min_sample=1)))[0], BreachWave)


def test_not_enough_evidence_is_held_not_passed() -> None:
    (step,) = planned(view([member("a", is_active=False), member("b", is_active=False)]))

    assert isinstance(step, HoldWave)
    assert "not enough evidence" in step.verdict


def test_a_device_that_failed_by_itself_gets_its_old_model_back_at_once() -> None:
    failed = member("bad", S.ROLLED_BACK)
    snapshot = view([failed, member("a", S.BAKING)], policy=policy(error_threshold=0.5))

    assert planned(snapshot) == (RollBack(DeviceId("bad"), OLD),)


@pytest.mark.parametrize("state", policies.TIMED_STATES)
def test_silence_beyond_the_limit_of_a_state_is_failure(state: DeploymentState) -> None:
    limit = policies.DEFAULT_LIMITS_S[state]
    quiet = member("a", state, confirmed_at=None, state_since=NOW - limit, assigned_at=NOW - limit)

    assert planned(view([quiet])) == ()
    (mark,) = planned(view([quiet]), NOW + 0.1)
    assert isinstance(mark, MarkTimedOut)


def test_silence_is_counted_only_while_the_server_listened() -> None:
    quiet = member("a", S.SELFTEST, confirmed_at=None, state_since=NOW - 9000, assigned_at=NOW - 9100)

    assert plan(view([quiet]), NOW, listening_since=NOW - 600) == ()
    assert plan(view([quiet]), NOW, listening_since=NOW - 601) != ()


def test_an_attempt_that_reports_for_ever_is_ended() -> None:
    slow = member("a", S.DOWNLOADING, confirmed_at=None, assigned_at=NOW - 100, state_since=NOW - 1)
    patient = policy(attempt_limit_s=99.0, state_limits_s={"DOWNLOADING": 50.0})

    (mark,) = planned(view([slow], policy=patient))
    assert isinstance(mark, MarkTimedOut)
    assert mark.reason == "not COMMITTED within 99 s of its assignment, last seen in DOWNLOADING"


def test_a_proven_device_that_goes_quiet_in_an_open_wave_stops_counting() -> None:
    quiet = member("a", state_since=NOW - 300, heard_at=NOW - 181)

    (mark,) = planned(view([quiet, member("b")]))
    assert mark == MarkTimedOut(DeviceId("a"), "COMMITTED and confirmed, then no heartbeat for 180 s")
    earlier = replace(quiet, wave=1)
    later = view([earlier, member("b", wave=2)], wave(1, WaveState.PASSED), wave(2))
    assert planned(later) == (BeginBake(2),), "switched off at night, a week after its wave passed"


def test_a_regression_in_an_earlier_wave_counts_against_the_open_one() -> None:
    lost = member("a", code="state-timed-out", confirmed_at=None, state_since=NOW - 5, custody=Custody.RETURNED)
    known = replace(lost, state_since=NOW - 500)  # from before this wave opened: the earlier gate has judged it
    waves = (wave(1, WaveState.PASSED), wave(2))

    assert isinstance(planned(view([lost, member("b", wave=2)], *waves))[0], BreachWave)
    assert planned(view([known, member("b", wave=2)], *waves)) == (BeginBake(2),)


def test_after_a_breach_every_opened_wave_turns_back() -> None:
    waves = (wave(1, WaveState.PASSED), wave(2, WaveState.BREACHED), wave(3, WaveState.PENDING))

    assert planned(view([member("a")], *waves)) == (BeginRollback(1), BeginRollback(2))


def test_the_rollout_finishes_when_every_wave_has_passed() -> None:
    waves = (wave(1, WaveState.PASSED), wave(2, WaveState.PASSED))

    assert planned(view([member("a")], *waves)) == (FinishRollout(),)


# --- properties over any evidence -----------------------------------------------------------------------------------
RECENT = st.sampled_from([NOW - 170, NOW - 100, NOW - 61, NOW - 59, NOW - 1])
ANYTHING = st.fixed_dictionaries(
    {
        "state": st.sampled_from(DeploymentState),
        "code": st.sampled_from(["", "", "state-timed-out", "golden-frames-differ"]),
        "state_since": st.floats(NOW - 5000, NOW),
        "confirmed_at": st.none() | RECENT,
        "restored_at": st.none() | st.just(NOW - 1),
        "heard_at": st.none() | RECENT,
        "custody": st.sampled_from(Custody),
        "previous": st.sampled_from([OLD, NEW, None]),
        "is_active": st.sampled_from([True, True, False]),
    }
)
PROVEN = st.fixed_dictionaries({"heard_at": RECENT, "state_since": RECENT})
UNDERWAY = st.fixed_dictionaries(
    {"state": st.sampled_from([S.IDLE, S.DOWNLOADING, S.BAKING]), "state_since": RECENT, "confirmed_at": st.none()}
)
LOST = st.fixed_dictionaries(
    {"state": st.sampled_from([S.FAILED, S.ROLLED_BACK]), "custody": st.just(Custody.RETURNED)}
)
"""Most members are ordinary, so that waves get as far as passing; some are what no history could have led to."""


@st.composite
def wave_stands(draw: st.DrawFn) -> tuple[WaveStand, ...]:
    """Three waves: some over, one under way, the rest pending; or any states at all."""
    over = draw(st.integers(0, 3))
    under_way = draw(st.sampled_from([WaveState.RUNNING, WaveState.BAKING, WaveState.BAKING, WaveState.HELD]))
    likely = [WaveState.PASSED] * over + [under_way] + [WaveState.PENDING] * 2
    states = draw(st.just(likely[:3]) | st.lists(st.sampled_from(WaveState), min_size=3, max_size=3))
    return tuple(
        WaveStand(
            number=number, title="w", window_end=number * 3333, members=draw(st.integers(0, 8)), state=state,
            opened_at=NOW - 4000, baking_since=draw(RECENT), finished_at=NOW - 10,
        )
        for number, state in enumerate(states, 1)
    )  # fmt: skip


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Any evidence at all."""
    made = draw(st.lists(st.one_of(PROVEN, PROVEN, UNDERWAY, LOST, ANYTHING), max_size=10))
    waves = draw(wave_stands())
    current = next((each.number for each in waves if each.state in {WaveState.RUNNING, WaveState.BAKING}), 1)
    members = tuple(
        replace(member(f"d{number}"), wave=draw(st.sampled_from([current, current, 1, 2, 3])), **changes)
        for number, changes in enumerate(made)
    )
    places = draw(st.lists(st.integers(0, 9_999), max_size=6, unique=True))
    return Snapshot(
        id=1,
        state=draw(st.sampled_from([RolloutState.RUNNING] * 6 + list(RolloutState))),
        opened=draw(st.sampled_from([0, 3333, 6666, 9999])),
        policy=policies.parse(
            {
                "waves": [{"title": "w", "size": size} for size in (1, "33.33%", "100%")],
                "success_threshold": draw(st.sampled_from([0.01, 0.5, 0.9, 1.0])),
                "error_threshold": draw(st.sampled_from([0.0, 0.3, 0.9])),
                "min_sample": draw(st.integers(1, 4)),
                "bake_s": draw(st.sampled_from([0.0, 60.0])),
                "max_in_flight": draw(st.integers(1, 8)),
                "auto_rollback": draw(st.booleans()),
            }
        ),
        waves=waves,
        members=members,
        candidates=tuple(Candidate(DeviceId(f"c{offset}"), offset, NEW) for offset in sorted(places)),
    )


@pytest.mark.parametrize(
    "kind",
    [PassWave, Assign, MarkTimedOut, BreachWave, HoldWave, BeginBake, ResumeWave, OpenWave, FinishRollout, RollBack],
)
def test_the_evidence_below_leads_to_every_kind_of_action(kind: type[Action]) -> None:
    """Else the properties below would be about nothing."""
    quick = settings(max_examples=3000, phases=[Phase.generate], database=None)

    assert find(snapshots(), lambda made: any(isinstance(action, kind) for action in planned(made)), settings=quick)


def baking(made: Snapshot) -> Snapshot:
    """The same evidence, all of it about one baking wave."""
    wave_one = replace(made.waves[0], state=WaveState.BAKING)
    rest = tuple(replace(each, state=WaveState.PENDING) for each in made.waves[1:])
    members = tuple(replace(each, wave=1) for each in made.members)
    return replace(made, state=RolloutState.RUNNING, waves=(wave_one, *rest), members=members)


@settings(max_examples=400, deadline=None)
@given(snapshots().map(baking) | snapshots())
def test_no_wave_passes_without_confirmed_heartbeats(snapshot: Snapshot) -> None:
    """Counted here once more from the members alone, without the planner's words for it."""
    for action in planned(snapshot):
        if isinstance(action, PassWave):
            stand = next(each for each in snapshot.waves if each.number == action.wave)
            mine = [each for each in snapshot.members if each.wave == action.wave and each.is_active]
            proven = [
                each
                for each in mine
                if each.state == "COMMITTED" and each.code != "state-timed-out"
                and each.confirmed_at is not None and each.heard_at is not None
                and stand.baking_since is not None and each.heard_at >= stand.baking_since
            ]  # fmt: skip
            assert stand.state is WaveState.BAKING
            assert stand.baking_since is not None
            assert NOW - stand.baking_since >= snapshot.policy.bake_s
            assert proven
            assert len(proven) / len(mine) >= snapshot.policy.success_threshold
            assert all(each.state in TERMINAL or each.code == "state-timed-out" for each in mine)


@settings(max_examples=400, deadline=None)
@given(snapshots())
def test_assignments_keep_the_cap_and_go_to_nobody_twice(snapshot: Snapshot) -> None:
    assigned = [action for action in planned(snapshot) if isinstance(action, Assign)]
    on_the_way = [
        each for each in snapshot.members
        if each.is_active and each.code != "state-timed-out" and each.state not in UNSUCCESSFUL
        and not (each.state is S.COMMITTED and each.confirmed_at is not None)
    ]  # fmt: skip

    names = [action.device for action in assigned]
    assert len(set(names)) == len(names)
    assert not set(names) & {each.device for each in snapshot.members}
    if assigned:
        assert len(on_the_way) + len(assigned) <= snapshot.policy.max_in_flight
        assert {action.wave for action in assigned} <= {each.number for each in snapshot.waves}
        assert {each.offset < snapshot.opened for each in snapshot.candidates if each.device in names} == {True}


@settings(max_examples=400, deadline=None)
@given(snapshots())
def test_a_rollout_that_is_not_live_is_left_alone(snapshot: Snapshot) -> None:
    if snapshot.state not in {RolloutState.RUNNING, RolloutState.PAUSED}:
        assert planned(snapshot) == ()
    if snapshot.state is RolloutState.PAUSED:
        assert not any(isinstance(action, OpenWave | Assign | PassWave | BeginBake) for action in planned(snapshot))


@settings(max_examples=400, deadline=None)
@given(snapshots())
def test_a_plan_depends_on_nothing_but_its_arguments(snapshot: Snapshot) -> None:
    shuffled = replace(snapshot, members=tuple(reversed(snapshot.members)))

    assert planned(snapshot) == planned(snapshot)
    assert set(planned(snapshot)) == set(planned(shuffled))


@settings(max_examples=400, deadline=None)
@given(snapshots())
def test_what_has_ended_is_never_marked_again(snapshot: Snapshot) -> None:
    ended = {each.device for each in snapshot.members if each.state in UNSUCCESSFUL or each.code == "state-timed-out"}
    marked = {action.device for action in planned(snapshot) if isinstance(action, MarkTimedOut)}

    assert not marked & ended
