"""Batches of messages over a real registry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import func, select

from fleet_protocol import messages
from fleet_protocol.identifiers import DeviceId
from fleet_protocol.messages import DeploymentReport, MissingChunks, Presence
from fleet_protocol.states import DeploymentState
from fleet_protocol.topics import DEPLOYMENT, HEALTH, MISSING, PRESENCE
from fleet_server.db.models import Audit, DeploymentEvent, Device, HealthHistory, LatestHealth
from fleet_server.ports import Incoming
from fleet_server.services.ingest import Ingested
from tests.server.rollout_world import NOW, SLOT, World, health, incoming

S = DeploymentState
ROAD = (S.OFFERED, S.PREFLIGHT, S.DOWNLOADING, S.VERIFIED, S.STAGED, S.SELFTEST, S.SWITCHING, S.BAKING, S.COMMITTED)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.enrol("cam-1", "cam-2")
    yield made
    made.close()


@pytest.fixture
def assigned(world: World) -> tuple[World, int, str]:
    """Both devices are assigned a manifest under their assignment 1 by the rollout."""
    release = world.release("1.0.0", 1)
    rollout = world.begin(release, waves="100%")
    world.rollouts.tick(world.now)
    return world, rollout, world.manifest_of(release)


def presence(device: str, *, online: bool) -> Incoming:
    return Incoming(DeviceId(device), PRESENCE, messages.encode(Presence(online=online, boot_id="b")), is_json=False)


def device(world: World, name: str = "cam-1") -> Device:
    with world.registry.readers() as session:
        return session.get_one(Device, name)


def events(world: World) -> list[DeploymentEvent]:
    with world.registry.readers() as session:
        return list(session.scalars(select(DeploymentEvent).order_by(DeploymentEvent.id)))


def audits(world: World) -> list[str]:
    with world.registry.readers() as session:
        return list(session.scalars(select(Audit.reason).where(Audit.action == "ingest.refused")))


def report(manifest: str, state: DeploymentState, version: int, **changes: object) -> DeploymentReport:
    fields = {"assignment_seq": 1, "execution": 1, "slot": SLOT, "manifest_sha256": manifest, "at": NOW}
    return DeploymentReport(state=state, version=version, **(fields | changes))  # type: ignore[arg-type]


def test_presence_comes_and_goes_and_a_last_will_is_no_sign_of_life(world: World) -> None:
    world.ingest.apply([presence("cam-1", online=True)], NOW)
    assert (device(world).online, device(world).last_seen) == (True, NOW)

    world.ingest.apply([presence("cam-1", online=False)], NOW + 60)
    assert (device(world).online, device(world).last_seen) == (False, NOW)


@pytest.mark.attack("26")
def test_a_revoked_device_stays_offline_and_is_not_listened_to(world: World) -> None:
    with world.registry.sessions.begin() as session:
        session.get_one(Device, "cam-1").state = "revoked"

    done = world.ingest.apply(
        [presence("cam-1", online=True), incoming("cam-1", health(seq=1, at=NOW, served="", assignment_seq=0))], NOW
    )

    assert (done.taken, done.malformed) == (0, 2)
    assert (device(world).online, device(world).last_seen) == (False, None)
    with world.registry.readers() as session:
        assert session.get(LatestHealth, "cam-1") is None
    assert audits(world) == ["presence: the device is revoked"]


def test_the_newest_health_report_wins_and_every_one_is_history(world: World) -> None:
    batch = [
        incoming("cam-1", health(seq=seq, at=NOW + seq, served=digest * 64, assignment_seq=0))
        for seq, digest in [(1, "a"), (3, "c"), (2, "b"), (3, "d")]
    ]
    world.ingest.apply(batch, NOW + 5)
    world.ingest.apply(batch, NOW + 6)  # the broker delivers again what was not acknowledged

    with world.registry.readers() as session:
        latest = session.get_one(LatestHealth, "cam-1")
        assert (latest.seq, latest.served, latest.received_at) == (3, {SLOT: "c" * 64}, NOW + 5)
        assert session.scalar(select(func.count()).select_from(HealthHistory)) == 3


def test_a_health_report_tells_what_the_board_can_run(world: World) -> None:
    world.enrol("cam-9", fingerprint=None)
    world.say("cam-9", health(seq=1, at=NOW, served="", assignment_seq=0))

    assert device(world, "cam-9").fingerprint == {
        "board": "generic-x86_64", "runtime": "onnxruntime", "runtime_version": "1.28.0", "architecture": "x86_64",
    }  # fmt: skip


def test_history_beyond_its_time_goes_in_slices(world: World) -> None:
    for seq in range(1, 8):
        world.say("cam-1", health(seq=seq, at=NOW, served="", assignment_seq=0))
    later = NOW + 7 * 86_400 + 1

    assert [world.ingest.prune(later, limit=3) for _ in range(4)] == [3, 3, 1, 0]
    assert world.ingest.prune(NOW) == 0


def test_a_deployment_is_followed_to_its_confirmed_end(assigned: tuple[World, int, str]) -> None:
    world, rollout, manifest = assigned
    for version, state in enumerate(ROAD, 1):
        assert world.say("cam-1", report(manifest, state, version)).disbelieved == 0
    row = world.rows(rollout)["cam-1"]
    assert (row.state, row.version, row.confirmed_at) == ("COMMITTED", 9, None)

    world.say("cam-1", health(seq=1, at=NOW, served=manifest, assignment_seq=1))

    assert world.rows(rollout)["cam-1"].confirmed_at == world.now
    assert [event.state for event in events(world)] == [str(state) for state in ROAD]


def test_a_whole_deployment_may_come_in_one_batch(assigned: tuple[World, int, str]) -> None:
    world, rollout, manifest = assigned
    batch = [
        incoming("cam-1", report(manifest, state, version))
        for version, state in enumerate((S.OFFERED, S.PREFLIGHT, S.COMMITTED), 1)
    ]
    batch.append(incoming("cam-1", health(seq=1, at=NOW, served=manifest, assignment_seq=1)))

    assert world.ingest.apply(batch, NOW) == Ingested(taken=4, malformed=0, disbelieved=0, missing=())
    row = world.rows(rollout)["cam-1"]
    assert (row.state, row.confirmed_at) == ("COMMITTED", NOW)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"version": 2, "state": S.BAKING}, "BAKING cannot follow OFFERED"),
        ({"version": 1, "state": S.PREFLIGHT}, "attempt 1, report 1 is not after attempt 1, report 1"),
        (
            {"version": 2, "state": S.PREFLIGHT, "assignment_seq": 2},
            "assignment 2 was never issued to it, the newest is 1",
        ),
        (
            {"version": 2, "state": S.PREFLIGHT, "assignment_seq": 0},
            "assignment 0 was never issued to it, the newest is 1",
        ),
    ],
)
def test_a_report_that_cannot_be_true_is_kept_as_a_fault_and_moves_nothing(
    assigned: tuple[World, int, str], changes: dict[str, object], fault: str
) -> None:
    world, rollout, manifest = assigned
    good = report(manifest, S.OFFERED, 1)
    world.say("cam-1", good)

    done = world.say("cam-1", msgspec.structs.replace(good, **changes))

    assert done.disbelieved == 1
    assert [event.fault for event in events(world)] == ["", fault]
    assert world.rows(rollout)["cam-1"].state == "OFFERED"


def test_one_device_cannot_speak_for_another_ones_attempt(assigned: tuple[World, int, str]) -> None:
    world, rollout, manifest = assigned
    world.say("cam-2", report(manifest, S.OFFERED, 1))

    assert {name: row.state for name, row in world.rows(rollout).items()} == {"cam-1": "IDLE", "cam-2": "OFFERED"}


def test_a_repeated_newest_report_leaves_no_trace(assigned: tuple[World, int, str]) -> None:
    world, _, manifest = assigned
    for _ in range(3):
        assert world.say("cam-1", report(manifest, S.OFFERED, 1)).disbelieved == 0
    world.restart()
    world.say("cam-1", report(manifest, S.OFFERED, 1))

    assert len(events(world)) == 1


def test_a_reissued_assignment_does_not_orphan_the_attempt(assigned: tuple[World, int, str]) -> None:
    """Another slot changed, so the same item came again under the next number; the device reports that number."""
    world, rollout, manifest = assigned
    with world.registry.sessions.begin() as session:
        assert world.assigner.issue(session, DeviceId("cam-1"), world.now) == 2

    world.say("cam-1", report(manifest, S.OFFERED, 1, assignment_seq=2))

    assert world.rows(rollout)["cam-1"].state == "OFFERED"


def test_the_return_to_a_model_that_was_committed_before_is_no_contradiction(assigned: tuple[World, int, str]) -> None:
    """A later assignment names the model again (a bad version was taken back): another execution, the old one stays ended."""
    world, rollout, manifest = assigned
    for version, state in enumerate(ROAD, 1):
        world.say("cam-1", report(manifest, state, version))
    with world.registry.sessions.begin() as session:
        world.assigner.issue(session, DeviceId("cam-1"), world.now)

    for version, state in enumerate((S.OFFERED, S.PREFLIGHT, S.COMMITTED), 1):
        world.say("cam-1", report(manifest, state, version, assignment_seq=2, execution=2))

    assert [each.fault for each in events(world)] == [""] * 12
    assert world.rows(rollout)["cam-1"].execution == 1


def test_a_report_about_what_no_rollout_assigned_is_kept_without_blame(assigned: tuple[World, int, str]) -> None:
    world, rollout, _ = assigned
    done = world.say("cam-1", report("f" * 64, S.OFFERED, 1))

    assert (done.disbelieved, events(world)[0].fault) == (0, "")
    assert world.rows(rollout)["cam-1"].state == "IDLE"


def test_garbage_is_counted_and_audited_once_per_device_and_hour(world: World) -> None:
    garbage = [Incoming(DeviceId("cam-1"), topic, b"\xff\x00", is_json=False) for topic in (HEALTH, DEPLOYMENT) * 50]
    good = incoming("cam-2", health(seq=1, at=NOW, served="", assignment_seq=0))

    done = world.ingest.apply([*garbage, good], NOW)
    world.ingest.apply(garbage, NOW + 3599)
    assert (done.taken, done.malformed, len(audits(world))) == (1, 100, 1)
    world.ingest.apply(garbage, NOW + 3600)
    assert len(audits(world)) == 2
    assert audits(world)[0].startswith("health: not a HealthReport")


@pytest.mark.attack("26c")
def test_a_device_that_is_not_in_the_registry_is_refused(world: World) -> None:
    done = world.ingest.apply([presence("ghost", online=True)], NOW)

    assert (done.taken, done.malformed) == (0, 1)
    assert audits(world) == ["presence: this device is not in the registry"]


def test_missing_chunks_are_handed_to_the_publisher(world: World) -> None:
    asked = MissingChunks(blob_sha256="a" * 64, blob_bytes=100_000, bitmap=b"\x05")
    done = world.ingest.apply([Incoming(DeviceId("cam-1"), MISSING, messages.encode(asked), is_json=False)], NOW)

    assert done.missing == (("cam-1", asked),)


def test_json_from_people_is_taken_like_the_compact_form(world: World) -> None:
    payload = messages.encode_json(Presence(online=True, boot_id="b"))
    world.ingest.apply([Incoming(DeviceId("cam-1"), PRESENCE, payload, is_json=True)], NOW)

    assert device(world).online


def test_long_or_odd_text_fits_its_column(assigned: tuple[World, int, str]) -> None:
    world, rollout, manifest = assigned
    world.say("cam-1", report(manifest, S.OFFERED, 1))
    world.say("cam-1", report(manifest, S.FAILED, 2, code="c" * 999, detail="d\0" * 999))

    row = world.rows(rollout)["cam-1"]
    assert (row.state, len(row.code), len(row.detail)) == ("FAILED", 64, 400)
    assert "\0" not in row.detail


def test_a_batch_that_was_taken_in_is_announced(assigned: tuple[World, int, str]) -> None:
    world, rollout, manifest = assigned

    async def heard() -> set[str]:
        feed = world.changes.subscribe()
        first = asyncio.ensure_future(anext(feed))
        while not world.changes.subscribers:  # noqa: ASYNC110 - one turn of the loop, no time passes
            await asyncio.sleep(0)
        world.say("cam-1", report(manifest, S.OFFERED, 1))
        return {str(await first), str(await anext(feed))}

    assert asyncio.run(asyncio.wait_for(heard(), 5)) == {"device:cam-1", f"rollout:{rollout}"}
