"""Whose certificate is this? What a device shows when it asks for the next one (SPEC 9.3.5). Pure."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from fleet_protocol.claim import DEVICE_URN
from fleet_protocol.errors import CertificateExpired, CertificateRefused, MalformedIdentifier
from fleet_protocol.identifiers import DeviceId, device_id


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """A device certificate of this fleet's CA that is valid now; whether it is still the device's, the registry knows."""

    device: DeviceId
    serial: str
    key: ec.EllipticCurvePublicKey


def read_certificate(der: bytes, ca: bytes, now: float) -> ShownCertificate:
    """Verify chain, purpose, name and time. Raises CertificateRefused, or CertificateExpired where only time is wrong."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
    except (ValueError, TypeError) as error:
        raise CertificateRefused("this is not a certificate in DER form") from error
    _check_chain(certificate, x509.load_der_x509_certificate(ca), now)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateRefused("a device's TLS key is a P-256 key")
    device = _device_of(certificate)
    if now > certificate.not_valid_after_utc.timestamp():
        raise CertificateExpired(
            f"the certificate of {device} ended on {certificate.not_valid_after_utc:%Y-%m-%d}; enrol the device again "
            "with a claim made by `fleetctl claim create --replace`"
        )
    return ShownCertificate(device, serial_of(certificate), key)


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as the registry writes it."""
    return f"{certificate.serial_number:x}"


def _check_chain(certificate: x509.Certificate, ca: x509.Certificate, now: float) -> None:
    # Judged within its own life, so that an ended certificate is told from a false one: only the first means to enrol again.
    at = min(dt.datetime.fromtimestamp(now, dt.UTC), certificate.not_valid_after_utc)
    ends = ExtensionPolicy.webpki_defaults_ee().require_present(
        x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _require_client_auth
    )
    policy = (
        PolicyBuilder().store(Store([ca])).time(at)
        .extension_policies(ee_policy=ends, ca_policy=ExtensionPolicy.webpki_defaults_ca())
    )  # fmt: skip
    try:
        policy.build_client_verifier().verify(certificate, [])
    except (VerificationError, ValueError) as error:
        raise CertificateRefused("this is not a device certificate of this fleet") from error


def _require_client_auth(_policy: Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage) -> None:
    # The verifier's own default takes a leaf that names no purpose at all.
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise ValueError("the certificate is not for clients")


def _device_of(certificate: x509.Certificate) -> DeviceId:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].startswith(DEVICE_URN):
        raise CertificateRefused("this certificate does not name a device")
    try:
        return device_id(uris[0].removeprefix(DEVICE_URN))
    except MalformedIdentifier as error:
        raise CertificateRefused("this certificate does not name a device") from error
