"""What stands before every route: body limits, the cross-origin rule, security headers (plain ASGI)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet_protocol.errors import NotAllowed
from fleet_protocol.manifest import MAX_PAYLOAD_BYTES
from fleet_server.web.problems import problem

MAX_BODY_BYTES: Final = 65_536
MAX_UPLOAD_BYTES: Final = MAX_PAYLOAD_BYTES + 100 * 1024**2
"""A package: one payload of the largest size, manifests, and room for the multipart frame."""
MAX_BATCH_BYTES: Final = 1024**2
"""A production run's wishes: a thousand devices with their tags."""
LONGER_BODIES: Final[Mapping[str, int]] = {"/v1/releases": MAX_UPLOAD_BYTES, "/v1/claims/batch": MAX_BATCH_BYTES}
"""Paths that take more than ``MAX_BODY_BYTES``."""

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def is_same_origin(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request may have effects: the rule of Go's CrossOriginProtection, which needs no tokens.

    A browser says where a request comes from (Sec-Fetch-Site, or Origin in older ones) and a page cannot forge it; a
    program that sends neither holds no cookie of a browser.
    """
    if method in _SAFE_METHODS:
        return True
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in {"same-origin", "none"}
    return origin is None or urlsplit(origin).netloc == headers.get("host")


class CrossOriginGuard:
    """Refuses unsafe requests that a page of another origin made the browser send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4403})  # this server has no WebSockets
        elif scope["type"] == "http" and not is_same_origin(scope["method"], Headers(scope=scope)):
            refusal = problem(
                403, NotAllowed.code, "this request came from another site's page and was not carried out"
            )
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies over the limit of their path: at once by the announced length, else while they arrive."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = LONGER_BODIES.get(scope["path"], MAX_BODY_BYTES)
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced) > limit:
            refusal = problem(413, "input-too-large", f"this address takes bodies of at most {limit} bytes")
            await refusal(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413)
            return message

        await self._app(scope, counted, send)


class SecurityHeaders:
    """Adds the security headers to every response, and keeps answers to authenticated requests out of caches."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers)
