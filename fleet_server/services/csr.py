"""Reading a device's certificate request: its two keys and nothing else (SPEC 9.1.3-4). Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleet_protocol.claim import HPKE_KEY_OID, MAX_CSR_BYTES
from fleet_protocol.errors import CsrRefused

_HPKE_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """The public keys that a device proved to hold: P-256 for TLS, X25519 (32 raw bytes) for content keys."""

    tls: ec.EllipticCurvePublicKey
    hpke: bytes

    @property
    def spki(self) -> bytes:
        """The TLS key as DER SubjectPublicKeyInfo."""
        return self.tls.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def identity(self) -> bytes:
        """SHA-256 over both keys: the same only for a repeated request with the same keys."""
        return hashlib.sha256(hashlib.sha256(self.spki).digest() + self.hpke).digest()


def read_csr(der: bytes) -> DeviceKeys:
    """The keys in a CSR whose signature proves that its sender holds them; raises CsrRefused.

    Names and extensions that the CSR asks for are not read: the claim says who the device is.
    """
    if len(der) > MAX_CSR_BYTES:
        raise CsrRefused(f"a certificate request has at most {MAX_CSR_BYTES} bytes, got {len(der)}")
    try:
        csr = x509.load_der_x509_csr(der)
        key, is_proven = csr.public_key(), csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CsrRefused("this is not a certificate request in DER form") from error
    if not is_proven:
        raise CsrRefused("the certificate request is not signed with its own key; make a new one")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CsrRefused("a device's TLS key is a P-256 key")
    return DeviceKeys(key, _hpke_key(csr))


def _hpke_key(csr: x509.CertificateSigningRequest) -> bytes:
    try:
        extension = csr.extensions.get_extension_for_oid(x509.ObjectIdentifier(HPKE_KEY_OID)).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise CsrRefused("the certificate request carries no HPKE key") from error
    raw = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if len(raw) != _HPKE_KEY_BYTES:
        raise CsrRefused(f"an HPKE key has {_HPKE_KEY_BYTES} bytes, got {len(raw)}")
    try:
        # A low-order point gives the same shared secret to everybody; the exchange refuses it.
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(raw))
    except ValueError as error:
        raise CsrRefused("the HPKE key is a weak point") from error
    return raw
