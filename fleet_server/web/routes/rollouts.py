"""Rollouts: preview, create, and the six verbs, the same words as in ``fleetctl`` and on the page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from fleet_server.fleet import Fleet
from fleet_server.rollout import policy as policies
from fleet_server.services import overview, records
from fleet_server.services.tokens import Principal
from fleet_server.services.views import AttemptView, PreviewView, RolloutView
from fleet_server.web.auth import fleet_of, need
from fleet_server.web.schemas import Reason, RolloutOrder
from fleet_server.web.verbs import RolloutVerb, act

router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])
FleetHere = Annotated[Fleet, Depends(fleet_of)]
Operator = Annotated[Principal, need("rollouts.write")]


@router.get("", dependencies=[need("fleet.read")])
def listing(
    fleet: FleetHere, before: int | None = None, limit: Annotated[int, Query(ge=1, le=overview.MAX_PAGE)] = 50
) -> tuple[RolloutView, ...]:
    """Rollouts, newest first."""
    with fleet.readers() as db:
        return records.rollout_views(db, now=fleet.clock(), before=before, limit=limit)


@router.get("/{rollout_id}", dependencies=[need("fleet.read")])
def detail(rollout_id: int, fleet: FleetHere) -> RolloutView:
    """One rollout with its waves."""
    with fleet.readers() as db:
        return records.rollout_view(db, rollout_id, now=fleet.clock())


@router.get("/{rollout_id}/devices", dependencies=[need("fleet.read")])
def devices(
    rollout_id: int,
    fleet: FleetHere,
    after: Annotated[str, Query(max_length=63)] = "",
    limit: Annotated[int, Query(ge=1, le=overview.MAX_PAGE)] = 100,
) -> tuple[AttemptView, ...]:
    """The devices that the rollout has assigned so far, in order of id."""
    with fleet.readers() as db:
        records.rollout_view(db, rollout_id, now=fleet.clock())
        return records.rollout_devices(db, rollout_id, after=after, limit=limit)


@router.post("/preview")
def preview(order: RolloutOrder, fleet: FleetHere, _principal: Operator) -> PreviewView:
    """Who would be in which wave with which variant, and who cannot take part and why; nothing is kept."""
    policy = policies.parse(order.policy)
    return records.preview_view(fleet.rollouts.preview(order.release_id, order.selector, policy, salt=order.salt))


@router.post("", status_code=201)
def create(order: RolloutOrder, fleet: FleetHere, principal: Operator) -> RolloutView:
    """Draft a rollout; nothing moves before ``start``."""
    policy = policies.parse(order.policy)
    rollout = fleet.rollouts.create(
        order.release_id, order.selector, policy, order.reason, principal.name, salt=order.salt
    )
    return detail(rollout.id, fleet)


@router.post("/{rollout_id}/{verb}")
def move(rollout_id: int, verb: RolloutVerb, order: Reason, fleet: FleetHere, principal: Operator) -> RolloutView:
    """start, pause, resume, promote, abort or undo a rollout."""
    act(fleet.rollouts, verb, rollout_id, who=principal.name, reason=order.reason)
    return detail(rollout_id, fleet)
