"""Desired state into signed assignments: numbering, renewal, the outbox, and the registry's transactions beneath."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from fleet_protocol import assignment as wire
from fleet_protocol.errors import DeviceRevoked, MalformedInput, NotFound
from fleet_protocol.identifiers import DeviceId, Digest, SlotName
from fleet_server.ceremony import Founding
from fleet_server.db.models import Assignment, Desired, Device
from fleet_server.fleet import Fleet
from fleet_server.services.assignments import RENEWAL_S, VALIDITY_S, Unsent
from fleet_server.tags import MAX_TAGS
from tests.server.kit import SteppedClock, enrol, manifest_of, release

SLOT = SlotName("textline")
CAM = DeviceId("cam-1")


@pytest.fixture
def manifest(fleet: Fleet, founding: Founding, tmp_path: Path) -> Digest:
    enrol(fleet, "cam-1")
    return Digest(manifest_of(fleet, release(fleet, founding, tmp_path)))


def wish(fleet: Fleet, manifest: Digest | None, device: DeviceId = CAM) -> None:
    with fleet.sessions.begin() as session:
        fleet.assignments.set_desired(session, device, SLOT, manifest, None, fleet.clock())


def issue(fleet: Fleet, device: DeviceId = CAM) -> int:
    with fleet.sessions.begin() as session:
        return fleet.assignments.issue(session, device, fleet.clock())


def due(fleet: Fleet) -> list[DeviceId]:
    with fleet.readers() as session:
        return list(fleet.assignments.due(session, fleet.clock(), 10))


def unsent(fleet: Fleet) -> list[Unsent]:
    with fleet.readers() as session:
        return list(fleet.assignments.unsent(session, 10))


def send(fleet: Fleet) -> list[Unsent]:
    """Mark everything as sent, as the publisher does."""
    waiting = unsent(fleet)
    with fleet.sessions.begin() as session:
        fleet.assignments.mark_sent(session, waiting, fleet.clock())
    return waiting


def statement(fleet: Fleet) -> wire.Assignment:
    with fleet.readers() as session:
        raw = session.get_one(Assignment, CAM).envelope
    return wire.decode(wire.verified_payload(raw, fleet.tuf.director_keys()))


def test_every_assignment_has_the_next_number_and_is_valid_for_a_week(fleet: Fleet, manifest: Digest) -> None:
    wish(fleet, manifest)
    assert [issue(fleet), issue(fleet), issue(fleet)] == [1, 2, 3]
    made = statement(fleet)
    assert (made.fleet, made.device, made.seq) == ("acme", CAM, 3)
    assert (made.iat, made.exp) == (int(fleet.clock()), int(fleet.clock() + VALIDITY_S))
    assert [(item.slot, item.target_sha256) for item in made.items] == [("textline", manifest)]


def test_wrapped_keys_are_fresh_each_time(fleet: Fleet, manifest: Digest) -> None:
    wish(fleet, manifest)
    issue(fleet)
    first = statement(fleet).items[0].wrapped_key
    issue(fleet)
    assert statement(fleet).items[0].wrapped_key != first


def test_a_slot_that_is_no_longer_wished_for_leaves_the_assignment(fleet: Fleet, manifest: Digest) -> None:
    wish(fleet, manifest)
    issue(fleet)
    wish(fleet, None)
    issue(fleet)
    assert statement(fleet).items == ()
    wish(fleet, None)


def test_a_changed_wish_makes_the_device_due_until_it_is_issued(fleet: Fleet, manifest: Digest) -> None:
    assert due(fleet) == []
    wish(fleet, manifest)
    assert due(fleet) == [CAM]
    issue(fleet)
    assert due(fleet) == []
    wish(fleet, None)
    assert due(fleet) == [CAM]


def test_an_assignment_is_signed_again_before_it_runs_out(fleet: Fleet, manifest: Digest, clock: SteppedClock) -> None:
    wish(fleet, manifest)
    issue(fleet)
    clock.advance(VALIDITY_S - RENEWAL_S)
    assert due(fleet) == []
    clock.advance(1)
    assert due(fleet) == [CAM]


def test_a_rolled_back_transaction_leaves_neither_wish_nor_number(fleet: Fleet, manifest: Digest) -> None:
    with fleet.sessions() as session:
        fleet.assignments.set_desired(session, CAM, SLOT, manifest, None, fleet.clock())
        fleet.assignments.issue(session, CAM, fleet.clock())
        session.rollback()
    with fleet.readers() as session:
        assert session.get(Desired, (CAM, SLOT)) is None
        assert session.get(Assignment, CAM) is None
        assert session.get_one(Device, CAM).assignment_seq == 0


@pytest.mark.attack("26")
def test_no_key_is_wrapped_for_a_revoked_or_unknown_device(fleet: Fleet, manifest: Digest) -> None:
    wish(fleet, manifest)
    issue(fleet)
    fleet.enrolment.revoke(CAM, "tester", "stolen")
    with pytest.raises(DeviceRevoked):
        issue(fleet)
    assert due(fleet) == []
    assert unsent(fleet) == []
    with pytest.raises(NotFound):
        issue(fleet, DeviceId("cam-9"))


def test_an_assignment_waits_in_the_outbox_until_it_was_sent(fleet: Fleet, manifest: Digest) -> None:
    wish(fleet, manifest)
    issue(fleet)
    assert [(each.device, each.seq) for each in send(fleet)] == [(CAM, 1)]
    assert unsent(fleet) == []
    with fleet.sessions.begin() as session:
        assert fleet.assignments.forget_sent(session) == 1
    assert [each.seq for each in unsent(fleet)] == [1]


def test_one_that_was_replaced_while_it_was_sent_is_sent_again(fleet: Fleet, manifest: Digest) -> None:
    wish(fleet, manifest)
    issue(fleet)
    waiting = unsent(fleet)
    issue(fleet)
    with fleet.sessions.begin() as session:
        fleet.assignments.mark_sent(session, waiting, fleet.clock())
    assert [each.seq for each in unsent(fleet)] == [2]


def test_transactions_that_read_and_then_write_wait_for_each_other(fleet: Fleet, manifest: Digest) -> None:
    """With SQLite's ordinary BEGIN one of these fails at once with "database is locked"."""
    wish(fleet, manifest)
    failures: list[OperationalError] = []

    def many() -> None:
        try:
            for _ in range(10):
                issue(fleet)
        except OperationalError as error:
            failures.append(error)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert statement(fleet).seq == 40


