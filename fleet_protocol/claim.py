"""Claims and enrolment: how a new device becomes a member (SPEC 9.1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from fleet_protocol import strict_json
from fleet_protocol.errors import MalformedClaim, MalformedMessage, WrongPin

HPKE_KEY_OID: Final = "2.25.197604013273218361840437842101934510077"
"""CSR extension that carries the device's X25519 public key (32 raw bytes): one signature proves both keys. A UUID-based
object identifier (ITU-T X.667) needs no registration."""

DEVICE_URN: Final = "urn:edgefleet:device:"
"""Prefix of the SAN URI in a device certificate."""

SERVER_NAME: Final = "fleet-server"
"""CN of the server's own broker client certificate."""

SECRET_BYTES: Final = 32
PIN_BYTES: Final = 16
MAX_CSR_BYTES: Final = 4096
_ID: Final = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Claim:
    """``efc1.<id>.<secret>.<pin of the fleet CA>.<pin of the TUF root>``, single use. Pins: first 16 bytes of SHA-256."""

    claim_id: str
    secret: bytes
    ca_pin: bytes
    root_pin: bytes

    def __str__(self) -> str:
        return ".".join(("efc1", self.claim_id, *map(_b64, (self.secret, self.ca_pin, self.root_pin))))

    def __repr__(self) -> str:
        return f"Claim({self.claim_id!r}, secret hidden)"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a claim; raises MalformedClaim without repeating the secret."""
        fields = text.strip().split(".")
        if len(fields) != 5 or fields[0] != "efc1" or not _ID.fullmatch(fields[1]):
            raise MalformedClaim("a claim reads efc1.<id>.<secret>.<pin>.<pin>; copy it again without line breaks")
        secret, ca_pin, root_pin = (_unb64(field) for field in fields[2:])
        if (len(secret), len(ca_pin), len(root_pin)) != (SECRET_BYTES, PIN_BYTES, PIN_BYTES):
            raise MalformedClaim("the claim was cut; copy it again without line breaks")
        return cls(fields[1], secret, ca_pin, root_pin)

    def check_ca(self, ca_der: bytes) -> None:
        """Raises WrongPin unless ``ca_der`` is the fleet CA. Asked BEFORE the secret is sent (SPEC 9.1.2)."""
        if not hmac.compare_digest(pin_of(ca_der), self.ca_pin):
            raise WrongPin("this server's certificate authority is not the one in the claim; the claim was not sent")

    def check_root(self, root: bytes) -> None:
        """Raises WrongPin unless ``root`` is the TUF root that the claim was made for."""
        if not hmac.compare_digest(pin_of(root), self.root_pin):
            raise WrongPin("the update root that the server sent is not the one in the claim")


def pin_of(content: bytes) -> bytes:
    """First 16 bytes of SHA-256."""
    return hashlib.sha256(content).digest()[:PIN_BYTES]


class EnrolmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/enrol. ``csr`` is DER in base64; ``secret`` in URL-safe base64."""

    claim_id: str
    secret: str
    csr: str
    board: str


class EnrolmentReply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Certificate and CA as PEM, the trusted TUF root as it was signed, where the broker is, who the device is."""

    fleet: str
    device: str
    certificate: str
    ca: str
    root: str
    broker_host: str
    broker_port: int


def parse_reply(content: bytes) -> EnrolmentReply:
    """Parse the server's answer; raises MalformedMessage, MalformedJson or InputTooLarge."""
    try:
        return msgspec.convert(strict_json.loads(content), EnrolmentReply, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedMessage(f"not an enrolment reply: {error}") from error


def encode_secret(secret: bytes) -> str:
    """URL-safe base64 without padding."""
    return _b64(secret)


def decode_secret(text: str) -> bytes:
    """Inverse of :func:`encode_secret`; raises MalformedClaim."""
    return _unb64(text)


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MalformedClaim("the claim holds a character that does not belong there; copy it again") from None
