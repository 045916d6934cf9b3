"""How a device becomes a member, and how it stops being one (SPEC 9.1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import CursorResult, update
from sqlalchemy.orm import Session, sessionmaker

from fleet_protocol import claim as claims
from fleet_protocol.claim import Claim, EnrolmentReply, EnrolmentRequest
from fleet_protocol.errors import (
    ClaimRefused,
    ClaimUsed,
    CsrRefused,
    DeviceExists,
    DeviceRevoked,
    MalformedClaim,
    NotFound,
)
from fleet_protocol.identifiers import BoardName, DeviceId, bucket_of
from fleet_server.changes import ChangeFeed
from fleet_server.db.models import Assignment, Audit, Device, LatestHealth
from fleet_server.db.models import Claim as ClaimRow
from fleet_server.ports import Authority, Clock, SignedMetadata
from fleet_server.services.claims import Pins, Wish, add_claim
from fleet_server.services.csr import DeviceKeys, read_csr

_DUE_NOW: Final = 0.0
_REFUSED: Final = "this claim is unknown, wrong, expired or revoked; make a new one with `fleetctl claim create`"
"""One sentence for all four, so that a stranger learns nothing about which claims exist."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where devices find the broker; part of every enrolment reply."""

    fleet: str
    host: str
    broker_port: int


