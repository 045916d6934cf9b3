"""Who is asking, and may they: one dependency for every route that is not on the public list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from fleet_protocol.errors import NotAuthenticated
from fleet_server.fleet import Fleet
from fleet_server.services.tokens import Permission, Principal, Tokens
from fleet_server.web.rate import RateLimit

COOKIE: Final = "__Host-edgefleet"
"""The prefix makes browsers insist on Secure, path / and no domain: a subdomain cannot plant it."""


@dataclass(frozen=True, slots=True)
class Web:
    """What routes need: the fleet, the tokens, and how often strangers may ask (enrolment, metadata, sign-in)."""

    fleet: Fleet
    tokens: Tokens
    enrol_limit: RateLimit
    metadata_limit: RateLimit
    login_limit: RateLimit


def web_of(request: Request) -> Web:
    """The application's parts."""
    web: Web = request.app.state.web
    return web


def fleet_of(request: Request) -> Fleet:
    """The fleet that the application serves."""
    return web_of(request).fleet


def address_of(request: Request) -> str:
    """The peer's address. Forwarded headers are not believed: anybody can write them."""
    return request.client.host if request.client else "unknown"


def authenticate(request: Request) -> Principal:
    """The principal of a bearer token or else of the session cookie; raises NotAuthenticated."""
    tokens = web_of(request).tokens
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer":
            raise NotAuthenticated("send `Authorization: Bearer eft_…`")
        return tokens.authenticate(credentials.strip())
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        raise NotAuthenticated("this needs a token: `Authorization: Bearer eft_…`, or sign in at /login")
    return tokens.authenticate_session(cookie)


class Need(SecurityBase):
    """A dependency that lets only principals with ``permission`` pass; a test walks all routes in search of it."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission
        self.model = HTTPBearer(description="`eft_…`; a browser's session cookie does as well")
        self.scheme_name = "token"

    def __call__(self, request: Request) -> Principal:
        principal = authenticate(request)
        principal.require(self.permission)
        return principal


def need(permission: Permission) -> Any:
    """``Depends`` on a principal with ``permission``; raises NotAuthenticated or NotAllowed."""
    return Depends(Need(permission))
