"""With which key and certificate the device proves itself, and how the next pair takes their place (SPEC 9.3.6).

Every step is one durable act, and a key stands in one file with its certificate: after a power cut between any two acts there
is the old pair or the new one, never one half of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from edge_agent.adapters.keys import IdentityFolder
from edge_agent.files import sync_folder, write_durably
from edge_agent.renewal import Life
from fleet_protocol.errors import MalformedConfig


@dataclass(frozen=True, slots=True)
class Credential:
    """Where a certificate and its key are, as PEM; the same file where they stand in one."""

    certificate: Path
    key: Path

    def read_certificate(self) -> x509.Certificate:
        """Raises MalformedConfig where it cannot be read."""
        try:
            return x509.load_pem_x509_certificate(self.certificate.read_bytes())
        except (OSError, ValueError) as error:
            raise MalformedConfig(f"{self.certificate.name} cannot be read; enrol this device again") from error

    def read_key(self) -> ec.EllipticCurvePrivateKey:
        """Raises MalformedConfig where it cannot be read."""
        try:
            return _parse_key(self.key.read_bytes())
        except (OSError, ValueError) as error:
            raise MalformedConfig(f"{self.key.name} cannot be read; enrol this device again") from error

    def life(self) -> Life:
        """From when to when the certificate is valid. Raises MalformedConfig."""
        certificate = self.read_certificate()
        return Life(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())


class Refusal(msgspec.Struct, frozen=True):
    """Why the server did not renew: its code and sentence, and when (trusted Unix seconds)."""

    code: str
    detail: str
    at: float


class Credentials:
    """The present pair of an enrolled device, and the one that may follow. Used by one thread."""

    def __init__(self, folder: IdentityFolder) -> None:
        self._enrolled = Credential(folder.certificate, folder.tls_key)
        home = folder.certificate.parent
        self._pair, self._next, self._next_key = folder.pair, home / "next.pem", home / "next.key"
        self._refusal = home / "refusal.json"

    def present(self) -> Credential:
        """What the device proves itself with: the renewed pair, else what enrolment brought."""
        return Credential(self._pair, self._pair) if self._pair.exists() else self._enrolled

    def following(self) -> Credential | None:
        """A new pair that the broker has not accepted the device with yet."""
        return Credential(self._next, self._next) if self._next.exists() else None

    def next_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of the next pair: made once and the same until its certificate is kept. Raises OSError."""
        try:
            key = _parse_key(self._next_key.read_bytes())
            if key.public_key() != self.present().read_certificate().public_key():
                return key  # else a power cut came between the two acts of ``replace``, and it is in use already
        except (FileNotFoundError, ValueError):
            pass  # a damaged one was never used: the server takes another
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(self._next_key, _pem(key))
        return key

    def keep(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        """Keep the next pair beside the present one. Raises OSError."""
        self._write(self._next, _pem(key) + certificate.public_bytes(Encoding.PEM))
        self._remove(self._next_key)

    def promote(self) -> None:
        """The next pair becomes the present one. Raises OSError."""
        self._remove(self._next_key)  # a power cut may have come between the two acts of ``keep``
        self._rename(self._next, self._pair)
        self._remove(self._refusal)

    def replace(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        """A new enrolment's pair becomes the present one at once: the old one is good for nothing. Raises OSError."""
        self._write(self._pair, _pem(key) + certificate.public_bytes(Encoding.PEM))
        self.discard()
        self._remove(self._refusal)

    def discard(self) -> None:
        """Forget the next pair; the present one goes on. Raises OSError."""
        self._remove(self._next_key)
        self._remove(self._next)

    def refuse(self, refusal: Refusal) -> None:
        """Remember why there is no next pair, for ``edge-agent status``. Raises OSError."""
        self._write(self._refusal, msgspec.json.encode(refusal))

    def refusal(self) -> Refusal | None:
        """Why the last renewal was refused; None where it was not, or the note is damaged."""
        try:
            return msgspec.json.decode(self._refusal.read_bytes(), type=Refusal)
        except (OSError, msgspec.DecodeError):
            return None

    def _write(self, path: Path, content: bytes) -> None:
        write_durably(path, content)

    def _rename(self, old: Path, new: Path) -> None:
        old.replace(new)
        sync_folder(new.parent)

    def _remove(self, path: Path) -> None:
        if path.exists():
            path.unlink()
            sync_folder(path.parent)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _parse_key(content: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(content, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("another kind of key")  # noqa: TRY004 - said in the caller's words
    return key