def test_a_reader_does_not_wait_for_a_writer(fleet: Fleet, manifest: Digest) -> None:
    with fleet.sessions.begin() as session:
        fleet.assignments.set_desired(session, CAM, SLOT, manifest, None, fleet.clock())
        with fleet.readers() as reader:
            assert reader.get(Desired, (CAM, SLOT)) is None
    with fleet.readers() as reader:
        assert reader.get(Desired, (CAM, SLOT)) is not None


def test_the_registry_is_durable_and_checks_references(fleet: Fleet) -> None:
    with fleet.readers() as session:
        connection = session.connection()
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.parametrize(
    "tags",
    [
        {"Site": "x"},
        {"site": ""},
        {"site": "a b"},
        {"board": "x"},
        {"id": "x"},
        {"site": "x" * 64},
        {f"tag{number}": "x" for number in range(MAX_TAGS + 1)},
    ],
)
def test_tags_that_no_selector_could_name_are_refused(fleet: Fleet, tags: dict[str, str]) -> None:
    enrol(fleet, "cam-1")
    with pytest.raises(MalformedInput, match="tag"):
        fleet.devices.set_tags(CAM, tags, "tester", "")
    with fleet.readers() as session:
        assert session.get_one(Device, CAM).tags == {}


def test_tags_are_replaced_as_a_whole(fleet: Fleet) -> None:
    enrol(fleet, "cam-1")
    fleet.devices.set_tags(CAM, {"site": "berlin", "floor": "2"}, "tester", "moved")
    fleet.devices.set_tags(CAM, {"site": "paris"}, "tester", "moved again")
    with fleet.readers() as session:
        assert session.get_one(Device, CAM).tags == {"site": "paris"}
    with pytest.raises(NotFound):
        fleet.devices.set_tags(DeviceId("cam-9"), {}, "tester", "")
