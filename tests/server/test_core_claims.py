"""Claims in numbers, and their end: all or none, withdrawn for good, and told as they are."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from fleet_protocol.errors import ClaimRefused, Conflict, MalformedInput, NotFound
from fleet_protocol.identifiers import DeviceId
from fleet_server.db.models import Audit, Device
from fleet_server.fleet import Fleet
from fleet_server.services.claims import MAX_BATCH, Wish, claim_counts, claim_views
from fleet_server.services.views import ClaimView
from tests.server.kit import BOARD, DeviceKit, SteppedClock, enrol

CAM = DeviceId("cam-1")


def views(fleet: Fleet, state: str = "") -> tuple[ClaimView, ...]:
    with fleet.readers() as db:
        return claim_views(db, now=fleet.clock(), state=state)


def wishes(*names: str, **tags: str) -> list[Wish]:
    return [Wish(DeviceId(name), BOARD, tags) for name in names]


# --- batches ---------------------------------------------------------------------------------------------------------
def test_a_batch_makes_one_claim_per_device_in_its_order(fleet: Fleet) -> None:
    made = fleet.claims.create_batch(wishes("cam-2", "cam-1"), 3600, "tester")
    by_id = {view.id: view.device_id for view in views(fleet)}
    assert [by_id[claim.claim_id] for claim in made] == ["cam-2", "cam-1"]
    assert len({claim.secret for claim in made}) == 2


def test_a_device_of_a_batch_has_its_tags_from_its_first_moment(fleet: Fleet) -> None:
    (claim,) = fleet.claims.create_batch(wishes("cam-1", site="berlin"), 3600, "tester")
    fleet.enrolment.enrol(DeviceKit(CAM).request(claim), fleet.clock())
    with fleet.readers() as db:
        device = db.get(Device, "cam-1")
    assert device is not None
    assert device.tags == {"site": "berlin"}


@pytest.mark.parametrize(
    ("order", "error", "names"),
    [
        ([], MalformedInput, "1 to 1000"),
        (wishes(*(f"cam-{number}" for number in range(MAX_BATCH + 1))), MalformedInput, "got 1001"),
        (wishes("cam-2", "cam-3", "cam-2"), MalformedInput, "cam-2 stands in the batch twice"),
        (wishes("cam-2") + wishes("cam-3", Site="x"), MalformedInput, "'Site'"),
        (wishes("cam-2", "member"), Conflict, "member is already enrolled"),
        (wishes("cam-2", "fleet-server"), Conflict, "own name"),
    ],
    ids=["empty", "too many", "twice", "bad tag", "already enrolled", "the server's name"],
)
def test_a_batch_with_one_wrong_device_makes_no_claim(
    fleet: Fleet, order: list[Wish], error: type[Exception], names: str
) -> None:
    enrol(fleet, "member")
    with pytest.raises(error, match=names):
        fleet.claims.create_batch(order, 3600, "tester")
    assert [view.device_id for view in views(fleet)] == ["member"]
    with fleet.readers() as db:
        told = db.scalars(select(Audit.subject).where(Audit.action == "claim.create")).all()
    assert told == ["member"]


# --- revocation ------------------------------------------------------------------------------------------------------
def test_a_revoked_claim_is_refused_with_the_sentence_of_an_unknown_one(fleet: Fleet) -> None:
    claim = fleet.enrolment.create_claim(CAM, BOARD, 3600, "tester")
    fleet.claims.revoke(claim.claim_id, "boss", "the card was lost")
    with pytest.raises(ClaimRefused, match="unknown, wrong, expired or revoked"):
        fleet.enrolment.enrol(DeviceKit(CAM).request(claim), fleet.clock())
    (view,) = views(fleet)
    assert (view.state, view.revoked_by, view.revoked_because) == ("revoked", "boss", "the card was lost")


def test_a_revocation_stands_in_the_audit_once_however_often_it_is_asked_for(fleet: Fleet) -> None:
    claim = fleet.enrolment.create_claim(CAM, BOARD, 3600, "tester")
    for reason in ("lost", "again"):
        fleet.claims.revoke(claim.claim_id, "boss", reason)
    with fleet.readers() as db:
        (entry,) = db.scalars(select(Audit).where(Audit.action == "claim.revoke")).all()
    assert (entry.who, entry.subject, entry.reason) == ("boss", "cam-1", f"claim {claim.claim_id}: lost")


def test_a_used_claim_cannot_be_revoked_and_the_way_out_is_named(fleet: Fleet) -> None:
    enrol(fleet, "cam-1")
    with pytest.raises(Conflict, match="fleetctl device revoke cam-1"):
        fleet.claims.revoke(views(fleet)[0].id, "boss", "")
    assert views(fleet)[0].state == "used"


def test_an_unknown_claim_cannot_be_revoked(fleet: Fleet) -> None:
    with pytest.raises(NotFound, match="fleetctl claim list"):
        fleet.claims.revoke("0" * 12, "boss", "")


# --- views -----------------------------------------------------------------------------------------------------------
def test_each_state_is_told_counted_and_filtered_alike(fleet: Fleet, clock: SteppedClock) -> None:
    fleet.enrolment.create_claim(DeviceId("expired"), BOARD, 10, "tester")
    clock.advance(10)
    device = enrol(fleet, "used")
    fleet.enrolment.create_claim(DeviceId("open"), BOARD, 3600, "tester")
    revoked = fleet.enrolment.create_claim(DeviceId("revoked"), BOARD, 3600, "tester")
    fleet.claims.revoke(revoked.claim_id, "boss", "")
    assert {view.device_id: view.state for view in views(fleet)} == {
        state: state for state in ("open", "used", "expired", "revoked")
    }
    for state in ("open", "used", "expired", "revoked"):
        assert [view.device_id for view in views(fleet, state)] == [state]
    with fleet.readers() as db:
        assert set(claim_counts(db, now=fleet.clock()).values()) == {1}
    (used,) = views(fleet, "used")
    assert (used.created_by, used.used_at) == ("tester", fleet.clock())
    assert device.reply is not None
    assert len(used.used_by or "") == 64
