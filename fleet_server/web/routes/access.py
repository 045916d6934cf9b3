"""Tokens, the audit, and who is asking."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from fleet_server.fleet import Fleet
from fleet_server.services import overview, records
from fleet_server.services.tokens import Principal, TokenView
from fleet_server.services.views import AuditView
from fleet_server.web.auth import fleet_of, need, web_of
from fleet_server.web.schemas import Reason, TokenOrder, TokenReply, Whoami

router = APIRouter(prefix="/v1", tags=["access"])
FleetHere = Annotated[Fleet, Depends(fleet_of)]


@router.get("/whoami")
def whoami(fleet: FleetHere, principal: Annotated[Principal, need("fleet.read")]) -> Whoami:
    """The fleet, and the name and role of the token."""
    return Whoami(fleet=fleet.config.fleet, name=principal.name, role=principal.role)


@router.post("/tokens", status_code=201)
def create_token(
    order: TokenOrder, request: Request, principal: Annotated[Principal, need("tokens.write")]
) -> TokenReply:
    """Make a token; its text is shown this once."""
    token = web_of(request).tokens.create(order.name, order.role, order.ttl_s, principal.name)
    return TokenReply(id=token.id, name=token.name, role=token.role, expires_at=token.expires_at, token=token.text)


@router.get("/tokens", dependencies=[need("tokens.write")])
def list_tokens(request: Request) -> list[TokenView]:
    """Every token, without its secret."""
    return web_of(request).tokens.list()


@router.post("/tokens/{token_id}/revoke", status_code=204)
def revoke_token(
    token_id: int, order: Reason, request: Request, principal: Annotated[Principal, need("tokens.write")]
) -> None:
    """End a token and every session opened with it."""
    web_of(request).tokens.revoke(token_id, principal.name, order.reason)


@router.get("/audit", dependencies=[need("audit.read")])
def audit(
    fleet: FleetHere, before: int | None = None, limit: Annotated[int, Query(ge=1, le=overview.MAX_PAGE)] = 50
) -> tuple[AuditView, ...]:
    """Who did what, when and why; newest first."""
    with fleet.readers() as db:
        return records.audit_views(db, before=before, limit=limit)
