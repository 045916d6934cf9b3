"""Refusals as RFC 9457 problem documents: the contract's stable code, one sentence, and a status from one table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from fleet_protocol import errors
from fleet_server.web.rate import RateLimited
from fleet_server.web.rendering import refusal_page

MEDIA_TYPE: Final = "application/problem+json"

STATUS: Final[Mapping[type[errors.FleetError], HTTPStatus]] = MappingProxyType(
    {
        errors.FleetError: HTTPStatus.INTERNAL_SERVER_ERROR,
        errors.MalformedInput: HTTPStatus.UNPROCESSABLE_ENTITY,
        errors.InputTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        errors.TrustError: HTTPStatus.UNPROCESSABLE_ENTITY,
        errors.DeliveryError: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.ProofError: HTTPStatus.UNPROCESSABLE_ENTITY,
        errors.RefusedRequest: HTTPStatus.CONFLICT,
        errors.NotAuthenticated: HTTPStatus.UNAUTHORIZED,
        errors.NotAllowed: HTTPStatus.FORBIDDEN,
        errors.NotFound: HTTPStatus.NOT_FOUND,
        errors.ClaimRefused: HTTPStatus.FORBIDDEN,
        errors.DeviceRevoked: HTTPStatus.FORBIDDEN,
        errors.CertificateRefused: HTTPStatus.FORBIDDEN,
        errors.CsrRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
        errors.NoMatchingVariant: HTTPStatus.UNPROCESSABLE_ENTITY,
        RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""An error takes the row of its nearest parent."""

_HTTP_CODES: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        403: (errors.NotAllowed.code, "this request is not allowed"),
        404: (errors.NotFound.code, "there is nothing at this address"),
        405: ("method-not-allowed", "this address does not take that method"),
        413: (errors.InputTooLarge.code, "the request's body is larger than this address takes"),
    }
)
_log = logging.getLogger(__name__)


def status_of(error: errors.FleetError) -> HTTPStatus:
    """The HTTP status of ``error``."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(status: int, code: str, sentence: str) -> JSONResponse:
    """A problem document."""
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    content = {"code": code, "detail": sentence, "status": int(status), "title": HTTPStatus(status).phrase}
    return JSONResponse(content, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Make ``app`` answer every refusal with a problem document, and a page's visitor without a session with the login."""
    app.add_exception_handler(errors.FleetError, _on_fleet_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_defect)


def wants_page(request: Request) -> bool:
    """Whether a person's browser asked for a page (not a program for JSON, nor a page's script for a fragment)."""
    return not request.url.path.startswith("/v1/") and "x-fragment" not in request.headers


def _refuse(request: Request, status: int, code: str, sentence: str) -> Response:
    if wants_page(request):
        return refusal_page(request, status, code, sentence)
    return problem(status, code, sentence)


async def _on_fleet_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.FleetError)  # noqa: S101 - registered for this class only
    if isinstance(error, errors.NotAuthenticated) and wants_page(request):
        return RedirectResponse(f"/login?next={quote(request.url.path)}", status_code=HTTPStatus.SEE_OTHER)
    return _refuse(request, status_of(error), error.code, str(error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    first = error.errors()[0]
    # The offending value is not repeated: it may be a secret that was put in the wrong field.
    place = ".".join(str(part) for part in first["loc"])
    return _refuse(request, HTTPStatus.UNPROCESSABLE_ENTITY, errors.MalformedInput.code, f"{place}: {first['msg']}")


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    code, sentence = _HTTP_CODES.get(error.status_code, ("http-error", HTTPStatus(error.status_code).phrase))
    return _refuse(request, error.status_code, code, sentence)


async def _on_defect(request: Request, error: Exception) -> Response:
    # A programming mistake: the person learns that it is ours, the log learns where. The server itself goes on.
    _log.error("defect in %s %s", request.method, request.url.path, exc_info=error)
    return _refuse(
        request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", "the server has a defect; its log says where"
    )
