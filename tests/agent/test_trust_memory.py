"""What the device remembers survives damage, wrong clocks and a full disk; TUF's errors become the contract's."""

from __future__ import annotations

import inspect
import sqlite3
from pathlib import Path

import pytest
import tuf.api.exceptions
import tuf.api.serialization
from tuf.api.metadata import Metadata

from edge_agent import trust
from edge_agent.errors import DamagedJournal, JournalUnwritable
from edge_agent.journal import Journal, read_only
from edge_agent.records import Remembered, decode, encode
from edge_agent.second_copy import SecondCopy
from fleet_protocol import topics
from fleet_protocol.errors import FleetError, RolledBackMetadata
from fleet_protocol.states import DeploymentState
from fleet_protocol.trust import MetadataVersions, verify_assignment
from tests.agent.tuf_world import DAY, DEVICE, NOW, SLOT, Clock, Device, SimulatedInference, World
from tests.protocol import samples

S = DeploymentState
ASSIGNMENT = topics.ASSIGNMENT.of(DEVICE)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def installed(world: World, tmp_path: Path) -> Device:
    world.assign(world.release("1.0.0"))
    device = Device(world, tmp_path / "state").start().run(12)
    device.close()
    return device


def restarted(device: Device, **changes: object) -> Device:
    return Device(device.world, device.state, clock=device.clock, inference=SimulatedInference(), **changes)  # type: ignore[arg-type]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)


def test_a_damaged_journal_loses_nothing(installed: Device) -> None:
    damage(installed.state / "journal.db")
    again = restarted(installed)
    assert isinstance(again.loss, DamagedJournal)
    again.runner.boot()
    assert again.serves == "1.0.0", "the second copy knows what runs, before any network"
    assert again.journal.remembered.seq == 1
    assert list(installed.state.glob("journal.db.damaged-*")), "the damaged file is kept for a person"


def test_after_a_damaged_journal_the_retained_assignment_is_taken_up_again(installed: Device) -> None:
    (installed.state / "journal.db").unlink()
    again = restarted(installed).start().run(5)
    assert again.refusal is None
    assert (again.last.execution, again.last.state) == (2, S.COMMITTED), "execution numbers go on growing"
    assert not again.journal.is_lost


def test_after_a_damaged_journal_an_older_assignment_is_still_a_replay(installed: Device, world: World) -> None:
    old = world.broker.retained[ASSIGNMENT]
    world.assign(world.release("2.0.0"))
    restarted(installed).start().run(12).close()
    damage(installed.state / "journal.db")
    world.broker.retain(ASSIGNMENT, old)
    again = restarted(installed).start().run(5)
    assert (again.refusal, again.serves) == ("replayed-assignment", "2.0.0")


def test_after_a_damaged_journal_older_metadata_is_still_refused(installed: Device, world: World) -> None:
    old = world.broker.retained[topics.METADATA]
    world.release("2.0.0")
    restarted(installed).start().run(3).close()
    damage(installed.state / "journal.db")
    world.broker.retain(topics.METADATA, old)
    assert restarted(installed).start().run(3).refusal == "rolled-back-metadata"


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"\0" * 500])
def test_a_damaged_second_copy_loses_nothing(installed: Device, content: bytes) -> None:
    (installed.state / "second-copy").write_bytes(content)
    again = restarted(installed).start().run(3)
    assert (again.loss, again.serves, again.journal.remembered.seq) == (None, "1.0.0", 1)


def test_an_older_journal_put_back_in_place_brings_nothing_old_back(installed: Device, world: World) -> None:
    old, journal = world.broker.retained[ASSIGNMENT], installed.state / "journal.db"
    older = journal.read_bytes()
    world.assign(world.release("2.0.0"))
    restarted(installed).start().run(12).close()
    journal.write_bytes(older)
    newest = world.broker.retained[ASSIGNMENT]
    world.broker.retain(ASSIGNMENT, old)
    again = restarted(installed).start().run(3)
    assert (again.loss, again.refusal, again.serves) == (None, "replayed-assignment", "2.0.0")
    world.broker.retain(ASSIGNMENT, newest)
    again.run(3)
    assert (again.last.state, again.serves, again.journal.is_lost) == (S.COMMITTED, "2.0.0", False)


