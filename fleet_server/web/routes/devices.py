"""Devices: what they serve, why they do not serve what they should, tags and revocation."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from fleet_protocol.identifiers import device_id
from fleet_server.fleet import Fleet
from fleet_server.services import overview
from fleet_server.services.tokens import Principal
from fleet_server.services.views import Counts, DeviceDetail, DevicePage, Explanation
from fleet_server.web.auth import fleet_of, need
from fleet_server.web.schemas import Reason, Tags

router = APIRouter(prefix="/v1", tags=["devices"])
FleetHere = Annotated[Fleet, Depends(fleet_of)]
PresenceFilter = Literal["", "online", "offline", "revoked"]


@router.get("/counts", dependencies=[need("fleet.read")])
def counts(fleet: FleetHere) -> Counts:
    """The fleet in six numbers."""
    with fleet.readers() as db:
        return overview.counts(db)


@router.get("/devices", dependencies=[need("fleet.read")])
def listing(
    fleet: FleetHere,
    text: Annotated[str, Query(max_length=80)] = "",
    board: Annotated[str, Query(max_length=63)] = "",
    presence: PresenceFilter = "",
    after: Annotated[str, Query(max_length=63)] = "",
    limit: Annotated[int, Query(ge=1, le=overview.MAX_PAGE)] = 50,
) -> DevicePage:
    """Devices in order of id; ``after`` is the ``next_after`` of the page before."""
    with fleet.readers() as db:
        return overview.device_page(
            db, now=fleet.clock(), text=text, board=board, presence=presence, after=after, limit=limit
        )


@router.get("/devices/{device}", dependencies=[need("fleet.read")])
def detail(device: str, fleet: FleetHere) -> DeviceDetail:
    """Everything about one device."""
    with fleet.readers() as db:
        return overview.device_detail(db, device, now=fleet.clock())


@router.get("/devices/{device}/why", dependencies=[need("fleet.read")])
def why(device: str, fleet: FleetHere) -> Explanation:
    """Why is this device (not) on its desired release?"""
    with fleet.readers() as db:
        return overview.device_detail(db, device, now=fleet.clock()).why


@router.put("/devices/{device}/tags")
def set_tags(
    device: str, order: Tags, fleet: FleetHere, principal: Annotated[Principal, need("devices.write")]
) -> DeviceDetail:
    """Replace a device's tags, by which selectors choose it."""
    fleet.devices.set_tags(device_id(device), order.tags, principal.name, order.reason)
    return detail(device, fleet)


@router.post("/devices/{device}/revoke")
def revoke(
    device: str, order: Reason, fleet: FleetHere, principal: Annotated[Principal, need("devices.revoke")]
) -> DeviceDetail:
    """Take a device out of the fleet: no keys, no assignments, its live session is ended."""
    fleet.enrolment.revoke(device_id(device), principal.name, order.reason)
    return detail(device, fleet)
