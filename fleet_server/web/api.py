"""The web application: composition of routes, guards and the services of one open fleet."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from fleet_server.fleet import Fleet
from fleet_server.services.tokens import Principal, Tokens
from fleet_server.version import version
from fleet_server.web import dashboard, guards, problems
from fleet_server.web.auth import Web, need
from fleet_server.web.rate import RateLimit
from fleet_server.web.rendering import STATIC
from fleet_server.web.routes import access, claims, devices, events, public, releases, rollouts
from fleet_server.web.schemas import Problem

LOCAL_HOSTS = ("localhost", "127.0.0.1")


def create_app(fleet: Fleet) -> FastAPI:
    """The application that serves ``fleet``; it starts nothing and ends with its process."""
    app = FastAPI(
        title="edgefleet",
        version=version(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": Problem, "description": "Refused; nothing was changed."}},
    )
    app.state.web = Web(
        fleet=fleet,
        tokens=Tokens(fleet.sessions, fleet.readers, fleet.clock, secrets.token_bytes),
        enrol_limit=RateLimit(per_s=1.0, burst=30),
        metadata_limit=RateLimit(per_s=10.0, burst=200),
        login_limit=RateLimit(per_s=0.2, burst=10),
    )
    for module in (public, access, claims, devices, releases, rollouts, events, dashboard):
        app.include_router(module.router)
    app.get("/v1/openapi.json", include_in_schema=False)(_openapi)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    problems.install(app)
    # The last one added stands outermost.
    app.add_middleware(guards.BodyLimit)
    app.add_middleware(guards.CrossOriginGuard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*fleet.config.hosts, *LOCAL_HOSTS], www_redirect=False)
    app.add_middleware(guards.SecurityHeaders)
    return app


def _openapi(request: Request, _reader: Annotated[Principal, need("fleet.read")]) -> JSONResponse:
    app: Any = request.app
    return JSONResponse(app.openapi())
