"""Encryption (SPEC 5): the scheme is C2SP's, and every change of a blob shows."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_protocol import envelope
from fleet_protocol.errors import ChunkTampered, KeyNotForThisDevice, MalformedEnvelope
from fleet_protocol.identifiers import DeviceId, Digest, FleetId, digest_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cobblestone-256.json").read_text())
MANIFEST = Digest("ab" * 32)


def independent_open(key: bytes, context: bytes, blob: bytes) -> bytes:
    """C2SP chunked-encryption from its text alone: HKDF-Expand by hand, one AES-GCM per chunk. Shares no code with us."""

    def block(previous: bytes, number: int) -> bytes:
        mac = hmac.HMAC(key, hashes.SHA512())
        label = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"
        mac.update(previous + label + blob[:24] + context + bytes([number]))
        return mac.finalize()

    first = block(b"", 1)
    derived = first + block(first, 2)
    assert derived[44:76] == blob[24:56], "key commitment"
    plain, at, number = b"", 56, 0
    while at < len(blob):
        nonce = int.from_bytes(derived[32:44], "big") ^ number
        plain += AESGCM(derived[:32]).decrypt(nonce.to_bytes(12, "big"), blob[at : at + 16_400], None)
        at, number = at + 16_400, number + 1
    return plain


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_stored_blob_opens_the_same_in_three_readers(vector: dict[str, str]) -> None:
    """The library, our random access and a decoder written from the C2SP text agree on blobs made long ago."""
    key, manifest, blob = bytes.fromhex(vector["key"]), Digest(vector["manifest"]), bytes.fromhex(vector["blob"])
    plain = bytes.fromhex(vector["payload_seed"]) * int(vector["payload_repeats"])
    assert b"".join(envelope.open_blob([blob], key, manifest)) == plain
    assert independent_open(key, envelope.blob_context(manifest), blob) == plain
    assert by_messages(blob, key, manifest) == plain


def by_messages(blob: bytes, key: bytes, manifest: Digest) -> bytes:
    reader = envelope.ChunkReader(key, manifest, blob[: envelope.HEADER_BYTES], len(blob))
    plain = b""
    for index in reversed(range(envelope.message_count(len(blob)))):
        start, end = envelope.message_span(index, len(blob))
        plain = reader.open_message(index, blob[max(start, envelope.HEADER_BYTES) : end]) + plain
    return plain


def seal(payload: bytes, key: bytes) -> bytes:
    return b"".join(envelope.seal([payload], key, MANIFEST))


SIZES = [0, 1, 16_383, 16_384, 16_385, 32_767, 32_768, 32_769, 100_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_blob_has_the_promised_length_and_opens_in_any_order(size: int) -> None:
    key, payload = envelope.generate_key(), bytes(range(256)) * (size // 256) + bytes(size % 256)
    blob = seal(payload, key)
    assert len(blob) == envelope.sealed_length(size)
    assert by_messages(blob, key, MANIFEST) == payload


@given(st.lists(st.integers(0, 50_000), max_size=6))
@settings(max_examples=25)
def test_the_pieces_in_which_a_payload_is_fed_do_not_matter(pieces: list[int]) -> None:
    key = envelope.generate_key()
    parts = [bytes([number % 256]) * size for number, size in enumerate(pieces)]
    blob = b"".join(envelope.seal(parts, key, MANIFEST))
    assert b"".join(envelope.open_blob([blob[:77], blob[77:]], key, MANIFEST)) == b"".join(parts)


def tampered(blob: bytes) -> dict[str, bytes]:
    flipped = bytearray(blob)
    flipped[20_000] ^= 1
    return {
        "a flipped bit": bytes(flipped),
        "cut at a chunk border": blob[: 56 + 16_400],
        "cut inside a chunk": blob[:-1],
        "extended": blob + bytes(16),
        "chunks swapped": blob[:56] + blob[56 + 16_400 : 56 + 32_800] + blob[56 : 56 + 16_400] + blob[56 + 32_800 :],
        "another salt": bytes(24) + blob[24:],
        "another commitment": blob[:24] + bytes(32) + blob[56:],
        "empty": b"",
    }


@pytest.mark.parametrize("name", tampered(bytes(60_000)))
def test_no_change_of_a_blob_goes_unseen(name: str) -> None:
    key = envelope.generate_key()
    with pytest.raises(ChunkTampered):
        b"".join(envelope.open_blob([tampered(seal(bytes(50_000), key))[name]], key, MANIFEST))


def test_a_blob_is_bound_to_its_manifest_and_key() -> None:
    key = envelope.generate_key()
    blob = seal(b"weights", key)
    for other_key, manifest in ((key, Digest("cd" * 32)), (envelope.generate_key(), MANIFEST)):
        with pytest.raises(ChunkTampered):
            b"".join(envelope.open_blob([blob], other_key, manifest))
        with pytest.raises(ChunkTampered):
            envelope.ChunkReader(other_key, manifest, blob[:56], len(blob))


def test_a_chunk_in_anothers_place_or_of_another_length_is_refused() -> None:
    key = envelope.generate_key()
    blob = seal(bytes(150_000), key)
    reader = envelope.ChunkReader(key, MANIFEST, blob[:56], len(blob))
    start, end = envelope.message_span(1, len(blob))
    assert reader.open_message(1, blob[start:end]) == bytes(32_768)
    for index, content in ((2, blob[start:end]), (1, blob[start : end - 1]), (1, bytes(end - start))):
        with pytest.raises(ChunkTampered):
            reader.open_message(index, content)
    with pytest.raises(MalformedEnvelope):
        reader.open_message(99, blob[start:end])


def test_a_wrapped_key_opens_for_one_device_fleet_manifest_and_blob_only() -> None:
    mine, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    key, blob = envelope.generate_key(), digest_of(b"blob")
    fleet, device = FleetId("acme"), DeviceId("cam-7")
    wrapped = envelope.wrap_key(key, mine.public_key(), fleet, device, MANIFEST, blob)
    assert len(wrapped) == envelope.WRAPPED_KEY_BYTES
    assert envelope.unwrap_key(wrapped, mine, fleet, device, MANIFEST, blob) == key
    wrong = [
        (wrapped, other, fleet, device, MANIFEST, blob),
        (wrapped, mine, FleetId("other"), device, MANIFEST, blob),
        (wrapped, mine, fleet, DeviceId("cam-8"), MANIFEST, blob),
        (wrapped, mine, fleet, device, Digest("cd" * 32), blob),
        (wrapped, mine, fleet, device, MANIFEST, digest_of(b"other")),
        (wrapped[:-1], mine, fleet, device, MANIFEST, blob),
        (b"", mine, fleet, device, MANIFEST, blob),
    ]
    for arguments in wrong:
        with pytest.raises(KeyNotForThisDevice):
            envelope.unwrap_key(*arguments)
