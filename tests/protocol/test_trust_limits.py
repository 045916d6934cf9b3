"""Checks that stand alone: each case here is refused by one check only, so that its loss would be seen."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleet_protocol import assignment as wire
from fleet_protocol import envelope, errors, trust
from fleet_protocol.identifiers import Digest, SlotName, digest_of
from tests.protocol import samples
from tests.protocol.samples import DEVICE, FINGERPRINT, FLEET, NOW, Director, Sealed


@pytest.fixture
def sealed() -> Sealed:
    return Sealed(*samples.sample(), X25519PrivateKey.generate())


@pytest.mark.parametrize(
    ("clock", "memory", "build", "expected"), [(3.0, 1.0, 2.0, 3.0), (1.0, 3.0, 2.0, 3.0), (1.0, 2.0, 3.0, 3.0)]
)
def test_trusted_time_is_the_latest_of_clock_memory_and_build(
    clock: float, memory: float, build: float, expected: float
) -> None:
    assert trust.trusted_now(clock, trust.Memory(time_s=memory), build) == expected


def test_a_believed_clock_is_not_moved_by_a_signed_time() -> None:
    director = Director()
    with pytest.raises(errors.StaleAssignment):
        trust.verify_assignment(
            director.sign(iat=NOW + 1000, exp=NOW + 2000), director.keys, FLEET, DEVICE, trust.Memory(),
            now_s=NOW, clock_believed=True, horizon_s=NOW + 5000,
        )  # fmt: skip


def test_an_item_that_names_another_manifest_than_the_release_is_refused(sealed: Sealed) -> None:
    item = msgspec.structs.replace(sealed.item, target_sha256="0" * 64)
    with pytest.raises(errors.ReleaseMismatch, match="names another"):
        trust.verify_item(item, sealed.target, sealed.content, FINGERPRINT, trust.Memory())


@pytest.mark.parametrize(("signed", "remembered"), [(8, 0), (0, 8)])
def test_both_floors_count(sealed: Sealed, signed: int, remembered: int) -> None:
    memory = trust.Memory(floors={SlotName("textline"): remembered})
    with pytest.raises(errors.BelowSecurityFloor):
        trust.verify_item(sealed.item, replace(sealed.target, floor=signed), sealed.content, FINGERPRINT, memory)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"iat": NOW, "exp": NOW - 1},
        {"seq": 2**53},
        {"fleet": "../x"},
    ],
    ids=str,
)
def test_a_signed_assignment_that_does_not_add_up_is_malformed(changes: dict[str, object]) -> None:
    director = Director()
    with pytest.raises(errors.MalformedAssignment):
        wire.decode(wire.verified_payload(director.sign(**changes), director.keys))


def test_an_assignment_has_a_most_of_items(sealed: Sealed) -> None:
    director = Director()
    items = tuple(msgspec.structs.replace(sealed.item, slot=f"slot-{n}") for n in range(wire.MAX_ITEMS + 1))
    wire.decode(wire.verified_payload(director.sign(items[:-1]), director.keys))
    with pytest.raises(errors.MalformedAssignment):
        wire.decode(wire.verified_payload(director.sign(items), director.keys))


def test_a_wrapped_key_of_another_length_is_refused() -> None:
    private, manifest, blob = X25519PrivateKey.generate(), digest_of(b"m"), digest_of(b"b")
    wrapped = envelope.wrap_key(b"short", private.public_key(), FLEET, DEVICE, manifest, blob)
    with pytest.raises(errors.KeyNotForThisDevice, match="32 bytes"):
        envelope.unwrap_key(wrapped, private, FLEET, DEVICE, manifest, blob)


def test_a_header_that_commits_to_another_key_is_refused_before_any_chunk(sealed: Sealed) -> None:
    header = sealed.blob[: envelope.HEADER_BYTES]
    with pytest.raises(errors.ChunkTampered, match="header"):
        envelope.ChunkReader(bytes(32), sealed.digest, header, len(sealed.blob))
    with pytest.raises(errors.ChunkTampered, match="header"):
        envelope.ChunkReader(sealed.key, Digest("0" * 64), header, len(sealed.blob))


@pytest.mark.parametrize("count", [0, 2])
def test_a_message_holds_one_messages_chunks_even_where_more_would_authenticate(sealed: Sealed, count: int) -> None:
    reader = envelope.ChunkReader(sealed.key, sealed.digest, sealed.blob[: envelope.HEADER_BYTES], len(sealed.blob))
    body = sealed.blob[envelope.HEADER_BYTES :]
    with pytest.raises(errors.ChunkTampered):
        reader.open_message(0, body[: count * envelope.MESSAGE_BYTES])
    reader.open_message(0, body[: envelope.MESSAGE_BYTES])