class Enrolment:
    """Claims, enrolment and revocation. The registry is the authority; the CA only writes names on keys."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        ca: Authority,
        tuf: SignedMetadata,
        changes: ChangeFeed,
        clock: Clock,
        address: Address,
    ) -> None:
        self._sessions = sessions
        self._ca = ca
        self._tuf = tuf
        self._changes = changes
        self._clock = clock
        self._address = address

    def create_claim(
        self, device: DeviceId, board: BoardName, ttl_s: float, who: str, *, replaces: bool = False
    ) -> Claim:
        """A one-time right to enrol as ``device``; its secret is in the returned claim only. Raises RefusedRequest.

        ``replaces``: the device is a member already, and the keys that redeem the claim take the place of its own.
        """
        with self._sessions.begin() as session:
            pins = Pins.of(self._ca, self._tuf)
            claim = add_claim(session, Wish(device, board, replaces=replaces), ttl_s, who, now=self._clock(), pins=pins)
        self._changes.publish("claim", claim.claim_id)
        return claim

    def enrol(self, request: EnrolmentRequest, now: float) -> EnrolmentReply:
        """Spend a claim. Raises CsrRefused, ClaimRefused, ClaimUsed or DeviceExists; nothing is changed then.

        The same claim with the same keys may be repeated: the first reply may have been lost (SPEC 9.1.5).
        """
        keys = read_csr(_decode_csr(request.csr))
        with self._sessions.begin() as session:
            claim = _claim(session, request, now)
            is_repeated = _spend(session, claim, keys, now)
            device = DeviceId(claim.device_id)
            certificate = self._ca.issue_device(keys.tls, device, now)
            serial = f"{certificate.serial_number:x}"
            if is_repeated:
                _reissue(session, device, keys, serial)
            else:
                action = _admit(session, claim, keys, serial, now)
                _audit(session, now, f"claim {claim.id}", action, device, f"board {claim.board}")
        self._changes.publish("device", device)
        return EnrolmentReply(
            fleet=self._address.fleet,
            device=device,
            certificate=certificate.public_bytes(Encoding.PEM).decode(),
            ca=self._ca.certificate_pem.decode(),
            root=self._tuf.root().decode(),
            broker_host=self._address.host,
            broker_port=self._address.broker_port,
        )

    def revoke(self, device: DeviceId, who: str, reason: str) -> None:
        """End a membership: from this commit on no key is wrapped for the device and no report of it counts.

        The broker follows within a second (``services.access``): rights denied, then the live session ended. What the
        device already holds stays with it. Safe to call twice; raises NotFound.
        """
        now = self._clock()
        with self._sessions.begin() as session:
            row = session.get(Device, device)
            if row is None:
                raise NotFound(f"no device {device} in this fleet; `fleetctl device list` shows them")
            if row.state == "revoked":
                return
            row.state, row.online = "revoked", False
            _audit(session, now, who, "device.revoke", device, reason)
        self._changes.publish("device", device)


def _decode_csr(text: str) -> bytes:
    try:
        return base64.b64decode(text[: 2 * claims.MAX_CSR_BYTES], validate=True)
    except (binascii.Error, ValueError) as error:
        raise CsrRefused("the certificate request is not base64") from error


def _claim(session: Session, request: EnrolmentRequest, now: float) -> ClaimRow:
    row = session.get(ClaimRow, request.claim_id)
    try:
        offered = hashlib.sha256(claims.decode_secret(request.secret)).digest()
    except MalformedClaim as error:
        raise ClaimRefused(_REFUSED) from error
    expected = bytes(32) if row is None else row.secret_sha256
    is_right = hmac.compare_digest(offered, expected)
    if row is None or not is_right or now >= row.expires_at or row.revoked_at is not None:
        raise ClaimRefused(_REFUSED)
    if request.board != row.board:
        raise ClaimRefused(f"this claim is for board {row.board}, the device says {request.board[:80]!r}")
    return row


def _spend(session: Session, claim: ClaimRow, keys: DeviceKeys, now: float) -> bool:
    """Take the claim for these keys, in one statement so that of many at once one wins; whether it was theirs already."""
    result = session.execute(
        update(ClaimRow)
        .where(ClaimRow.id == claim.id, ClaimRow.used_at.is_(None), ClaimRow.revoked_at.is_(None))
        .values(used_at=now, used_by=keys.identity)
    )
    assert isinstance(result, CursorResult)  # noqa: S101  # what an UPDATE gives; the type is wider
    if result.rowcount == 1:
        return False
    session.refresh(claim)
    if claim.used_by is None or not hmac.compare_digest(claim.used_by, keys.identity):
        raise ClaimUsed("this claim was already used by another device; make a new one, and find out who used it")
    return True


def _admit(session: Session, claim: ClaimRow, keys: DeviceKeys, serial: str, now: float) -> str:
    """Make the device a member, or change its keys; which of the two, as the audit calls it."""
    device = DeviceId(claim.device_id)
    member = session.get(Device, device)
    if member is not None:
        _replace(session, member, claim, keys, serial, now)
        return "device.replace"
    session.add(
        Device(
            id=device,
            bucket=bucket_of(device),
            board=claim.board,
            state="active",
            tags=claim.tags,
            enrolled_at=now,
            tls_spki=keys.spki,
            hpke_key=keys.hpke,
            serial=serial,
        )
    )
    return "device.enrol"


def _replace(session: Session, member: Device, claim: ClaimRow, keys: DeviceKeys, serial: str, now: float) -> None:
    """SPEC 9.1.7: new keys under the same name. Neither the old certificate nor the one before it is renewed any more."""
    if not claim.replaces:
        raise DeviceExists(
            f"{member.id} is already enrolled; `fleetctl claim create --replace` makes a claim to replace it"
        )
    if member.state != "active":
        raise DeviceRevoked(f"{member.id} is {member.state} and stays it; the replacement gets a new name")
    member.board, member.enrolled_at, member.fingerprint = claim.board, now, None
    member.tls_spki, member.hpke_key, member.serial, member.previous_serial = keys.spki, keys.hpke, serial, None
    health = session.get(LatestHealth, member.id)
    if health is not None:
        session.delete(health)  # a new board counts its reports from one
    newest = session.get(Assignment, member.id)
    if newest is not None:
        newest.expires_at = _DUE_NOW  # its keys are wrapped for the old HPKE key


def _reissue(session: Session, device: DeviceId, keys: DeviceKeys, serial: str) -> None:
    row = session.get(Device, device)
    if row is None or row.state != "active" or row.tls_spki != keys.spki:
        raise ClaimUsed(f"this claim was already used, and {device} has changed since")
    row.previous_serial, row.serial = row.serial, serial


def _audit(session: Session, now: float, who: str, action: str, subject: str, reason: str) -> None:
    session.add(Audit(at=now, who=who[:63], action=action, subject=subject[:200], reason=reason[:400]))
