"""Renewal: a certificate that ends soon becomes a new one for a new key (SPEC 9.3)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fleet_protocol import strict_json
from fleet_protocol.errors import BadSignature, MalformedMessage
from fleet_protocol.identifiers import DeviceId, FleetId

MAX_CERTIFICATE_BYTES: Final = 4096
MAX_SIGNATURE_BYTES: Final = 128
MAX_CHALLENGE_CHARS: Final = 128
MAX_REQUEST_BYTES: Final = 16_384
_DOMAIN: Final = b"edgefleet/renew/v1"
_Message = TypeVar("_Message", bound=msgspec.Struct)


class RenewalChallenge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """GET /v1/renew. What the device must sign within minutes; it needs no clock for that (SPEC 9.3.2)."""

    challenge: str


class RenewalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/renew. ``certificate`` (the one that ends), ``csr`` and ``signature`` are DER in base64."""

    certificate: str
    csr: str
    challenge: str
    signature: str


class RenewalReply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new certificate as PEM."""

    certificate: str


def parse_challenge(content: bytes) -> RenewalChallenge:
    """Parse the server's challenge; raises MalformedMessage, MalformedJson or InputTooLarge."""
    return _parse(content, RenewalChallenge)


def parse_request(content: bytes) -> RenewalRequest:
    """Parse a device's request; raises MalformedMessage, MalformedJson or InputTooLarge."""
    return _parse(content, RenewalRequest)


def parse_reply(content: bytes) -> RenewalReply:
    """Parse the server's answer; raises MalformedMessage, MalformedJson or InputTooLarge."""
    return _parse(content, RenewalReply)


def sign(old: ec.EllipticCurvePrivateKey, fleet: FleetId, device: DeviceId, csr: bytes, challenge: str) -> bytes:
    """Signature (DER) by the key of the certificate that ends, over the request for the next one (SPEC 9.3.3)."""
    return old.sign(statement(fleet, device, csr, challenge), ec.ECDSA(hashes.SHA256()))


def verify(
    old: ec.EllipticCurvePublicKey, signature: bytes, fleet: FleetId, device: DeviceId, csr: bytes, challenge: str
) -> None:
    """Raises BadSignature unless the holder of ``old`` signed exactly this request (SPEC 9.3.3)."""
    try:
        old.verify(signature, statement(fleet, device, csr, challenge), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise BadSignature("the renewal is not signed by the key of the certificate that it shows") from error


def statement(fleet: FleetId, device: DeviceId, csr: bytes, challenge: str) -> bytes:
    """What is signed. Every field with its length before it: no two requests give the same bytes."""
    fields = (_DOMAIN, fleet.encode(), device.encode(), hashlib.sha256(csr).digest(), challenge.encode())
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def encode(content: bytes) -> str:
    """Base64, as the fields of a request are."""
    return base64.b64encode(content).decode("ascii")


def decode(text: str, limit: int) -> bytes:
    """Inverse of :func:`encode` for at most ``limit`` bytes; raises MalformedMessage."""
    if len(text) > 4 * (limit // 3 + 1):
        raise MalformedMessage(f"a field of a renewal has at most {limit} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedMessage("a field of a renewal is not base64") from error


def _parse(content: bytes, kind: type[_Message]) -> _Message:
    try:
        return msgspec.convert(strict_json.loads(content), kind, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedMessage(f"not a {kind.__name__}: {error}") from error
