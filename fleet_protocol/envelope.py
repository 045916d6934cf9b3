"""Encryption of payloads and of the keys to them (SPEC 5).

One ciphertext serves the whole fleet: Cobblestone-256 (C2SP chunked-encryption), its context bound to the manifest.
The content key is wrapped for each device with HPKE (RFC 9180), its info bound to fleet, device, manifest and blob.
Streaming in one pass is left to ``cryptography``; :class:`ChunkReader` is the random access that the library does not
offer and that lets a device verify each chunk when it arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from fleet_protocol.errors import ChunkTampered, KeyNotForThisDevice, MalformedEnvelope
from fleet_protocol.identifiers import DeviceId, Digest, FleetId

ALGORITHM: Final = "cobblestone-256"
KEM_X25519: Final = "hpke-x25519-hkdf-sha256-aes-256-gcm"
KEY_BYTES: Final = 32
WRAPPED_KEY_BYTES: Final = 80

SALT_BYTES: Final = 24
COMMITMENT_BYTES: Final = 32
HEADER_BYTES: Final = SALT_BYTES + COMMITMENT_BYTES
TAG_BYTES: Final = 16
INNER_CHUNK_BYTES: Final = 16_384
SEALED_CHUNK_BYTES: Final = INNER_CHUNK_BYTES + TAG_BYTES
MESSAGE_CHUNKS: Final = 2
"""Cobblestone chunks in one MQTT message (SPEC 7.2)."""
MESSAGE_BYTES: Final = MESSAGE_CHUNKS * SEALED_CHUNK_BYTES

_NONCE_BYTES: Final = 12
_KDF_LABEL: Final = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _joined(*fields: bytes) -> bytes:
    # SPEC 5.1: each field behind its length, so no two lists of fields have the same bytes.
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def blob_context(manifest: Digest) -> bytes:
    """The Cobblestone context that ties a blob to one manifest (SPEC 5.2)."""
    return b"edgefleet/blob/v1" + _joined(bytes.fromhex(manifest))


def key_info(fleet: FleetId, device: DeviceId, manifest: Digest, blob: Digest) -> bytes:
    """The HPKE info that ties a wrapped key to one device, manifest and blob (SPEC 5.3)."""
    return b"edgefleet/cek/v1" + _joined(fleet.encode(), device.encode(), bytes.fromhex(manifest), bytes.fromhex(blob))


def generate_key() -> bytes:
    """A fresh content key (32 bytes). One per sealed payload, never used again (SPEC 5.4)."""
    return Cobblestone256Encryptor.generate_key()


def seal(payload: Iterable[bytes], key: bytes, manifest: Digest) -> Iterator[bytes]:
    """Encrypt ``payload`` piece by piece; the pieces yielded, joined, are the blob."""
    encryptor = Cobblestone256Encryptor(key, blob_context(manifest))
    for piece in payload:
        yield encryptor.update(piece)
    yield encryptor.finalize()


def open_blob(blob: Iterable[bytes], key: bytes, manifest: Digest) -> Iterator[bytes]:
    """Decrypt a blob piece by piece; raises ChunkTampered. Nothing yielded is final before the iterator ends (SPEC 5.5)."""
    decryptor = Cobblestone256Decryptor(key, blob_context(manifest))
    try:
        for piece in blob:
            yield decryptor.update(piece)
        yield decryptor.finalize()
    except InvalidTag as error:
        raise ChunkTampered("the blob is cut, changed, or sealed for another manifest") from error


def wrap_key(
    key: bytes, recipient: X25519PublicKey, fleet: FleetId, device: DeviceId, manifest: Digest, blob: Digest
) -> bytes:
    """Wrap a content key for one device (80 bytes)."""
    return _SUITE.encrypt(key, recipient, info=key_info(fleet, device, manifest, blob))


def unwrap_key(
    wrapped: bytes, private: X25519PrivateKey, fleet: FleetId, device: DeviceId, manifest: Digest, blob: Digest
) -> bytes:
    """Unwrap a content key; raises KeyNotForThisDevice for any other device, fleet, manifest or blob."""
    try:
        key = _SUITE.decrypt(wrapped, private, info=key_info(fleet, device, manifest, blob))
    except (InvalidTag, ValueError) as error:
        raise KeyNotForThisDevice("the wrapped content key does not open with this device's key") from error
    if len(key) != KEY_BYTES:
        raise KeyNotForThisDevice(f"a content key has {KEY_BYTES} bytes, got {len(key)}")
    return key


def sealed_length(payload_bytes: int) -> int:
    """Length of the blob of a payload: header, payload, one tag per chunk; the last chunk is never full (SPEC 5.2)."""
    chunks = payload_bytes // INNER_CHUNK_BYTES + 1
    return HEADER_BYTES + payload_bytes + chunks * TAG_BYTES


def message_count(blob_bytes: int) -> int:
    """Number of MQTT messages that carry a blob (SPEC 7.2)."""
    if blob_bytes < HEADER_BYTES + TAG_BYTES:
        raise MalformedEnvelope(f"a blob has at least {HEADER_BYTES + TAG_BYTES} bytes, got {blob_bytes}")
    return -(-(blob_bytes - HEADER_BYTES) // MESSAGE_BYTES)


def message_span(index: int, blob_bytes: int) -> tuple[int, int]:
    """First byte and end of message ``index`` in the blob; message 0 also carries the header (SPEC 7.2)."""
    if not 0 <= index < message_count(blob_bytes):
        raise MalformedEnvelope(f"a blob of {blob_bytes} bytes has no chunk {index}")
    start = 0 if index == 0 else HEADER_BYTES + index * MESSAGE_BYTES
    return start, min(HEADER_BYTES + (index + 1) * MESSAGE_BYTES, blob_bytes)


class ChunkReader:
    """Random access to a blob: opens any message on its own, so each is verified when it arrives (SPEC 7.4).

    Key and nonce derivation by C2SP chunked-encryption: HKDF-Expand-SHA512 over salt and context gives the AES key, the
    base nonce and the commitment; chunk ``i`` uses ``nonce xor i``. The last chunk is the one that is not full (it may be
    empty), so a blob cut at a chunk border cannot have the length that the signed assignment gives.
    """

    def __init__(self, key: bytes, manifest: Digest, header: bytes, blob_bytes: int) -> None:
        """``header``: the blob's first 56 bytes. Raises ChunkTampered where it does not commit to ``key``."""
        salt, commitment = header[:SALT_BYTES], header[SALT_BYTES:HEADER_BYTES]
        derived = HKDFExpand(
            hashes.SHA512(),
            KEY_BYTES + _NONCE_BYTES + COMMITMENT_BYTES,
            _KDF_LABEL + salt + blob_context(manifest),
        ).derive(key)
        if derived[KEY_BYTES + _NONCE_BYTES :] != commitment:
            raise ChunkTampered("the blob's header does not belong to this key and manifest")
        self._cipher = AESGCM(derived[:KEY_BYTES])
        self._nonce = int.from_bytes(derived[KEY_BYTES : KEY_BYTES + _NONCE_BYTES], "big")
        self._blob_bytes = blob_bytes

    def open_message(self, index: int, content: bytes | memoryview) -> bytes:
        """Verify and decrypt message ``index`` (without the header); raises ChunkTampered."""
        start, end = message_span(index, self._blob_bytes)
        if index == 0:
            start = HEADER_BYTES
        if len(content) != end - start:
            raise ChunkTampered(f"chunk {index} has {end - start} bytes, got {len(content)}")
        first = index * MESSAGE_CHUNKS
        return b"".join(
            self._open(first + number, content[at : at + SEALED_CHUNK_BYTES])
            for number, at in enumerate(range(0, len(content), SEALED_CHUNK_BYTES))
        )

    def _open(self, number: int, sealed: bytes | memoryview) -> bytes:
        try:
            return self._cipher.decrypt((self._nonce ^ number).to_bytes(_NONCE_BYTES, "big"), sealed, None)
        except InvalidTag as error:
            raise ChunkTampered(f"sealed chunk {number} does not authenticate") from error
