"""Claims: one-time rights to enrol."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from fleet_protocol.claim import Claim
from fleet_protocol.identifiers import BoardName, DeviceId, board_name, device_id
from fleet_server.fleet import Fleet
from fleet_server.services import claims
from fleet_server.services.claims import Wish
from fleet_server.services.tokens import Principal
from fleet_server.services.views import ClaimState, ClaimView
from fleet_server.web.auth import fleet_of, need
from fleet_server.web.schemas import ClaimBatch, ClaimOrder, NewClaim, Reason

router = APIRouter(prefix="/v1/claims", tags=["claims"])
FleetHere = Annotated[Fleet, Depends(fleet_of)]
Writer = Annotated[Principal, need("claims.write")]


@router.post("", status_code=201)
def create(order: ClaimOrder, fleet: FleetHere, principal: Writer) -> NewClaim:
    """Make a claim; its text is shown this once."""
    device, board = device_id(order.device), board_name(order.board)
    expires_at = fleet.clock() + order.ttl_s
    made = fleet.enrolment.create_claim(device, board, order.ttl_s, principal.name, replaces=order.replace)
    return _shown(made, device, board, expires_at)


@router.post("/batch", status_code=201)
def create_batch(order: ClaimBatch, fleet: FleetHere, principal: Writer) -> tuple[NewClaim, ...]:
    """Make a claim for each device, in the order given: all, or none where one is refused."""
    wishes = [Wish(device_id(each.device), board_name(each.board), each.tags) for each in order.devices]
    expires_at = fleet.clock() + order.ttl_s
    made = fleet.claims.create_batch(wishes, order.ttl_s, principal.name)
    return tuple(_shown(claim, wish.device, wish.board, expires_at) for claim, wish in zip(made, wishes, strict=True))


@router.get("", dependencies=[need("fleet.read")])
def listing(
    fleet: FleetHere,
    state: ClaimState | Literal[""] = "",
    device: Annotated[str, Query(max_length=63)] = "",
) -> tuple[ClaimView, ...]:
    """The newest claims, without their secrets: who made them, for what, and what became of them."""
    with fleet.readers() as db:
        return claims.claim_views(db, now=fleet.clock(), state=state, device=device)


@router.post("/{claim}/revoke", status_code=204)
def revoke(claim: str, order: Reason, fleet: FleetHere, principal: Writer) -> None:
    """Withdraw a claim that was not used."""
    fleet.claims.revoke(claim, principal.name, order.reason)


def _shown(claim: Claim, device: DeviceId, board: BoardName, expires_at: float) -> NewClaim:
    return NewClaim(id=claim.claim_id, device=device, board=board, expires_at=expires_at, claim=str(claim))
