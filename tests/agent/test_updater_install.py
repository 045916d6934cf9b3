"""Whole deployments on one device: real trust, real ciphertext on a real disk, simulated time, no broker, no runtime."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from edge_agent.ports import BakeWindow
from edge_agent.updater import Policy
from fleet_protocol import topics
from fleet_protocol.errors import GoldenFramesDiffer
from fleet_protocol.identifiers import SlotName
from fleet_protocol.manifest import RuntimeRequirement
from fleet_protocol.states import NEXT, DeploymentState
from tests.agent.tuf_world import DAY, DEVICE, NOW, SLOT, Device, SimulatedInference, World
from tests.e2e.plaintext import leaking_files, telling_blocks
from tests.protocol import samples

S = DeploymentState
ASSIGNMENT = topics.ASSIGNMENT.of(DEVICE)
WHOLE = [
    S.OFFERED, S.PREFLIGHT, S.DOWNLOADING, S.DOWNLOADING, S.DOWNLOADING, S.DOWNLOADING,
    S.VERIFIED, S.STAGED, S.SELFTEST, S.SWITCHING, S.BAKING, S.COMMITTED,
]  # fmt: skip


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def installed(world: World, tmp_path: Path) -> Device:
    """A device that serves 1.0.0."""
    world.assign(world.release("1.0.0"))
    device = Device(world, tmp_path / "state").start().run(12)
    assert device.serves == "1.0.0"
    return device


def test_an_assignment_is_installed_proved_and_committed(installed: Device) -> None:
    assert installed.states() == WHOLE
    assert installed.last.served_sha256 == installed.last.manifest_sha256
    assert installed.journal.committed(SLOT).digest == installed.last.manifest_sha256  # type: ignore[union-attr]
    assert not installed.inference.kept


def test_every_report_follows_the_contracts_table(installed: Device, world: World) -> None:
    world.assign(world.release("2.0.0"))
    installed.run(12)
    for execution in (1, 2):
        states = installed.states(execution)
        assert all(after in NEXT[before] for before, after in pairwise(states))
    versions = [(each.execution, each.version) for each in installed.reports()]
    assert versions == sorted(versions)


def test_a_newer_version_replaces_the_old_which_stays_on_disk_for_a_way_back(installed: Device, world: World) -> None:
    world.assign(world.release("2.0.0"))
    installed.run(12)
    world.assign(world.release("3.0.0"))
    installed.run(12)
    assert installed.serves == "3.0.0"
    running, before = installed.journal.committed(SLOT), installed.journal.model(SLOT, "previous")
    assert running is not None
    assert before is not None
    assert installed.blobs() == {f"{running.blob}.blob", f"{before.blob}.blob"}


@pytest.mark.attack("14")
def test_no_file_of_the_device_holds_plaintext(installed: Device) -> None:
    _, payload = samples.sample(200_000, version="1.0.0", counter=1)
    assert leaking_files(telling_blocks(payload), [installed.state]) == []


def test_an_operator_may_go_back_to_an_older_version_without_downloading_it_again(
    installed: Device, world: World
) -> None:
    world.assign(world.release("2.0.0"))
    installed.run(12)
    asked = len(installed.link.asked)
    record = installed.journal.model(SLOT, "previous")
    assert record is not None
    world.broker.retain(ASSIGNMENT, world.envelope(record.item))  # an ordinary assignment with a higher seq
    installed.run(12)
    assert installed.serves == "1.0.0"
    assert not [topic for topic in installed.link.asked[asked:] if "/blob/" in topic]


def test_an_assignment_that_repeats_what_runs_is_committed_at_once(installed: Device, world: World) -> None:
    record = installed.journal.committed(SLOT)
    assert record is not None
    world.broker.retain(ASSIGNMENT, world.envelope(record.item))
    installed.run(1)
    assert installed.states(2) == [S.OFFERED, S.PREFLIGHT, S.COMMITTED]


def test_the_same_envelope_again_does_nothing(installed: Device, world: World) -> None:
    before, reports = installed.remembered(), len(installed.reports())
    world.broker.links[-1].offer(ASSIGNMENT)
    installed.run(3)
    assert (installed.remembered(), len(installed.reports()), installed.refusal) == (before, reports, None)


def test_a_slot_that_the_assignment_no_longer_names_serves_nothing(installed: Device, world: World) -> None:
    world.assign()
    installed.run(2)
    assert installed.serves is None
    assert installed.blobs() == set()
    assert Device(world, installed.state, inference=SimulatedInference()).start().serves is None


@pytest.mark.attack("31")
def test_a_model_that_fails_its_golden_frames_never_serves(installed: Device, world: World) -> None:
    installed.inference.flaw["2.0.0"] = GoldenFramesDiffer("frame 1: 0.4 off")
    world.assign(world.release("2.0.0"))
    installed.run(6)
    assert installed.serves == "1.0.0"
    assert (installed.last.state, installed.last.code) == (S.REJECTED, "golden-frames-differ")
    assert S.SWITCHING not in installed.states(2)
    assert len(installed.blobs()) == 1, "the refused blob gives its room back"


@pytest.mark.attack("31")
@pytest.mark.parametrize(
    "window",
    [
        BakeWindow(50, 50, 5.0, is_alive=True),
        BakeWindow(100, 0, 999.0, is_alive=True),
        BakeWindow(0, 0, None, is_alive=False, cause_of_death="signal 9"),
        BakeWindow(3, 0, 5.0, is_alive=True),
    ],
)
def test_a_bake_that_goes_badly_returns_to_the_old_model(installed: Device, world: World, window: BakeWindow) -> None:
    world.assign(world.release("2.0.0"))
    installed.inference.window = window
    installed.run(12)
    assert installed.serves == "1.0.0"
    assert installed.states(2)[-3:] == [S.SWITCHING, S.BAKING, S.ROLLED_BACK]
    assert installed.last.code == "bake-failed"
    assert installed.last.served_sha256 != installed.last.manifest_sha256


def test_a_first_model_that_bakes_badly_leaves_nothing_served(world: World, tmp_path: Path) -> None:
    world.assign(world.release("1.0.0"))
    device = Device(world, tmp_path / "state")
    device.inference.window = BakeWindow(0, 30, None, is_alive=True)
    device.start().run(8)
    assert (device.serves, device.last.state, device.last.served_sha256) == (None, S.ROLLED_BACK, "")


def test_a_newer_assignment_cancels_a_download_and_the_newer_model_is_installed(
    installed: Device, world: World
) -> None:
    slow = world.release("2.0.0")
    held = {
        topic: world.broker.retained.pop(topic) for topic in list(world.broker.retained) if slow.blob_digest in topic
    }
    world.assign(slow)
    installed.run(3)
    assert installed.last.state is S.DOWNLOADING
    assert held
    world.assign(world.release("3.0.0"))
    installed.run(12)
    assert installed.serves == "3.0.0"
    assert (installed.states(2)[-1], installed.states(3)[-1]) == (S.FAILED, S.COMMITTED)
    assert {each.code for each in installed.reports() if each.execution == 2 and each.state is S.FAILED} == {
        "superseded"
    }


def test_a_newer_assignment_takes_back_a_model_that_bakes_and_then_repeats_what_runs(
    installed: Device, world: World
) -> None:
    old = installed.journal.committed(SLOT)
    assert old is not None
    world.assign(world.release("2.0.0"))
    installed.run(3)
    assert (installed.last.state, installed.serves) == (S.BAKING, "2.0.0")
    world.broker.retain(ASSIGNMENT, world.envelope(old.item))
    installed.run(1)
    assert installed.serves == "1.0.0"
    assert installed.states(2)[-1] is S.ROLLED_BACK
    assert installed.states(3) == [S.OFFERED, S.PREFLIGHT, S.COMMITTED]


def test_a_newer_assignment_that_wants_what_bakes_lets_it_finish(installed: Device, world: World) -> None:
    second = world.release("2.0.0")
    world.assign(second)
    installed.run(3)
    world.assign(second)
    installed.run(8)
    assert (installed.states(2)[-1], installed.states(3)[-1]) == (S.COMMITTED, S.COMMITTED)
    assert installed.states(2).count(S.BAKING) == 1


def test_a_partly_refused_assignment_changes_no_slot(world: World, tmp_path: Path) -> None:
    pose = SlotName("pose")
    good = world.release("1.0.0")
    runtime = RuntimeRequirement(name="openvino", min_version="2026.4", architectures=("x86_64",), precision="int8")
    bad = world.release("4.0.0", slot=pose, runtime=runtime, model="pose")
    world.assign(good, bad)
    device = Device(world, tmp_path / "state", slots=(SLOT, pose)).start().run(5)
    codes = {each.slot: each.code for each in device.reports() if each.state is S.REJECTED}
    assert codes == {SLOT: "incomplete-assignment", pose: "wrong-runtime"}
    assert device.serves is None
    assert device.blobs() == set()


def test_an_assignment_that_is_faster_than_its_metadata_waits_for_it(world: World, tmp_path: Path) -> None:
    device = Device(world, tmp_path / "state", policy=Policy(bake_s=5.0, metadata_wait_s=60.0)).start()
    world.assign(world.release("1.0.0", published=False))
    device.run(10)
    assert device.last.state is S.OFFERED
    world.publish_metadata()
    device.run(12)
    assert device.serves == "1.0.0"


def test_an_assignment_whose_manifest_does_not_come_fails_by_its_timer(installed: Device, world: World) -> None:
    second = world.release("2.0.0")
    del world.broker.retained[f"edgefleet/v1/meta/manifest/{second.digest}"]
    world.assign(second)
    installed.run(300)
    installed.run(310)
    assert (installed.last.state, installed.last.code, installed.serves) == (S.FAILED, "state-timed-out", "1.0.0")


def test_expired_metadata_stops_installs_and_nothing_that_runs(installed: Device, world: World) -> None:
    world.assign(world.release("2.0.0"))
    installed.link.cut()
    installed.clock.pass_s(2 * DAY)
    installed.link.connect()
    installed.run(3)
    assert (installed.serves, installed.refusal, installed.journal.remembered.seq) == ("1.0.0", "expired-metadata", 1)
    repository = world.repository
    for role in (repository.timestamp, repository.snapshot):
        role.signed.expires = repository.at(9 * DAY)
    repository.publish()
    world.publish_metadata()
    installed.run(12)
    assert installed.serves == "2.0.0", "fresh metadata lets the waiting assignment through"


def test_every_connection_repeats_the_last_word_on_each_slot(installed: Device) -> None:
    before = len(installed.reports())
    installed.link.cut()
    installed.link.connect()
    installed.run(1)
    assert [each.state for each in installed.reports()[before:]] == [S.COMMITTED]


def test_a_restart_serves_the_committed_model_before_any_network(installed: Device, world: World) -> None:
    again = Device(world, installed.state, inference=SimulatedInference())
    again.runner.boot()
    assert again.serves == "1.0.0"
    assert not again.link.is_connected


@pytest.mark.attack("32")
def test_a_committed_blob_that_rots_on_disk_falls_back_to_the_model_before_it(installed: Device, world: World) -> None:
    world.assign(world.release("2.0.0"))
    installed.run(12)
    record = installed.journal.committed(SLOT)
    assert record is not None
    path = installed.store.path(record.blob)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    again = Device(world, installed.state, inference=SimulatedInference())
    again.runner.boot()
    assert again.serves == "1.0.0"


def test_standing_tells_how_far_trust_has_come(installed: Device, world: World) -> None:
    standing = installed.runner.standing
    assert (standing.assignment_seq, standing.root_version) == (1, 1)
    assert standing.timestamp_version == world.repository.timestamp.signed.version
    assert standing.trusted_time_s == NOW


def test_a_slot_that_this_device_does_not_have_is_refused(installed: Device, world: World) -> None:
    world.assign(world.release("2.0.0", slot="pose", model="pose"))
    installed.run(3)
    assert (installed.last.slot, installed.last.state, installed.last.code) == ("pose", S.REJECTED, "wrong-slot")


def test_a_served_digest_is_noted_for_status(installed: Device) -> None:
    assert installed.journal.served == {SLOT: installed.last.manifest_sha256}


def test_the_world_can_be_looked_at(world: World, tmp_path: Path) -> None:
    world.assign(world.release("1.0.0"))
    world.dump(tmp_path)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(world.broker.retained)
