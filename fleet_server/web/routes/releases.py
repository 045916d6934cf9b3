"""Releases: a package and the metadata that the release keys signed for it, uploaded together."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from fleet_server.fleet import Fleet
from fleet_server.services import overview, records
from fleet_server.services.tokens import Principal
from fleet_server.services.views import ReleaseView
from fleet_server.web.auth import fleet_of, need
from fleet_server.web.uploads import received

router = APIRouter(prefix="/v1/releases", tags=["releases"])
FleetHere = Annotated[Fleet, Depends(fleet_of)]

_UPLOAD_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["metadata", "package"],
                    "properties": {
                        "metadata": {"type": "string", "format": "binary", "description": "signed models.json"},
                        "package": {"type": "string", "format": "binary", "description": "model package (SPEC 4.1)"},
                    },
                }
            }
        },
    }
}


@router.get("", dependencies=[need("fleet.read")])
def listing(
    fleet: FleetHere, before: int | None = None, limit: Annotated[int, Query(ge=1, le=overview.MAX_PAGE)] = 50
) -> tuple[ReleaseView, ...]:
    """Releases, newest first."""
    with fleet.readers() as db:
        return records.release_views(db, before=before, limit=limit)


@router.get("/{release_id}", dependencies=[need("fleet.read")])
def detail(release_id: int, fleet: FleetHere) -> ReleaseView:
    """One release with its variants."""
    with fleet.readers() as db:
        return records.release_view(db, release_id)


@router.post("", status_code=201, openapi_extra=_UPLOAD_SCHEMA)
async def create(
    request: Request, fleet: FleetHere, principal: Annotated[Principal, need("releases.write")]
) -> ReleaseView:
    """Check, seal and store a release. The body is read only after the token was checked, straight into the state directory."""
    async with received(request, fleet.layout.root / "incoming") as upload:
        release = await run_in_threadpool(fleet.releases.create, upload.package, upload.metadata, principal.name)
    return await run_in_threadpool(detail, release.id, fleet)
