"""What answers without a token: enrolment, the fleet's CA, signed metadata, health. What costs anything is rate-limited."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from fleet_protocol import metadata_bundle, strict_json
from fleet_protocol.claim import EnrolmentRequest
from fleet_protocol.errors import MalformedMessage, NotFound
from fleet_protocol.renewal import RenewalRequest, parse_request
from fleet_server.fleet import Fleet
from fleet_server.version import version
from fleet_server.web.auth import address_of, fleet_of, web_of
from fleet_server.web.schemas import Health

router = APIRouter(prefix="/v1", tags=["public"])
BUNDLE = "bundle"
"""Name under which all metadata is served at once, packed as on the broker (SPEC 4.4)."""

MODELS = "models.json"
"""The newest list of releases without its version in the name: what the next release is added to."""

_ENROL_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["claim_id", "secret", "csr", "board"],
                    "properties": {name: {"type": "string"} for name in ("claim_id", "secret", "csr", "board")},
                    "additionalProperties": False,
                }
            }
        },
    }
}


_RENEW_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": list(RenewalRequest.__struct_fields__),
                    "properties": {name: {"type": "string"} for name in RenewalRequest.__struct_fields__},
                    "additionalProperties": False,
                }
            }
        },
    }
}


def _enrol_limit(request: Request) -> None:
    web = web_of(request)
    web.enrol_limit.take(address_of(request), web.fleet.clock())


def _metadata_limit(request: Request) -> None:
    web = web_of(request)
    web.metadata_limit.take(address_of(request), web.fleet.clock())


async def _body(request: Request) -> bytes:
    return await request.body()


@router.get("/health")
def health() -> Health:
    """Whether the server answers."""
    return Health(ok=True, version=version())


@router.get("/ca", response_class=Response, dependencies=[Depends(_metadata_limit)])
def certificate_authority(request: Request, fleet: Annotated[Fleet, Depends(fleet_of)]) -> Response:
    """The fleet's CA certificate: PEM, or DER where the request accepts ``application/pkix-cert``.

    Nobody should trust it for coming from here: a device compares it with the pin in its claim (SPEC 9.1.2).
    """
    if "application/pkix-cert" in request.headers.get("accept", ""):
        return Response(fleet.ca.certificate_der, media_type="application/pkix-cert")
    return Response(fleet.ca.certificate_pem, media_type="application/x-pem-file")


@router.get("/meta/{name:path}", response_class=Response, dependencies=[Depends(_metadata_limit)])
def metadata(name: str, fleet: Annotated[Fleet, Depends(fleet_of)]) -> Response:
    """One file of the signed TUF metadata, all of them as ``bundle``, or the newest ``models.json``.

    ``models.json`` without a version is the current one, which the next release builds on.
    """
    if name == MODELS:
        return Response(fleet.tuf.models(), media_type="application/json")
    files = fleet.tuf.files()
    if name == BUNDLE:
        return Response(metadata_bundle.pack(files), media_type="application/octet-stream")
    if name not in files:
        # TUF's clients ask for the next root until they get this answer (TUF 5.3.3).
        raise NotFound(f"there is no metadata file {name[:80]}")
    return Response(files[name], media_type="application/json")


@router.post("/enrol", response_class=Response, dependencies=[Depends(_enrol_limit)], openapi_extra=_ENROL_SCHEMA)
def enrol(fleet: Annotated[Fleet, Depends(fleet_of)], body: Annotated[bytes, Depends(_body)]) -> Response:
    """Redeem a claim for a device certificate (SPEC 9.1)."""
    try:
        order = msgspec.convert(strict_json.loads(body), EnrolmentRequest, strict=True)
    except msgspec.ValidationError as error:
        # The value is not repeated: the body holds the claim's secret.
        raise MalformedMessage("an enrolment request has claim_id, secret, csr and board, all texts") from error
    reply = fleet.enrolment.enrol(order, fleet.clock())
    return Response(msgspec.json.encode(reply), media_type="application/json")


@router.get("/renew", response_class=Response, dependencies=[Depends(_enrol_limit)])
def renewal_challenge(fleet: Annotated[Fleet, Depends(fleet_of)]) -> Response:
    """What a device signs to have its certificate renewed; good for five minutes (SPEC 9.3.2)."""
    return Response(msgspec.json.encode(fleet.renewals.challenge(fleet.clock())), media_type="application/json")


@router.post("/renew", response_class=Response, dependencies=[Depends(_enrol_limit)], openapi_extra=_RENEW_SCHEMA)
def renew(fleet: Annotated[Fleet, Depends(fleet_of)], body: Annotated[bytes, Depends(_body)]) -> Response:
    """Renew a device certificate that is still valid, for a new key (SPEC 9.3)."""
    reply = fleet.renewals.renew(parse_request(body), fleet.clock())
    return Response(msgspec.json.encode(reply), media_type="application/json")
