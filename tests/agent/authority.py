"""A certificate authority of the tests: real P-256 certificates for servers and devices."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from fleet_protocol.claim import DEVICE_URN


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """One CA; ``der`` is what claims pin."""

    def __init__(self, title: str = "Test Fleet CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (
            self._builder(title, self.key.public_key(), _name(title))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue_device(self, public: ec.EllipticCurvePublicKey, device: str) -> x509.Certificate:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEVICE_URN + device)])
        return self._leaf(public, device, names, ExtendedKeyUsageOID.CLIENT_AUTH)

    def issue_client(self, folder: Path, name: str) -> Path:
        """Certificate and key of a client called ``name``, as PEM files; the stem of both."""
        key = ec.generate_private_key(ec.SECP256R1())
        return _write(folder / name, self.issue_device(key.public_key(), name), key)

    def issue_server(self, folder: Path, address: str = "127.0.0.1") -> Path:
        """Certificate and key of a server at ``address``, as PEM files; the stem of both."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        return _write(
            folder / "server", self._leaf(key.public_key(), address, names, ExtendedKeyUsageOID.SERVER_AUTH), key
        )

    def server_context(self, folder: Path, address: str = "127.0.0.1") -> ssl.SSLContext:
        stem = self.issue_server(folder, address)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        return context

    def _leaf(
        self, public: ec.EllipticCurvePublicKey, title: str, names: x509.SubjectAlternativeName, usage: ObjectIdentifier
    ) -> x509.Certificate:
        return (
            self._builder(title, public, self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    @staticmethod
    def _builder(title: str, public: ec.EllipticCurvePublicKey, issuer: x509.Name) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(title))
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Path:
    stem.with_suffix(".pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    stem.with_suffix(".key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return stem
