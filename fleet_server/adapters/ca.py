"""The fleet's certificate authority: P-256, one level, short-lived leaves (SPEC 9.1).

The registry, not the CA, says who is a member: a certificate only carries a name. P-256 throughout, because the client
verifier that checks these chains refuses Ed25519.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet_protocol.claim import DEVICE_URN, SERVER_NAME
from fleet_protocol.errors import MalformedConfig
from fleet_protocol.identifiers import DeviceId

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 825
DEVICE_LIFE: Final = timedelta(days=30)
KICK_MINUTES: Final = 5
_RANDOM_BITS: Final = 80
_EARLIER: Final = timedelta(minutes=5)
"""Certificates begin this much in the past: clocks differ."""


class FleetAuthority:
    """Issues certificates. Made by :func:`found_authority` or read by :func:`read_authority`."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        device_life: timedelta = DEVICE_LIFE,
    ) -> None:
        self._key = key
        self.certificate = certificate
        self._device_life = device_life

    @property
    def certificate_der(self) -> bytes:
        """The CA certificate; claims pin its SHA-256."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def certificate_pem(self) -> bytes:
        """The CA certificate as text."""
        return self.certificate.public_bytes(Encoding.PEM)

    def private_pem(self) -> bytes:
        """The CA's private key, for the ceremony that writes it once."""
        return private_pem(self._key)

    def issue_device(self, key: ec.EllipticCurvePublicKey, device: DeviceId, now_s: float) -> x509.Certificate:
        """A client certificate of ``device_life`` (30 days): CN and SAN name the device, nothing else is granted."""
        return self._device(key, device, _new_serial(int(now_s)))

    def issue_again(self, key: ec.EllipticCurvePublicKey, device: DeviceId, serial: str) -> x509.Certificate:
        """The certificate that :meth:`issue_device` made with this ``serial`` (hexadecimal), byte for byte."""
        return self._device(key, device, int(serial, 16))

    def _device(self, key: ec.EllipticCurvePublicKey, device: DeviceId, serial: int) -> x509.Certificate:
        uri = x509.UniformResourceIdentifier(DEVICE_URN + device)
        return self._client(key, device, [uri], _issued_at(serial), self._device_life, serial)

    def issue_takeover(self, key: ec.EllipticCurvePublicKey, device: DeviceId, now_s: float) -> x509.Certificate:
        """A certificate of minutes in a revoked device's name: connecting with it ends the device's live session."""
        return self._client(key, device, [x509.DNSName(device)], now_s, timedelta(minutes=KICK_MINUTES))

    def issue_mqtt_client(self, key: ec.EllipticCurvePublicKey, now_s: float) -> x509.Certificate:
        """The server's own client certificate for its broker."""
        return self._client(key, SERVER_NAME, [x509.DNSName(SERVER_NAME)], now_s, timedelta(days=SERVER_DAYS))

    def issue_server(self, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now_s: float) -> x509.Certificate:
        """The TLS certificate of the HTTPS listener and the broker for these names and addresses."""
        names = server_names(hosts)
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue(key, hosts[0][:64], names, usage, now_s, timedelta(days=SERVER_DAYS))

    def _client(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        names: Sequence[x509.GeneralName],
        now_s: float,
        validity: timedelta,
        serial: int | None = None,
    ) -> x509.Certificate:
        return self._issue(key, name, names, ExtendedKeyUsageOID.CLIENT_AUTH, now_s, validity, serial)

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        now_s: float,
        validity: timedelta,
        serial: int | None = None,
    ) -> x509.Certificate:
        start = datetime.fromtimestamp(int(now_s), UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_common_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number() if serial is None else serial)
            .not_valid_before(start - min(_EARLIER, validity))
            .not_valid_after(start + validity)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256(), ecdsa_deterministic=True)


def found_authority(fleet: str, now_s: float) -> FleetAuthority:
    """A new CA with a new key, valid for ten years."""
    key = new_key()
    start, name = datetime.fromtimestamp(int(now_s), UTC), _common_name(f"{fleet} fleet CA")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _EARLIER)
        .not_valid_after(start + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return FleetAuthority(key, certificate)


def _new_serial(now_s: int) -> int:
    """Issue time and 80 random bits: with it the same certificate can be made again, and nobody guesses the next one."""
    return now_s << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)


def _issued_at(serial: int) -> int:
    return serial >> _RANDOM_BITS


def read_authority(key: Path, certificate: Path, device_life: timedelta = DEVICE_LIFE) -> FleetAuthority:
    """The CA in these PEM files; raises MalformedConfig where they are missing, damaged or do not belong together."""
    try:
        private = load_pem_private_key(key.read_bytes(), None)
        public = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise MalformedConfig(f"the fleet CA in {key.parent} cannot be read; restore it from a backup") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != public.public_key():
        raise MalformedConfig("the fleet CA's key and certificate do not belong together; restore both from a backup")
    return FleetAuthority(private, public, device_life)


def server_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """What the server's TLS certificate is valid for: ``hosts``, and this machine itself."""
    return [_host(host) for host in dict.fromkeys((*hosts, "localhost", "127.0.0.1"))]


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 text; goes into files of mode 0600 only."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
