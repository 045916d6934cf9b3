"""Claims: one-time rights to enrol."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from fleet_protocol.identifiers import board_name, device_id
from fleet_server.fleet import Fleet
from fleet_server.services import records
from fleet_server.services.tokens import Principal
from fleet_server.services.views import ClaimView
from fleet_server.web.auth import fleet_of, need
from fleet_server.web.schemas import ClaimOrder, NewClaim

router = APIRouter(prefix="/v1/claims", tags=["claims"])


@router.post("", status_code=201)
def create(
    order: ClaimOrder,
    fleet: Annotated[Fleet, Depends(fleet_of)],
    principal: Annotated[Principal, need("claims.write")],
) -> NewClaim:
    """Make a claim; its text is shown this once."""
    device, board = device_id(order.device), board_name(order.board)
    expires_at = fleet.clock() + order.ttl_s
    claim = fleet.enrolment.create_claim(device, board, order.ttl_s, principal.name)
    return NewClaim(id=claim.claim_id, device=device, board=board, expires_at=expires_at, claim=str(claim))


@router.get("", dependencies=[need("fleet.read")])
def listing(fleet: Annotated[Fleet, Depends(fleet_of)]) -> tuple[ClaimView, ...]:
    """The newest claims, without their secrets."""
    with fleet.readers() as db:
        return records.claim_views(db, now=fleet.clock())
