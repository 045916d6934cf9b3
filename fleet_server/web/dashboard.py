"""The pages. Each shows what the API says, from the same views; forms carry out the same services as the API's routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from fleet_protocol.errors import NotAuthenticated
from fleet_server.db.models import Claim, Device, Release, Rollout
from fleet_server.fleet import Fleet
from fleet_server.services import claims, overview, records
from fleet_server.services.tokens import PERMISSIONS, SESSION_LIFE_S, Permission, Principal
from fleet_server.services.views import ClaimState, RolloutView
from fleet_server.web.auth import COOKIE, address_of, fleet_of, need, web_of
from fleet_server.web.rendering import page
from fleet_server.web.verbs import VERBS, WORDS, RolloutVerb, act

router = APIRouter(include_in_schema=False)
FleetHere = Annotated[Fleet, Depends(fleet_of)]
Reader = Annotated[Principal, need("fleet.read")]
_SEE_OTHER = 303
_PAGE = 100


@router.get("/", response_class=HTMLResponse)
def index(
    request: Request,
    fleet: FleetHere,
    principal: Reader,
    text: Annotated[str, Query(max_length=80)] = "",
    presence: Literal["", "online", "offline", "revoked"] = "",
    after: Annotated[str, Query(max_length=63)] = "",
) -> HTMLResponse:
    """The fleet: counts, the running or last rollout, devices."""
    now = fleet.clock()
    with fleet.readers() as db:
        devices = overview.device_page(db, now=now, text=text, presence=presence, after=after, limit=_PAGE)
        rollouts = records.rollout_views(db, now=now, limit=6)
        counts, steps = overview.counts(db), _steps(db)
    following = urlencode({"text": text, "presence": presence, "after": devices.next_after or ""})
    values = {
        "counts": counts,
        "rollout": _foremost(rollouts),
        "rollouts": rollouts,
        "page": devices,
        "following": following,
        "query": {"text": text, "presence": presence, "after": after},
        "steps": steps,
    }
    return page(request, "index.html", _common(fleet, principal, now) | values)


@router.get("/devices/{device}", response_class=HTMLResponse)
def device_page(request: Request, device: str, fleet: FleetHere, principal: Reader) -> HTMLResponse:
    """One device: desired and reported, why, timeline."""
    now = fleet.clock()
    with fleet.readers() as db:
        detail = overview.device_detail(db, device, now=now)
    return page(request, "device.html", _common(fleet, principal, now) | {"detail": detail, "device": detail.device})


@router.get("/rollouts/{rollout_id}", response_class=HTMLResponse)
def rollout_page(
    request: Request,
    rollout_id: int,
    fleet: FleetHere,
    principal: Reader,
    after: Annotated[str, Query(max_length=63)] = "",
) -> HTMLResponse:
    """One rollout: waves, verdicts, devices, and the verbs."""
    now = fleet.clock()
    with fleet.readers() as db:
        rollout = records.rollout_view(db, rollout_id, now=now)
        devices = records.rollout_devices(db, rollout_id, after=after, limit=_PAGE)
    values = {
        "rollout": rollout,
        "attempts": devices,
        "next_after": devices[-1].device_id if len(devices) == _PAGE else None,
        "verbs": [(verb, WORDS[verb], rollout.state in WORDS[verb].states) for verb in VERBS],
    }
    return page(request, "rollout.html", _common(fleet, principal, now) | values)


@router.get("/claims", response_class=HTMLResponse)
def claims_page(
    request: Request, fleet: FleetHere, principal: Reader, state: ClaimState | Literal[""] = ""
) -> HTMLResponse:
    """Who may join, who did, and which rights ran out or were withdrawn."""
    now = fleet.clock()
    with fleet.readers() as db:
        found, totals = claims.claim_views(db, now=now, state=state, limit=_PAGE), claims.claim_counts(db, now=now)
    values = {
        "claims": found,
        "totals": totals,
        "state": state,
        "whole": totals[state] if state else sum(totals.values()),
    }
    return page(request, "claims.html", _common(fleet, principal, now) | values)


@router.post("/claims/{claim}/revoke")
def revoke_claim(
    claim: str,
    fleet: FleetHere,
    principal: Annotated[Principal, need("claims.write")],
    reason: Annotated[str, Form(min_length=1, max_length=400)],
) -> Response:
    """Withdraw a claim with a reason, then show the claims."""
    fleet.claims.revoke(claim, principal.name, reason)
    return RedirectResponse("/claims", status_code=_SEE_OTHER)


@router.post("/rollouts/{rollout_id}/{verb}")
def move_rollout(
    rollout_id: int,
    verb: RolloutVerb,
    fleet: FleetHere,
    principal: Annotated[Principal, need("rollouts.write")],
    reason: Annotated[str, Form(min_length=1, max_length=400)],
) -> Response:
    """Carry out a verb with a reason, then show the rollout."""
    act(fleet.rollouts, verb, rollout_id, who=principal.name, reason=reason)
    return RedirectResponse(f"/rollouts/{rollout_id}", status_code=_SEE_OTHER)


@router.get("/login", response_class=HTMLResponse)
def login_page(request: Request, fleet: FleetHere, next: str = "/") -> HTMLResponse:  # noqa: A002 - the name in the URL
    """Where a token opens a session."""
    return page(request, "login.html", {"fleet": fleet.config.fleet, "next": local_path(next), "refusal": ""})


@router.post("/login")
def login(
    request: Request,
    fleet: FleetHere,
    token: Annotated[str, Form(max_length=200)] = "",
    next: Annotated[str, Form(max_length=400)] = "/",  # noqa: A002 - the name in the form
) -> Response:
    """Open a session and set its cookie; anything else shows the form again with one sentence."""
    web = web_of(request)
    web.login_limit.take(address_of(request), fleet.clock())
    try:
        cookie = web.tokens.open_session(token.strip())
    except NotAuthenticated as error:
        values = {"fleet": fleet.config.fleet, "next": local_path(next), "refusal": str(error)}
        return page(request, "login.html", values, status=401)
    response = RedirectResponse(local_path(next), status_code=_SEE_OTHER)
    response.set_cookie(
        COOKIE, cookie, max_age=int(SESSION_LIFE_S), path="/", secure=True, httponly=True, samesite="strict"
    )
    return response


@router.post("/logout", dependencies=[need("session.close")])
def logout(request: Request) -> Response:
    """End the session at the server, then forget the cookie."""
    web_of(request).tokens.close_session(request.cookies.get(COOKIE, ""))
    response = RedirectResponse("/login", status_code=_SEE_OTHER)
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return response


def local_path(target: str) -> str:
    """``target`` where it is a path on this server, else ``/``: a login link must not lead elsewhere."""
    is_local = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if is_local else "/"


def _common(fleet: Fleet, principal: Principal, now: float) -> dict[str, Any]:
    def may(permission: Permission) -> bool:
        return principal.role in PERMISSIONS[permission]

    return {"fleet": fleet.config.fleet, "principal": principal, "may": may, "now": now}


def _foremost(rollouts: tuple[RolloutView, ...]) -> RolloutView | None:
    """The newest rollout that is not over, else the newest."""
    live = next((each for each in rollouts if each.state in {"RUNNING", "PAUSED"}), None)
    return live or next(iter(rollouts), None)


def _steps(db: DbSession) -> dict[str, bool]:
    """Which of the four steps to a first model on a device have been taken."""
    tables: dict[str, type[Claim | Device | Release | Rollout]] = {
        "claim": Claim, "enrol": Device, "release": Release, "rollout": Rollout,
    }  # fmt: skip
    return {name: bool(db.scalar(select(func.count()).select_from(table))) for name, table in tables.items()}