def test_both_damaged_is_a_new_device_that_asks_for_its_assignment(installed: Device) -> None:
    damage(installed.state / "journal.db")
    (installed.state / "second-copy").write_bytes(b"")
    again = restarted(installed)
    again.runner.boot()
    assert again.serves is None
    again.link.connect()
    again.run(12)
    assert again.serves == "1.0.0"


def test_damaged_journals_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "journal.db").write_bytes(b"not a database, number %d" % number)
        journal, loss = Journal.open(tmp_path)
        journal.close()
        assert loss is not None
    assert len(list(tmp_path.glob("journal.db.damaged-*"))) == 3


def test_a_journal_of_a_newer_agent_is_not_guessed_at(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "journal.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(DamagedJournal, match="expected journal version 1, got 99"):
        Journal(tmp_path / "journal.db", SecondCopy(tmp_path / "second-copy"))


def test_the_journal_can_be_read_while_the_agent_runs(installed: Device) -> None:
    running = restarted(installed).start()
    seen = read_only(installed.state)
    assert seen is not None
    assert seen.remembered == running.journal.remembered
    with pytest.raises(JournalUnwritable):
        seen.remember(Remembered(seq=99))
    seen.close()


def test_what_is_remembered_reads_back_and_a_flipped_bit_is_seen() -> None:
    kept = Remembered(root_version=2, versions={"snapshot@2": 4}, seq=7, floors={"cam": 3}, time_s=1.5, executions=9)
    content = bytearray(encode(kept))
    assert decode(bytes(content)) == kept
    for at in range(0, len(content), 7):
        content[at] ^= 1
        with pytest.raises(DamagedJournal):
            decode(bytes(content))
        content[at] ^= 1


def test_merging_two_memories_never_lowers_anything() -> None:
    one = Remembered(
        root_version=1, versions={"a@1": 9, "b@1": 1}, seq=5, floors={"x": 1, "y": 7}, time_s=9.0, executions=3
    )
    two = Remembered(root_version=2, versions={"a@1": 3, "c@2": 1}, seq=4, floors={"x": 2}, time_s=1.0, executions=8)
    merged = one.merged(two)
    assert merged == two.merged(one)
    assert (merged.root_version, merged.seq, merged.time_s, merged.executions) == (2, 5, 9.0, 8)
    assert (merged.versions, merged.floors) == ({"a@1": 9, "b@1": 1, "c@2": 1}, {"x": 2, "y": 7})


def test_a_signed_time_raises_the_floor_only_as_far_as_the_metadata_vouches_for() -> None:
    director = samples.Director()
    verified = verify_assignment(
        director.sign(), director.keys, samples.FLEET, samples.DEVICE, Remembered().memory,
        now_s=samples.NOW, clock_believed=True, horizon_s=samples.NOW - 100,
    )  # fmt: skip
    kept = Remembered(seq=1).with_assignment(verified, horizon_s=samples.NOW - 100)
    assert (kept.seq, kept.time_s, kept.assignment) == (5, samples.NOW - 100, verified.digest)
    assert kept.with_assignment(verified, horizon_s=samples.NOW + 100).time_s == samples.NOW


def test_versions_of_older_roots_are_not_kept_for_ever() -> None:
    kept = Remembered(root_version=1, versions={"timestamp@1": 2**31})
    assert kept.with_metadata(MetadataVersions(2, {"timestamp@2": 3}, 0.0)).versions == {"timestamp@2": 3}


# --- clocks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("clock", [0.0, -86_400.0, 946_684_800.0])
def test_a_device_whose_clock_is_decades_behind_is_updated_all_the_same(
    world: World, tmp_path: Path, clock: float
) -> None:
    world.assign(world.release("1.0.0"))
    device = Device(world, tmp_path / "state", clock=Clock(unix=clock)).start().run(12)
    assert device.serves == "1.0.0"
    assert device.runner.standing.trusted_time_s == NOW
    assert device.last.at == NOW, "reports carry trusted time"


def test_a_clock_that_goes_back_does_not_make_expired_metadata_fresh(installed: Device, world: World) -> None:
    """The last signed time that was accepted is the floor; what expired before it stays expired."""
    bundle = world.broker.retained[topics.METADATA]
    repository = world.repository
    repository.timestamp.signed.expires = repository.snapshot.signed.expires = repository.at(30 * DAY)
    world.release("2.0.0")
    installed.clock.pass_s(3 * DAY)
    world.broker.retain(ASSIGNMENT, world.envelope(iat=NOW + 3 * DAY, exp=NOW + 9 * DAY))
    restarted(installed).start().run(3).close()
    installed.clock.unix = float(NOW)
    world.broker.retain(topics.METADATA, bundle)
    again = restarted(installed).start().run(2)
    assert again.refusal == "expired-metadata"


def test_a_device_without_a_clock_does_not_believe_a_date_that_only_the_director_vouches_for(
    world: World, tmp_path: Path
) -> None:
    device = Device(world, tmp_path / "state", clock=Clock(unix=0.0)).start().run(1)
    world.broker.retain(ASSIGNMENT, world.envelope(iat=NOW + 2 * DAY, exp=NOW + 9 * DAY))
    device.run(1)
    assert device.refusal == "stale-assignment", "the timestamp role vouches for one day only"


# --- errors of python-tuf ---------------------------------------------------------------------------------------------
def tuf_exceptions() -> list[type[Exception]]:
    modules = (tuf.api.exceptions, tuf.api.serialization)
    found = {each for module in modules for _, each in inspect.getmembers(module, inspect.isclass)}
    return sorted((each for each in found if issubclass(each, Exception)), key=lambda each: each.__name__)


@pytest.mark.parametrize("theirs", tuf_exceptions())
def test_every_error_of_tuf_is_translated(theirs: type[Exception]) -> None:
    error = theirs("x", 404) if theirs is tuf.api.exceptions.DownloadHTTPError else theirs("x")
    with pytest.raises(FleetError, match="metadata was refused"), trust.translated():
        raise error


def test_an_error_of_ours_passes_the_translation_unchanged() -> None:
    error = RolledBackMetadata("ours")
    with pytest.raises(RolledBackMetadata) as caught, trust.translated():
        raise error
    assert caught.value is error


def test_the_private_clock_of_tuf_is_still_where_this_agent_sets_it(world: World, tmp_path: Path) -> None:
    """python-tuf has no public way to give it the time; if this moves, expiry would silently use the wrong clock."""
    memory = Remembered().memory
    packed = world.broker.retained[topics.METADATA]
    with trust.accepted(packed, world.root, memory, now_s=NOW, scratch=tmp_path) as released:
        assert released.versions.root_version == 1
    with (
        pytest.raises(FleetError, match="expired"),
        trust.accepted(packed, world.root, memory, now_s=NOW + 400 * DAY, scratch=tmp_path),
    ):
        pass


def test_nothing_of_tuf_stays_on_the_disk(installed: Device) -> None:
    assert list((installed.state / "scratch").iterdir()) == []


def test_a_floor_that_is_not_a_number_is_refused(installed: Device, world: World) -> None:
    second = world.release("2.0.0")
    world.repository.models.signed.targets[second.manifest.target_path].unrecognized_fields["custom"] = {"floor": "9"}
    world.repository.publish("models")
    world.publish_metadata()
    world.assign(second)
    again = restarted(installed).start().run(3)
    assert (again.last.state, again.last.code, again.serves) == (S.REJECTED, "untrusted-metadata", "1.0.0")


def test_metadata_of_another_fleet_is_not_believed(installed: Device, world: World) -> None:
    other = World()
    other.release("2.0.0")
    again = restarted(installed).start().run(1)
    world.broker.retain(topics.METADATA, other.repository.bundle())
    again.run(2)
    assert again.refusal == "untrusted-metadata"


def test_a_root_signed_by_the_new_keys_alone_is_not_believed(installed: Device, world: World) -> None:
    from tests.agent.tuf_world import keys

    root = world.repository.root
    fresh = keys(3)
    for signer in world.repository.signers["root"]:
        root.signed.revoke_key(signer.public_key.keyid, "root")
    for signer in fresh:
        root.signed.add_key(signer.public_key, "root")
    root.signed.version += 1
    world.repository.publish_root(fresh)
    assert isinstance(root, Metadata)
    again = restarted(installed).start().run(1)
    world.publish_metadata()
    again.run(2)
    assert again.refusal == "untrusted-metadata"
    assert again.journal.committed(SLOT) is not None
