"""Rollouts over a real registry with real signed assignments, against simulated devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from fleet_protocol.errors import Conflict, NotFound
from fleet_protocol.fingerprint import Fingerprint
from fleet_server.db.models import Audit, Device
from tests.server.rollout_world import Fate, World

FLEET = ("cam-1", "cam-2", "cam-3", "cam-4", "cam-5")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def served(world: World) -> tuple[World, str, int]:
    """Five devices that serve version 1; its manifest, and the release of version 2."""
    world.enrol(*FLEET)
    first = world.release("1.0.0", 1)
    world.serve_everywhere(first)
    return world, world.manifest_of(first), world.release("2.0.0", 2)


def everyone(world: World, fate: Fate, manifest: str) -> None:
    for device in world.devices.values():
        device.fates = {manifest: fate}


def test_a_good_release_reaches_everybody_canary_first(served: tuple[World, str, int]) -> None:
    world, _, release = served

    rollout = world.begin(release)
    world.turn_until_wave(rollout, 1, "BAKING")
    assert len(world.rows(rollout)) == 1, "the second wave waits for the canary"
    world.turn_until(rollout, "FINISHED")

    assert world.wave_states(rollout) == ["PASSED", "PASSED"]
    assert {device.served for device in world.devices.values()} == {world.manifest_of(release)}
    assert "1 of 1 devices committed and confirmed by heartbeats" in world.waves(rollout)[0].verdict


@pytest.mark.attack("31")
def test_a_canary_that_fails_its_golden_frames_turns_the_rollout_back(served: tuple[World, str, int]) -> None:
    world, old, release = served
    everyone(world, Fate.FAILS_GOLDEN_FRAMES, world.manifest_of(release))

    rollout = world.begin(release)
    world.turn_until(rollout, "ROLLED_BACK")

    assert world.wave_states(rollout) == ["ROLLED_BACK", "PENDING"]
    assert len(world.rows(rollout)) == 1, "nobody but the canary was ever assigned"
    assert set(world.desired().values()) == {old}
    assert {device.served for device in world.devices.values()} == {old}
    verdict = world.waves(rollout)[0].verdict
    assert "1 of 1 devices failed or went silent: 100.0%" in verdict
    assert "golden-frames-differ" in verdict
    assert "all 1 devices returned" in verdict


def test_a_canary_that_goes_silent_counts_as_failed(served: tuple[World, str, int]) -> None:
    world, old, release = served
    everyone(world, Fate.GOES_SILENT, world.manifest_of(release))

    rollout = world.begin(release, rollback_limit_s=120.0)
    world.turn_until(rollout, "ROLLED_BACK")

    (row,) = world.rows(rollout).values()
    assert (row.state, row.code) == ("FAILED", "state-timed-out")
    assert "STAGED" in row.detail or "SELFTEST" in row.detail
    assert row.restored_at is None, "nothing was heard of it: nothing is claimed"
    assert "1 did not answer within 120 s" in world.waves(rollout)[0].verdict
    assert set(world.desired().values()) == {old}


def test_a_device_that_never_takes_up_its_assignment_counts_as_failed(served: tuple[World, str, int]) -> None:
    world, _, release = served
    everyone(world, Fate.NEVER_HEARD_OF, world.manifest_of(release))

    rollout = world.begin(release, state_limits_s={"IDLE": 60.0}, rollback_limit_s=60.0)
    world.turn_until(rollout, "ROLLED_BACK")

    assert "did not take up its assignment within 60 s" in next(iter(world.rows(rollout).values())).detail


def test_committed_without_a_heartbeat_that_says_so_is_no_success(served: tuple[World, str, int]) -> None:
    world, _, release = served
    everyone(world, Fate.SAYS_COMMITTED_BUT_SERVES_OLD, world.manifest_of(release))

    rollout = world.begin(release)
    world.turn_until(rollout, "ROLLED_BACK")

    (row,) = world.rows(rollout).values()
    assert (row.state, row.code, row.confirmed_at) == ("COMMITTED", "state-timed-out", None)
    assert "no heartbeat served the new model" in row.detail


def test_a_device_that_falls_back_after_its_commit_stops_the_wave(served: tuple[World, str, int]) -> None:
    world, old, release = served
    everyone(world, Fate.FALLS_BACK_LATER, world.manifest_of(release))

    rollout = world.begin(release, bake_s=120.0)
    world.turn_until(rollout, "ROLLED_BACK")

    assert {device.served for device in world.devices.values()} == {old}


def test_a_breach_in_a_later_wave_takes_the_release_back_everywhere(served: tuple[World, str, int]) -> None:
    world, old, release = served
    bad = world.manifest_of(release)
    rollout = world.begin(release, error_threshold=0.2)
    world.turn_until_wave(rollout, 1, "PASSED")
    canary = next(iter(world.rows(rollout)))
    everyone(world, Fate.FAILS_IN_BAKE, bad)

    world.turn_until(rollout, "ROLLED_BACK")

    assert world.wave_states(rollout) == ["ROLLED_BACK", "ROLLED_BACK"]
    assert world.devices[canary].served == old
    assert world.rows(rollout)[canary].restored_at is not None


def test_without_automatic_rollback_a_breach_waits_for_a_person(served: tuple[World, str, int]) -> None:
    world, old, release = served
    everyone(world, Fate.FAILS_GOLDEN_FRAMES, world.manifest_of(release))
    rollout = world.begin(release, auto_rollback=False)
    world.turn_until(rollout, "PAUSED")
    assert world.wave_states(rollout) == ["PAUSED", "PENDING"]

    with pytest.raises(Conflict, match="promote, abort or undo"):
        world.rollouts.resume(rollout, "ada", "again")
    world.rollouts.undo(rollout, "ada", "it is bad")
    world.turn_until(rollout, "ROLLED_BACK")

    assert set(world.desired().values()) == {old}


def test_a_person_can_promote_a_held_wave(served: tuple[World, str, int]) -> None:
    """One of four fails: within the errors allowed, below the success asked. The evidence decides nothing."""
    world, _, release = served
    manifest = world.manifest_of(release)
    rollout = world.begin(release, waves="4,100%", error_threshold=0.25)
    world.turn()
    failing = next(iter(world.rows(rollout)))
    world.devices[failing].fates = {manifest: Fate.FAILS_GOLDEN_FRAMES}
    world.turn_until_wave(rollout, 1, "HELD")
    assert "3 of 4 devices confirmed (75.0%), 100.0% are asked" in world.waves(rollout)[0].verdict

    world.rollouts.promote(rollout, "ada", "that camera has a broken lens")
    world.turn_until(rollout, "FINISHED")

    assert "promoted by ada: that camera has a broken lens" in world.waves(rollout)[0].verdict
    assert sum(device.served == manifest for device in world.devices.values()) == 4


def test_a_paused_rollout_assigns_nobody_and_resumes(served: tuple[World, str, int]) -> None:
    world, _, release = served
    rollout = world.begin(release)
    world.turn()
    world.rollouts.pause(rollout, "ada", "lunch")

    for _ in range(40):
        world.turn()
    assert len(world.rows(rollout)) == 1
    assert world.wave_states(rollout) == ["RUNNING", "PENDING"]
    world.rollouts.resume(rollout, "ada", "back")
    world.turn_until(rollout, "FINISHED")


def test_a_breach_is_answered_while_paused(served: tuple[World, str, int]) -> None:
    world, old, release = served
    everyone(world, Fate.FAILS_IN_BAKE, world.manifest_of(release))
    rollout = world.begin(release)
    world.turn()
    world.rollouts.pause(rollout, "ada", "lunch")

    world.turn_until(rollout, "ROLLED_BACK")

    assert {device.served for device in world.devices.values()} == {old}


def test_an_abort_keeps_the_proven_and_takes_back_the_rest(served: tuple[World, str, int]) -> None:
    world, old, release = served
    new = world.manifest_of(release)
    rollout = world.begin(release)
    world.turn_until_wave(rollout, 2, "RUNNING")
    world.turn()
    canary = next(name for name, row in world.rows(rollout).items() if row.wave == 1)

    aborted = world.rollouts.abort(rollout, "ada", "wrong week")
    for _ in range(20):
        world.turn()

    assert (aborted.state, world.wave_states(rollout)) == ("ABORTED", ["PASSED", "HELD"])
    assert world.devices[canary].served == new
    assert {device.served for name, device in world.devices.items() if name != canary} == {old}
    assert all(row.restored_at is not None for name, row in world.rows(rollout).items() if name != canary)


def test_an_undo_after_the_end_takes_everything_back(served: tuple[World, str, int]) -> None:
    world, old, release = served
    rollout = world.begin(release)
    world.turn_until(rollout, "FINISHED")

    undone = world.rollouts.undo(rollout, "ada", "customers complain")
    assert undone.state == "RUNNING"
    assert world.wave_states(rollout) == ["ROLLING_BACK", "ROLLING_BACK"]
    world.turn_until(rollout, "ROLLED_BACK")

    assert {device.served for device in world.devices.values()} == {old}
    assert all(row.restored_at is not None for row in world.rows(rollout).values())


def test_a_first_model_is_taken_back_to_nothing(world: World) -> None:
    world.enrol(*FLEET)
    release = world.release("1.0.0", 1)
    rollout = world.begin(release)
    world.turn_until(rollout, "FINISHED")

    world.rollouts.undo(rollout, "ada", "not yet")
    world.turn_until(rollout, "ROLLED_BACK")

    assert world.desired() == {}
    assert {device.served for device in world.devices.values()} == {""}


def test_undoing_a_rollout_that_changed_nothing_changes_nothing(served: tuple[World, str, int]) -> None:
    world, old, _ = served
    again = world.begin(1)
    world.turn_until(again, "FINISHED")

    world.rollouts.undo(again, "ada", "mistake")
    world.turn_until(again, "ROLLED_BACK")

    assert set(world.desired().values()) == {old}


def test_a_finished_rollout_can_still_be_undone_after_a_later_one_rolled_back(served: tuple[World, str, int]) -> None:
    world, _, release = served
    everyone(world, Fate.FAILS_GOLDEN_FRAMES, world.manifest_of(release))
    world.turn_until(world.begin(release), "ROLLED_BACK")

    world.rollouts.undo(1, "ada", "the first one too")
    world.turn_until(1, "ROLLED_BACK")

    assert world.desired() == {}


def test_only_one_rollout_moves_a_slot_at_a_time(served: tuple[World, str, int]) -> None:
    world, _, release = served
    first = world.begin(release)
    second = world.rollouts.create(release, "all", world.policy(), "me too", "bob")

    with pytest.raises(Conflict, match=f"rollout {first} is still moving slot textline"):
        world.rollouts.start(second.id, "bob", "now")
    world.rollouts.abort(first, "ada", "make room")
    assert world.rollouts.start(second.id, "bob", "now").state == "RUNNING"


def test_a_server_that_was_down_does_not_take_its_own_silence_for_the_devices(served: tuple[World, str, int]) -> None:
    world, _, release = served
    rollout = world.begin(release)
    world.turn()
    world.turn()

    world.now += 86_000.0
    world.restart()
    world.rollouts.tick(world.now)
    world.turn_until(rollout, "FINISHED")

    assert world.wave_states(rollout) == ["PASSED", "PASSED"]


def test_silence_after_a_reconnect_is_counted_from_the_reconnect(served: tuple[World, str, int]) -> None:
    world, _, release = served
    rollout = world.begin(release)
    world.turn()
    world.now += 50_000.0
    world.rollouts.heard_again(world.now)

    assert world.rollouts.tick(world.now) == 0
    world.now += 901.0
    assert world.rollouts.tick(world.now) > 0
    assert {row.code for row in world.rows(rollout).values()} == {"state-timed-out"}


def test_a_late_joiner_becomes_a_member(served: tuple[World, str, int]) -> None:
    world, _, release = served
    rollout = world.begin(release)
    world.turn_until_wave(rollout, 2, "RUNNING")
    world.enrol("newcomer")

    world.turn_until(rollout, "FINISHED")

    assert world.devices["newcomer"].served == world.manifest_of(release)


def test_a_revoked_device_is_evidence_of_nothing(served: tuple[World, str, int]) -> None:
    world, _, release = served
    rollout = world.begin(release)
    world.turn()
    (canary,) = world.rows(rollout)
    with world.registry.sessions.begin() as session:
        session.get_one(Device, canary).state = "revoked"

    for _ in range(60):
        world.turn()

    assert world.wave_states(rollout) == ["HELD", "PENDING"], "a wave without evidence does not pass"
    assert "0 devices ended, 1 are needed" in world.waves(rollout)[0].verdict


def test_a_preview_names_members_variants_bytes_and_who_cannot_take_part(world: World) -> None:
    world.enrol(*FLEET, tags={"site": "berlin"})
    world.enrol(
        "old-one", tags={"site": "berlin"}, fingerprint=Fingerprint("generic-x86_64", "onnxruntime", "1.2", "x86_64")
    )
    world.enrol("quiet-one", tags={"site": "berlin"}, fingerprint=None)
    world.enrol("elsewhere", tags={"site": "paris"})
    release = world.release("1.0.0", 1)

    preview = world.rollouts.preview(release, "site=berlin", world.policy(waves="1,40%,100%"))

    assert sum(wave.members for wave in preview.waves) == len(FLEET)
    assert {device.device for device in preview.devices} == set(FLEET)
    assert {device.variant for device in preview.devices} == {"ort-int8"}
    assert preview.download_bytes == 5 * 41_000
    assert {each.device: each.reason for each in preview.excluded} == {
        "old-one": "needs onnxruntime 1.17 or newer, this device has 1.2",
        "quiet-one": "it has not yet reported what it can run; it joins once it does",
    }
    made = world.rollouts.create(release, "site=berlin", world.policy(waves="1"), "r", "ada", salt=preview.salt)
    world.rollouts.start(made.id, "ada", "go")
    world.rollouts.tick(world.now)
    assert set(world.rows(made.id)) == {device.device for device in preview.devices if device.wave == 1}


def test_a_rollout_for_nobody_is_refused(world: World) -> None:
    world.enrol("cam-1", fingerprint=None)
    release = world.release("1.0.0", 1)

    with pytest.raises(Conflict, match="no device matches"):
        world.rollouts.create(release, "site=nowhere", world.policy(), "r", "ada")
    with pytest.raises(Conflict, match="cam-1: it has not yet reported"):
        world.rollouts.create(release, "all", world.policy(), "r", "ada")
    with pytest.raises(NotFound, match="no release 99"):
        world.rollouts.preview(99, "all", world.policy())
    with pytest.raises(NotFound, match="no rollout 7"):
        world.rollouts.start(7, "ada", "go")


@pytest.mark.parametrize("verb", ["start", "pause", "resume", "promote", "abort", "undo"])
def test_a_rollout_that_ended_rolled_back_obeys_nobody(served: tuple[World, str, int], verb: str) -> None:
    world, _, release = served
    everyone(world, Fate.FAILS_GOLDEN_FRAMES, world.manifest_of(release))
    rollout = world.begin(release)
    world.turn_until(rollout, "ROLLED_BACK")

    with pytest.raises(Conflict):
        getattr(world.rollouts, verb)(rollout, "ada", "why not")

    assert world.rollout(rollout).state == "ROLLED_BACK"


def test_every_command_and_every_verdict_is_audited(served: tuple[World, str, int]) -> None:
    world, _, release = served
    everyone(world, Fate.FAILS_GOLDEN_FRAMES, world.manifest_of(release))
    rollout = world.begin(release)
    world.turn_until(rollout, "ROLLED_BACK")

    with world.registry.readers() as session:
        written = session.scalars(select(Audit).where(Audit.subject == str(rollout)).order_by(Audit.id)).all()
    assert [(row.who, row.action) for row in written] == [
        ("ada", "rollout.create"),
        ("ada", "rollout.start"),
        ("fleet-server", "rollout.wave-opened"),
        ("fleet-server", "rollout.wave-breached"),
        ("fleet-server", "rollout.wave-rolled-back"),
        ("fleet-server", "rollout.rolled-back"),
    ]
