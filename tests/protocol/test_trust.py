"""What a device believes, and in which order (SPEC 6). Each refusal is an attack that it stops."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from fleet_protocol import assignment as wire
from fleet_protocol import errors, trust
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import DeviceId, Digest, FleetId, SlotName
from tests.protocol import samples
from tests.protocol.samples import DEVICE, FINGERPRINT, FLEET, NOW, Director, Sealed

MEMORY = trust.Memory(root_version=1, versions={"timestamp@1": 3}, seq=4, floors={}, time_s=NOW - 100)


@pytest.fixture
def director() -> Director:
    return Director()


@pytest.fixture
def private() -> X25519PrivateKey:
    return X25519PrivateKey.generate()


def verify(raw: bytes, director: Director, *, now: float = NOW, believed: bool = True, horizon: float = NOW + 3600):
    return trust.verify_assignment(
        raw, director.keys, FLEET, DEVICE, MEMORY, now_s=now, clock_believed=believed, horizon_s=horizon
    )


def test_an_honest_assignment_is_believed(director: Director) -> None:
    assert verify(director.sign(), director).assignment.seq == 5


def resigned_as(payload_type: str, director: Director) -> bytes:
    envelope = Envelope.from_dict(json.loads(director.sign()))
    other = Envelope(envelope.payload, payload_type, {})
    other.sign(director.signer)
    return json.dumps(other.to_dict()).encode()


def flipped(raw: bytes) -> bytes:
    outer = json.loads(raw)
    payload = bytearray(base64.b64decode(outer["payload"]))
    payload[20] ^= 1
    return json.dumps(outer | {"payload": base64.b64encode(payload).decode()}).encode()


def with_stolen_keyid(director: Director) -> bytes:
    thief = Director()
    outer = json.loads(thief.sign())
    outer["signatures"][0]["keyid"] = director.signer.public_key.keyid
    return json.dumps(outer).encode()


ATTACKS = {
    "replay": (lambda d: d.sign(seq=4), errors.ReplayedAssignment),
    "older": (lambda d: d.sign(seq=1), errors.ReplayedAssignment),
    "another device": (lambda d: d.sign(device="cam-8"), errors.NotForThisDevice),
    "another fleet": (lambda d: d.sign(fleet="other"), errors.NotForThisDevice),
    "attacker's key": (lambda d: Director().sign(), errors.BadSignature),
    "attacker's key under the real key id": (with_stolen_keyid, errors.BadSignature),
    "bit flip": (lambda d: flipped(d.sign()), errors.BadSignature),
    "another statement of the same key": (lambda d: resigned_as("application/x", d), errors.WrongPayloadType),
    "expired": (lambda d: d.sign(iat=NOW - 200, exp=NOW - 100), errors.StaleAssignment),
    "from the future": (lambda d: d.sign(iat=NOW + 400, exp=NOW + 500), errors.StaleAssignment),
    "nested": (lambda d: b"[" * 60_000, errors.MalformedJson),
    "a list": (lambda d: b"[]", errors.MalformedAssignment),
    "no envelope": (lambda d: b"{}", errors.MalformedAssignment),
    "signatures of a wrong type": (
        lambda d: b'{"payload":"","payloadType":"x","signatures":[1]}',
        errors.MalformedAssignment,
    ),
    "100 KB": (lambda d: b" " * 100_000, errors.InputTooLarge),
    "duplicate key": (lambda d: b'{"payloadType":"x",' + d.sign()[1:], errors.MalformedJson),
    "seq 0": (lambda d: d.sign(seq=0), errors.MalformedAssignment),
    "a wildcard as device": (lambda d: d.sign(device="+"), errors.MalformedAssignment),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_the_assignment_is_refused_by_its_own_code(name: str, director: Director) -> None:
    attack, refusal = ATTACKS[name]
    with pytest.raises(refusal):
        verify(attack(director), director)


def test_one_of_two_director_signatures_is_not_enough(director: Director) -> None:
    second = CryptoSigner.generate_ed25519()
    both = wire.parse_director_keys(
        wire.encode_director_keys([director.signer.public_key, second.public_key], threshold=2)
    )
    with pytest.raises(errors.BadSignature):
        trust.verify_assignment(
            director.sign(), both, FLEET, DEVICE, MEMORY, now_s=NOW, clock_believed=True, horizon_s=NOW
        )


def test_without_a_clock_the_signed_time_counts_but_only_to_the_horizon(director: Director) -> None:
    """A board that wakes in 1970 can install; a stolen director key cannot push it ten years ahead."""
    assert verify(director.sign(iat=NOW + 3000, exp=NOW + 9000), director, now=NOW - 50, believed=False)
    ten_years = NOW + 315_000_000
    with pytest.raises(errors.StaleAssignment):
        verify(director.sign(iat=ten_years, exp=ten_years + 9), director, now=NOW - 50, believed=False)


@pytest.mark.parametrize(("clock", "expected"), [(0.0, NOW - 100.0), (NOW + 5.0, NOW + 5.0)])
def test_trusted_time_never_goes_back(clock: float, expected: float) -> None:
    assert trust.trusted_now(clock, MEMORY, build_s=NOW - 1000) == expected


@pytest.mark.parametrize(
    "seen",
    [
        trust.MetadataVersions(0, {"timestamp@1": 3}, 0),
        trust.MetadataVersions(1, {"timestamp@1": 2}, 0),
    ],
)
def test_metadata_older_than_remembered_is_refused(seen: trust.MetadataVersions) -> None:
    with pytest.raises(errors.RolledBackMetadata):
        trust.check_metadata(seen, MEMORY)


def test_a_new_root_lets_versions_start_again() -> None:
    """Recovery from a fast-forward attack (TUF 5.3.11)."""
    trust.check_metadata(trust.MetadataVersions(2, {"timestamp@2": 1}, 0), MEMORY)


@pytest.fixture
def sealed(private: X25519PrivateKey) -> Sealed:
    return Sealed(*samples.sample(), private)


def check(sealed: Sealed, *, memory: trust.Memory = MEMORY, fingerprint: Fingerprint = FINGERPRINT, **changes: object):
    parts = {"item": sealed.item, "target": sealed.target, "content": sealed.content} | changes
    return trust.verify_item(
        parts["item"],
        parts["target"],
        parts["content"],
        fingerprint,
        memory,  # type: ignore[arg-type]
    )


def test_an_honest_item_opens_for_its_device_only(sealed: Sealed, private: X25519PrivateKey) -> None:
    verified = check(sealed)
    assert trust.open_key(verified, private, FLEET, DEVICE).key == sealed.key
    for thief, fleet, device in (
        (X25519PrivateKey.generate(), FLEET, DEVICE),
        (private, FleetId("other"), DEVICE),
        (private, FLEET, DeviceId("cam-8")),
    ):
        with pytest.raises(errors.KeyNotForThisDevice):
            trust.open_key(verified, thief, fleet, device)


def other_fingerprint(**changes: str) -> Fingerprint:
    return msgspec.structs.replace(FINGERPRINT, **changes)


def test_an_item_that_was_not_released_as_such_is_refused(sealed: Sealed) -> None:
    other = samples.manifest(counter=9)
    cases = [
        ({"target": None}, errors.NotReleased),
        ({"target": replace(sealed.target, sha256=Digest("0" * 64))}, errors.ReleaseMismatch),
        ({"content": other.encode()}, errors.ReleaseMismatch),
        ({"content": sealed.content + b" "}, errors.ReleaseMismatch),
        ({"item": msgspec.structs.replace(sealed.item, slot="other")}, errors.WrongSlot),
        ({"item": msgspec.structs.replace(sealed.item, target="models/x/1-y.json")}, errors.ReleaseMismatch),
        ({"item": msgspec.structs.replace(sealed.item, blob_bytes=1)}, errors.PayloadMismatch),
        ({"fingerprint": other_fingerprint(board="raspberry-pi-5")}, errors.WrongBoard),
        ({"fingerprint": other_fingerprint(runtime="openvino")}, errors.WrongRuntime),
        ({"fingerprint": other_fingerprint(runtime_version="1.16.3")}, errors.WrongRuntime),
        ({"fingerprint": other_fingerprint(architecture="aarch64")}, errors.WrongRuntime),
        ({"target": replace(sealed.target, floor=8)}, errors.BelowSecurityFloor),
        ({"memory": replace(MEMORY, floors={SlotName("textline"): 8})}, errors.BelowSecurityFloor),
    ]
    for changes, refusal in cases:
        with pytest.raises(refusal):
            check(sealed, **changes)  # type: ignore[arg-type]


def test_an_older_release_at_the_floor_is_a_deliberate_rollback_and_allowed(sealed: Sealed) -> None:
    assert check(sealed, memory=replace(MEMORY, floors={SlotName("textline"): 7})).floor == 7


def test_trusted_types_cannot_be_made_by_hand(sealed: Sealed) -> None:
    with pytest.raises(TypeError):
        trust.VerifiedItem(sealed.item, sealed.manifest, sealed.digest, 0, object())
    with pytest.raises(TypeError):
        trust.OpenedItem(check(sealed), b"key", object())


def test_a_content_key_is_never_printed(sealed: Sealed, private: X25519PrivateKey) -> None:
    opened = trust.open_key(check(sealed), private, FLEET, DEVICE)
    assert repr(sealed.key) not in repr(opened)
    assert sealed.key.hex() not in repr(opened)


def test_an_assignment_names_a_slot_once(director: Director, sealed: Sealed) -> None:
    with pytest.raises(errors.MalformedAssignment):
        verify(director.sign(items=(sealed.item, sealed.item)), director)


@pytest.mark.parametrize(
    "change",
    [
        {"encryption": "rot13"},
        {"kem": "none"},
        {"wrapped_key": "%"},
        {"slot": "../x"},
        {"blob_sha256": "x"},
        {"blob_bytes": 0},
    ],
    ids=str,
)
def test_an_item_of_another_shape_is_refused(change: dict[str, object], director: Director, sealed: Sealed) -> None:
    with pytest.raises(errors.MalformedAssignment):
        verify(director.sign(items=(msgspec.structs.replace(sealed.item, **change),)), director)


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b'{"threshold":2,"keys":{}}', b'{"threshold":0,"keys":{}}', b'{"threshold":"x","keys":1}']
)
def test_director_keys_of_another_shape_are_refused(content: bytes) -> None:
    with pytest.raises(errors.MalformedAssignment):
        wire.parse_director_keys(content)
