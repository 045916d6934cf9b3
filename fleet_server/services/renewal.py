"""The next certificate of a device that still has a good one (SPEC 9.3). The registry is the authority, not the CA."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.orm import Session, sessionmaker

from fleet_protocol import renewal as wire
from fleet_protocol.claim import MAX_CSR_BYTES
from fleet_protocol.errors import BadSignature, CertificateRefused, CertificateSuperseded, CsrRefused, DeviceRevoked
from fleet_protocol.identifiers import FleetId
from fleet_server.changes import ChangeFeed
from fleet_server.db.models import Audit, Device
from fleet_server.ports import Authority
from fleet_server.services.certificates import ShownCertificate, read_certificate, serial_of
from fleet_server.services.csr import DeviceKeys, read_csr

CHALLENGE_S: Final = 300.0
"""How long a challenge is good: a slow link's round trip, and no longer."""


class Renewals:
    """``secret``: what challenges are made with; of this process only, a device asks for another after a restart."""

    def __init__(
        self, sessions: sessionmaker[Session], ca: Authority, changes: ChangeFeed, fleet: FleetId, secret: bytes
    ) -> None:
        self._sessions = sessions
        self._ca = ca
        self._changes = changes
        self._fleet = fleet
        self._secret = secret

    def challenge(self, now: float) -> wire.RenewalChallenge:
        """Something new to sign. Nothing is remembered: strangers cannot fill anything by asking."""
        return wire.RenewalChallenge(self._challenge(int(now)))

    def renew(self, request: wire.RenewalRequest, now: float) -> wire.RenewalReply:
        """A certificate for the new key. Raises MalformedMessage, BadSignature or RefusedRequest; nothing is changed then.

        The same request, or another one for the same new key, gives the same certificate: the reply may have been lost.
        """
        csr = wire.decode(request.csr, MAX_CSR_BYTES)
        der = wire.decode(request.certificate, wire.MAX_CERTIFICATE_BYTES)
        shown = read_certificate(der, self._ca.certificate_der, now)
        self._check_challenge(request.challenge, now)
        signature = wire.decode(request.signature, wire.MAX_SIGNATURE_BYTES)
        wire.verify(shown.key, signature, self._fleet, shown.device, csr, request.challenge)
        keys = read_csr(csr)
        with self._sessions.begin() as session:
            certificate, is_new = self._next(session, shown, keys, now)
        if is_new:
            self._changes.publish("device", shown.device)
        return wire.RenewalReply(certificate.public_bytes(Encoding.PEM).decode())

    def _next(
        self, session: Session, shown: ShownCertificate, keys: DeviceKeys, now: float
    ) -> tuple[x509.Certificate, bool]:
        row = _member(session, shown, keys)
        if keys.tls == shown.key:
            raise CsrRefused("a renewal is for a new TLS key; this one is in use")
        if keys.spki == row.tls_spki:
            return self._ca.issue_again(keys.tls, shown.device, row.serial), False
        certificate = self._ca.issue_device(keys.tls, shown.device, now)
        # The shown one stays good, whichever of the two it was: it is the one that the device certainly has.
        row.previous_serial, row.serial, row.tls_spki = shown.serial, serial_of(certificate), keys.spki
        reason = f"serial {row.serial[-12:]} until {certificate.not_valid_after_utc:%Y-%m-%d}"
        session.add(Audit(at=now, who=shown.device, action="device.renew", subject=shown.device, reason=reason))
        return certificate, True

    def _check_challenge(self, challenge: str, now: float) -> None:
        made = challenge.partition(".")[0]
        if not (len(challenge) <= wire.MAX_CHALLENGE_CHARS and made.isascii() and made.isdigit()):
            raise BadSignature("this challenge was not made by this server; ask for another")
        is_ours = hmac.compare_digest(challenge.encode(), self._challenge(int(made)).encode())
        if not is_ours or abs(now - int(made)) > CHALLENGE_S:
            raise BadSignature("the challenge is too old or was not made by this server; ask for another")

    def _challenge(self, made: int) -> str:
        return f"{made}.{hmac.new(self._secret, str(made).encode(), hashlib.sha256).hexdigest()}"


def _member(session: Session, shown: ShownCertificate, keys: DeviceKeys) -> Device:
    """SPEC 9.3.4 and 9.3.5."""
    row = session.get(Device, shown.device)
    if row is None:
        raise CertificateRefused("this is not a device certificate of this fleet")
    if row.state != "active":
        raise DeviceRevoked(f"{shown.device} is {row.state}; its certificate is not renewed")
    if shown.serial not in {row.serial, row.previous_serial}:
        raise CertificateSuperseded(
            f"{shown.device} has a newer certificate than this one; if it is not on this device, find out who has it, "
            "and enrol the device again with a claim made by `fleetctl claim create --replace`"
        )
    if not hmac.compare_digest(row.hpke_key, keys.hpke):
        raise CsrRefused("a renewal keeps the device's HPKE key; only a new enrolment changes it")
    return row
