"""Content keys at rest (SPEC 5).

A payload is sealed once, under a fresh content key, for the whole fleet. The content key rests in the registry encrypted
under the server's key-encryption key, so a stolen database opens no model; it leaves only wrapped for one device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleet_protocol import envelope
from fleet_protocol.errors import MalformedConfig, TrustError
from fleet_protocol.identifiers import Digest

_NONCE_BYTES: Final = 12
_LABEL: Final = b"edgefleet/sealed-key/v1"


class UnreadableContentKey(TrustError):
    """A content key in the registry that this server's key-encryption key does not open."""

    code = "unreadable-content-key"


@dataclass(frozen=True, slots=True)
class SealedBlob:
    """A ciphertext in the blob store: its digest, its length in bytes and its content key, encrypted at rest."""

    sha256: Digest
    length: int
    sealed_key: bytes


class ContentKeys:
    """Content keys at rest: AES-256-GCM under the key-encryption key, bound to the manifest and blob they belong to."""

    def __init__(self, key_encryption_key: bytes) -> None:
        if len(key_encryption_key) != envelope.KEY_BYTES:
            raise MalformedConfig(f"the key-encryption key has {envelope.KEY_BYTES} bytes")
        self._cipher = AESGCM(key_encryption_key)

    def protect(self, key: bytes, manifest: Digest, blob: Digest) -> bytes:
        """The form in which a content key is stored."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, _bound_to(manifest, blob))

    def reveal(self, sealed_key: bytes, manifest: Digest, blob: Digest) -> bytes:
        """Inverse of :meth:`protect`; raises UnreadableContentKey."""
        nonce, ciphertext = sealed_key[:_NONCE_BYTES], sealed_key[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, ciphertext, _bound_to(manifest, blob))
        except (InvalidTag, ValueError) as error:
            raise UnreadableContentKey(
                f"the content key of manifest {manifest[:12]} does not open; was keys/kek replaced?"
            ) from error


def _bound_to(manifest: Digest, blob: Digest) -> bytes:
    return _LABEL + bytes.fromhex(manifest) + bytes.fromhex(blob)
