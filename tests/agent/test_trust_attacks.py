"""Attacks on metadata, assignment and blob, against the real verifier: a stable code, and nothing of it on the device.

The numbers are the rows of the attack table in ``docs`` (source: Uptane's threats, OWASP ISVS 3.4, NIST SP 800-193).
"""

from __future__ import annotations

import base64
import copy
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from securesystemslib.dsse import Envelope

from edge_agent.delivery import Limits
from fleet_protocol import assignment, envelope, topics
from fleet_protocol.identifiers import digest_of
from fleet_protocol.manifest import RuntimeRequirement
from fleet_protocol.states import DeploymentState
from tests.agent.tuf_world import DAY, DEVICE, FLEET, NOW, Clock, Device, World, keys
from tests.protocol import samples

S = DeploymentState
ASSIGNMENT = topics.ASSIGNMENT.of(DEVICE)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def device(world: World, tmp_path: Path) -> Device:
    """A device that serves 1.0.0, with 2.0.0 released."""
    world.assign(world.release("1.0.0", floor=1))
    device = Device(world, tmp_path / "state", limits=Limits(stall_s=5)).start().run(12)
    assert device.serves == "1.0.0"
    return device


@pytest.fixture
def second(world: World, device: Device) -> samples.Sealed:
    """2.0.0, released, and its metadata accepted by the device."""
    released = world.release("2.0.0")
    device.run(1)
    assert device.refusal is None
    return released


def refused(device: Device, code: str) -> None:
    """``code`` is why; nothing was written, nothing changed, nothing was asked for."""
    before, blobs, reports = device.remembered(), device.blobs(), len(device.reports())
    device.run(3)
    assert device.refusal == code
    assert (device.serves, device.remembered(), device.blobs()) == ("1.0.0", before, blobs)
    assert len(device.reports()) == reports


def rejected(device: Device, code: str, state: DeploymentState = S.REJECTED) -> None:
    """The assignment was the director's, one of its items was not to be believed: a report says so, 1.0.0 serves on."""
    blobs = device.blobs()
    device.run(10)
    assert (device.last.state, device.last.code) == (state, code)
    assert (device.serves, device.blobs()) == ("1.0.0", blobs)


# --- the network and the broker ---------------------------------------------------------------------------------------
@pytest.mark.attack("1")
def test_1_an_older_assignment_after_a_newer_is_a_replay(world: World, device: Device) -> None:
    old = world.broker.retained[ASSIGNMENT]
    world.assign(world.release("2.0.0"))
    device.run(12)
    assert device.serves == "2.0.0"
    world.broker.retain(ASSIGNMENT, old)
    before = device.remembered()
    device.run(3)
    assert (device.refusal, device.serves, device.remembered()) == ("replayed-assignment", "2.0.0", before)


@pytest.mark.attack("2")
@pytest.mark.parametrize("at", [20, 100, 300])
def test_2_a_flipped_bit_in_the_payload_breaks_the_signature(
    world: World, device: Device, second: samples.Sealed, at: int
) -> None:
    outer = json.loads(world.envelope(second.item))
    payload = bytearray(base64.b64decode(outer["payload"]))
    payload[at] ^= 1
    world.broker.retain(ASSIGNMENT, json.dumps(outer | {"payload": base64.b64encode(payload).decode()}).encode())
    refused(device, "bad-signature")


@pytest.mark.attack("2")
def test_2_a_flipped_bit_in_the_metadata_is_refused(world: World, device: Device) -> None:
    name = f"{world.repository.models.signed.version}.models.json"
    world.repository.files[name] = world.repository.files[name].replace(b'"floor":1', b'"floor":0')
    world.publish_metadata()
    refused(device, "untrusted-metadata")


@pytest.mark.attack("3")
def test_3_an_assignment_after_its_time_is_stale(world: World, device: Device) -> None:
    world.repository.timestamp.signed.expires = world.repository.snapshot.signed.expires = world.repository.at(30 * DAY)
    world.release("2.0.0")
    device.run(1)
    device.clock.pass_s(8 * DAY)
    world.broker.retain(ASSIGNMENT, world.envelope(iat=NOW, exp=NOW + 7 * DAY))
    refused(device, "stale-assignment")


@pytest.mark.attack("5")
@pytest.mark.parametrize("changes", [{"device": "cam-8"}, {"fleet": "other"}])
def test_5_an_assignment_for_somebody_else_is_refused(
    world: World, device: Device, second: samples.Sealed, changes: dict[str, str]
) -> None:
    world.broker.retain(ASSIGNMENT, world.envelope(second.item, **changes))
    refused(device, "not-for-this-device")


@pytest.mark.attack("6")
def test_6_unsigned_and_wrongly_signed_assignments_are_refused(
    world: World, device: Device, second: samples.Sealed
) -> None:
    item = second.item
    (stranger,) = keys(1)
    unsigned, strange = world.envelope(item, signers=[]), world.envelope(item, signers=[stranger])
    claimed = json.loads(strange)
    claimed["signatures"][0]["keyid"] = world.director[0].public_key.keyid
    for signed in (unsigned, strange, json.dumps(claimed).encode()):
        world.broker.retain(ASSIGNMENT, signed)
        refused(device, "bad-signature")


@pytest.mark.attack("7")
def test_7_a_signed_statement_of_another_kind_is_not_an_assignment(
    world: World, device: Device, second: samples.Sealed
) -> None:
    payload = base64.b64decode(json.loads(world.envelope(second.item))["payload"])
    other = Envelope(payload, "application/vnd.edgefleet.ack.v1+json", {})
    other.sign(world.director[0])
    world.broker.retain(ASSIGNMENT, json.dumps(other.to_dict()).encode())
    refused(device, "wrong-payload-type")


@pytest.mark.attack("8")
def test_8_frozen_metadata_expires(world: World, device: Device) -> None:
    bundle = world.broker.retained[topics.METADATA]
    device.clock.pass_s(2 * DAY)
    world.broker.retain(topics.METADATA, bundle)
    refused(device, "expired-metadata")


@pytest.mark.attack("8")
@pytest.mark.parametrize("role", ["root", "snapshot", "targets"])
def test_8_any_expired_role_is_enough(world: World, device: Device, role: str) -> None:
    repository = world.repository
    getattr(repository, role).signed.expires = repository.at(-DAY)
    if role == "root":
        repository.root.signed.version += 1
        repository.publish_root()
    repository.publish(*(["targets"] if role == "targets" else []))
    world.publish_metadata()
    refused(device, "expired-metadata")


@pytest.mark.attack("9")
def test_9_metadata_older_than_seen_is_refused_whatever_tuf_remembers(world: World, device: Device) -> None:
    """TUF's own cache is no part of it: every refresh starts from the pinned root."""
    old = world.broker.retained[topics.METADATA]
    world.release("2.0.0")
    device.run(2)
    world.broker.retain(topics.METADATA, old)
    refused(device, "rolled-back-metadata")


@pytest.mark.attack("10")
def test_10_a_root_that_was_seen_cannot_be_withheld(world: World, device: Device) -> None:
    old = dict(world.repository.files)
    world.repository.root.signed.version += 1
    world.repository.publish_root()
    world.publish_metadata()
    device.run(2)
    assert device.runner.standing.root_version == 2
    world.repository.files = old
    world.repository.publish()
    world.publish_metadata()
    refused(device, "rolled-back-metadata")


@pytest.mark.attack("11")
@pytest.mark.parametrize(
    ("lost", "code"),
    [("timestamp", "untrusted-metadata"), ("snapshot", "untrusted-metadata"), ("targets", "untrusted-metadata")],
)
def test_11_a_bundle_that_lacks_a_file_is_refused_whole(world: World, device: Device, lost: str, code: str) -> None:
    world.repository.files = {name: content for name, content in world.repository.files.items() if lost not in name}
    world.publish_metadata()
    refused(device, code)


@pytest.mark.attack("11")
def test_11_a_bundle_without_the_directors_keys_is_refused(world: World, device: Device) -> None:
    world.repository.files = {name: text for name, text in world.repository.files.items() if "director" not in name}
    world.publish_metadata()
    refused(device, "untrusted-metadata")


@pytest.mark.attack("11")
def test_11_directors_keys_that_the_release_keys_did_not_sign_are_refused(world: World, device: Device) -> None:
    name = next(name for name in world.repository.files if "director" in name)
    (thief,) = keys(1)
    world.repository.files[name] = assignment.encode_director_keys([thief.public_key], 1)
    world.publish_metadata()
    refused(device, "untrusted-metadata")


@pytest.mark.attack("11")
def test_11_old_targets_under_a_new_snapshot_do_not_mix(world: World, device: Device) -> None:
    old = world.repository.files["1.models.json"]
    world.repository.publish("models")
    world.repository.files[f"{world.repository.models.signed.version}.models.json"] = old
    world.publish_metadata()
    refused(device, "untrusted-metadata")


HOSTILE: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("100 KB", lambda _: b" " * 100_000, "input-too-large"),
    ("nested", lambda _: b"[" * 60_000, "malformed-json"),
    ("NaN", lambda _: b'{"a":NaN}', "malformed-json"),
    ("duplicate keys", lambda signed: b'{"payloadType":"x",' + signed[1:], "malformed-json"),
    ("not JSON", lambda _: b"\xff\x00", "malformed-json"),
    ("no envelope", lambda _: b"{}", "malformed-assignment"),
    ("a list", lambda _: b"[]", "malformed-assignment"),
]


@pytest.mark.attack("12")
@pytest.mark.parametrize(("hostile", "code"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_12_hostile_assignments_are_refused_before_anything_of_them_is_used(
    world: World, device: Device, second: samples.Sealed, hostile: Callable[[bytes], bytes], code: str
) -> None:
    world.broker.retain(ASSIGNMENT, hostile(world.envelope(second.item)))
    refused(device, code)


@pytest.mark.attack("12")
@pytest.mark.parametrize(
    ("bundle", "code"),
    [
        (zlib.compress(b"0" * 50_000_000), "input-too-large"),
        (b"\0" * 2_000_000, "input-too-large"),
        (b"garbage", "malformed-message"),
        (zlib.compress(b"[]"), "malformed-message"),
        (zlib.compress(b'{"timestamp.json":"[]"}'), "untrusted-metadata"),
        (zlib.compress(b'{"timestamp.json":"{"}'), "untrusted-metadata"),
    ],
    ids=["bomb", "too long", "garbage", "list", "no metadata", "cut"],
)
def test_12_hostile_bundles_are_refused(world: World, device: Device, bundle: bytes, code: str) -> None:
    world.broker.retain(topics.METADATA, bundle)
    refused(device, code)


@pytest.mark.attack("12")
def test_12_the_good_bundle_of_before_stays_in_use_behind_a_hostile_one(world: World, device: Device) -> None:
    second = world.release("2.0.0")
    device.run(1)
    world.broker.retain(topics.METADATA, b"garbage")
    device.run(1)
    world.assign(second)
    device.run(12)
    assert device.serves == "2.0.0"


@pytest.mark.attack("12")
def test_12_a_duplicated_slot_is_refused(world: World, device: Device, second: samples.Sealed) -> None:
    item = second.item
    world.broker.retain(ASSIGNMENT, world.envelope(item, item))
    refused(device, "malformed-assignment")


def flipped(blob: bytes) -> bytes:
    return blob[:30_000] + bytes([blob[30_000] ^ 1]) + blob[30_001:]


def cut_at_a_border(blob: bytes) -> bytes:
    return blob[: envelope.HEADER_BYTES + 3 * envelope.MESSAGE_BYTES]


def reordered(blob: bytes) -> bytes:
    head, size = envelope.HEADER_BYTES, envelope.MESSAGE_BYTES
    return (
        blob[: head + size]
        + blob[head + 2 * size : head + 3 * size]
        + blob[head + size : head + 2 * size]
        + blob[head + 3 * size :]
    )


def longer(blob: bytes) -> bytes:
    return blob + bytes(1_000_000)


@pytest.mark.attack("13")
@pytest.mark.parametrize("attack", [flipped, cut_at_a_border, reordered])
def test_13_tampered_chunks_are_never_written_and_the_server_is_told_which(
    world: World, device: Device, attack: Callable[[bytes], bytes]
) -> None:
    second = world.release("2.0.0")
    world.assign(second)
    world.publish_chunks(second, attack(second.blob))
    device.run(12)
    assert (device.serves, device.last.state) == ("1.0.0", S.DOWNLOADING)
    missing = device.missing()[-1]
    assert missing.blob_sha256 == second.blob_digest
    assert any(missing.bitmap)
    world.publish_chunks(second)  # the server publishes the right ones again
    device.run(12)
    assert device.serves == "2.0.0"


@pytest.mark.attack("13")
def test_13_a_broker_that_only_has_tampered_chunks_cannot_keep_a_device_busy(world: World, device: Device) -> None:
    second = world.release("2.0.0")
    world.assign(second)
    tampered = second.blob[: envelope.HEADER_BYTES] + bytes(len(second.blob) - envelope.HEADER_BYTES)
    for _ in range(20):
        world.publish_chunks(second, tampered)
        device.run(1)
    assert (device.last.state, device.last.code, device.serves) == (S.FAILED, "chunk-tampered", "1.0.0")
    assert len(device.blobs()) == 1


@pytest.mark.attack("13")
def test_13_a_blob_swapped_for_another_releases_is_refused(world: World, device: Device) -> None:
    second, third = world.release("2.0.0"), world.release("3.0.0")
    world.assign(second)
    world.publish_chunks(second, third.blob)
    device.run(3)
    assert device.missing()[-1].blob_sha256 == second.blob_digest
    assert device.serves == "1.0.0"


# --- stolen online keys -----------------------------------------------------------------------------------------------
@pytest.mark.attack("16")
def test_16_a_target_that_was_never_released_is_refused(world: World, device: Device) -> None:
    item = msgspec.structs.replace(world.release("2.0.0").item, target="models/orientation/9.9.9-ort-int8.json")
    world.broker.retain(ASSIGNMENT, world.envelope(item))
    rejected(device, "not-released")


@pytest.mark.attack("16")
def test_16_withdrawing_a_release_revokes_it(world: World, device: Device) -> None:
    second = world.release("2.0.0")
    del world.repository.models.signed.targets[second.manifest.target_path]
    world.repository.publish("models")
    world.publish_metadata()
    world.assign(second)
    rejected(device, "not-released")


@pytest.mark.attack("17")
def test_17_another_manifest_under_a_released_name_is_refused(world: World, device: Device) -> None:
    second = world.release("2.0.0")
    evil, payload = samples.sample(200_000, version="2.0.0", counter=99)
    forged = samples.Sealed(evil, payload, world.hpke)
    world.broker.retain(topics.manifest_topic(forged.digest), forged.content)
    world.publish_chunks(forged)
    assert forged.item.target == second.item.target
    world.broker.retain(ASSIGNMENT, world.envelope(forged.item))
    rejected(device, "release-mismatch")


@pytest.mark.attack("17")
def test_17_a_released_manifest_under_another_models_name_is_refused(world: World, device: Device) -> None:
    second = world.release("2.0.0")
    name = "models/orientation/9.9.9-ort-int8.json"
    world.repository.add(name, second.content, 1)
    world.repository.publish("models")
    world.publish_metadata()
    world.broker.retain(ASSIGNMENT, world.envelope(msgspec.structs.replace(second.item, target=name)))
    rejected(device, "release-mismatch")


@pytest.mark.attack("17")
def test_17_another_payload_under_a_released_manifest_is_refused(world: World, device: Device) -> None:
    second = world.release("2.0.0")
    key = envelope.generate_key()
    evil = b"".join(envelope.seal([b"evil" * (second.manifest.payload.length // 4)], key, second.digest))
    assert len(evil) == len(second.blob)
    blob = digest_of(evil)
    wrapped = envelope.wrap_key(key, world.hpke.public_key(), FLEET, DEVICE, second.digest, blob)
    item = samples.item_of(second.manifest, second.digest, blob, len(evil), wrapped)
    for index in range(envelope.message_count(len(evil))):
        start, end = envelope.message_span(index, len(evil))
        world.broker.retain(topics.chunk_topic(blob, index), evil[start:end])
    world.broker.retain(ASSIGNMENT, world.envelope(item))
    rejected(device, "payload-mismatch")


@pytest.mark.attack("17")
def test_17_a_blob_of_another_length_is_refused_before_it_is_downloaded(world: World, device: Device) -> None:
    item = msgspec.structs.replace(world.release("2.0.0").item, blob_bytes=2_000_000_000)
    world.broker.retain(ASSIGNMENT, world.envelope(item))
    rejected(device, "payload-mismatch")


@pytest.mark.attack("18")
def test_18_a_model_for_another_slot_is_refused(world: World, device: Device) -> None:
    made = world.release("2.0.0", slot="safety", model="safety")
    world.broker.retain(ASSIGNMENT, world.envelope(msgspec.structs.replace(made.item, slot="textline")))
    rejected(device, "wrong-slot")


@pytest.mark.attack("18")
def test_18_a_model_for_another_board_is_refused(world: World, device: Device) -> None:
    golden = msgspec.structs.replace(samples.manifest().golden, latency_budget_ms={"raspberry-pi-5": 100.0})
    world.assign(world.release("2.0.0", boards=("raspberry-pi-5",), golden=golden))
    rejected(device, "wrong-board")


@pytest.mark.attack("18")
@pytest.mark.parametrize(("name", "version"), [("openvino", "1.17"), ("onnxruntime", "1.99")])
def test_18_a_model_for_another_runtime_is_refused(world: World, device: Device, name: str, version: str) -> None:
    runtime = RuntimeRequirement(name=name, min_version=version, architectures=("x86_64",), precision="int8")  # type: ignore[arg-type]
    world.assign(world.release("2.0.0", runtime=runtime))
    rejected(device, "wrong-runtime")


@pytest.mark.attack("18")
def test_18_a_release_below_its_security_floor_is_refused(world: World, device: Device) -> None:
    world.assign(world.release("2.0.0", floor=3))
    rejected(device, "below-security-floor")


@pytest.mark.attack("18")
def test_18_a_floor_that_was_raised_once_holds_for_older_releases(world: World, device: Device) -> None:
    second = world.release("2.0.0", floor=1)
    world.assign(world.release("3.0.0", floor=3))
    device.run(12)
    assert device.serves == "3.0.0"
    world.assign(second)
    device.run(6)
    assert (device.last.code, device.serves) == ("below-security-floor", "3.0.0")


@pytest.mark.attack("19")
@pytest.mark.parametrize("clock", [float(NOW), 0.0])
def test_19_a_signed_time_in_the_far_future_is_refused_and_the_device_stays_updatable(
    world: World, tmp_path: Path, clock: float
) -> None:
    first = world.release("1.0.0")
    device = Device(world, tmp_path / "state", clock=Clock(unix=clock)).start()
    world.broker.retain(ASSIGNMENT, world.envelope(first.item, iat=NOW + 3650 * DAY, exp=NOW + 3660 * DAY))
    device.run(2)
    assert (device.refusal, device.journal.remembered.time_s) == ("stale-assignment", 0.0)
    world.assign(first)
    device.run(12)
    assert device.serves == "1.0.0"


@pytest.mark.attack("20")
def test_20_the_directors_old_key_is_worth_nothing_after_a_rotation(world: World, device: Device) -> None:
    old, world.director = world.director, keys(1)
    world.put_director_keys()
    world.repository.publish("targets")
    second = world.release("2.0.0")
    world.broker.retain(ASSIGNMENT, world.envelope(second.item, signers=old))
    refused_after = device.run(2).refusal
    assert (refused_after, device.serves) == ("bad-signature", "1.0.0")
    world.assign(second)
    device.run(12)
    assert device.serves == "2.0.0"


@pytest.mark.attack("20")
def test_20_one_of_two_director_keys_is_not_enough(world: World, device: Device) -> None:
    world.director += keys(1)
    world.put_director_keys(threshold=2)
    world.repository.publish("targets")
    second = world.release("2.0.0")
    device.run(1)
    world.broker.retain(ASSIGNMENT, world.envelope(second.item, signers=world.director[:1]))
    refused(device, "bad-signature")


@pytest.mark.attack("21")
def test_21_all_online_keys_together_cannot_add_a_model(world: World, device: Device) -> None:
    world.repository.signers["models"] = world.director * 2
    second = world.release("2.0.0")
    world.assign(second)
    rejected(device, "not-released")
    assert device.refusal == "untrusted-metadata"


@pytest.mark.attack("22")
def test_22_one_of_the_two_release_keys_is_not_enough(world: World, device: Device) -> None:
    world.repository.signers["models"] = world.repository.signers["models"][:1]
    world.assign(world.release("2.0.0"))
    rejected(device, "not-released")
    assert device.refusal == "untrusted-metadata"


@pytest.mark.attack("23")
def test_23_one_of_three_offline_keys_cannot_replace_the_director(world: World, device: Device) -> None:
    world.director = keys(1)
    world.put_director_keys()
    world.repository.publish("targets", signed_by={"targets": world.repository.signers["targets"][:1]})
    world.publish_metadata()
    refused(device, "untrusted-metadata")


@pytest.mark.attack("24")
def test_24_a_fast_forwarded_timestamp_is_recovered_by_rotating_its_key(world: World, device: Device) -> None:
    repository = world.repository
    repository.timestamp.signed.version = 2**31
    repository.publish()
    world.publish_metadata()
    device.run(1)
    assert device.runner.standing.timestamp_version > 2**31
    (fresh,) = keys(1)
    root = repository.root.signed
    root.revoke_key(repository.signers["timestamp"][0].public_key.keyid, "timestamp")
    root.add_key(fresh.public_key, "timestamp")
    root.version += 1
    repository.signers["timestamp"] = [fresh]
    repository.publish_root()
    repository.timestamp.signed.version = 3
    second = world.release("2.0.0")
    world.assign(second)
    device.run(12)
    assert device.serves == "2.0.0"


# --- a stolen device --------------------------------------------------------------------------------------------------
@pytest.mark.attack("25")
def test_25_a_key_wrapped_for_another_device_does_not_open(world: World, device: Device) -> None:
    second, other = world.release("2.0.0"), X25519PrivateKey.generate()
    wrapped = envelope.wrap_key(second.key, other.public_key(), FLEET, DEVICE, second.digest, second.blob_digest)
    item = samples.item_of(second.manifest, second.digest, second.blob_digest, len(second.blob), wrapped)
    world.broker.retain(ASSIGNMENT, world.envelope(item))
    rejected(device, "key-not-for-this-device")


@pytest.mark.attack("25")
def test_25_a_key_moved_to_another_blob_does_not_open(world: World, device: Device) -> None:
    second, third = world.release("2.0.0"), world.release("3.0.0")
    item = msgspec.structs.replace(third.item, wrapped_key=second.item.wrapped_key)
    world.broker.retain(ASSIGNMENT, world.envelope(item))
    rejected(device, "key-not-for-this-device")


@pytest.mark.attack("26b")
def test_26b_online_keys_cannot_bring_an_old_list_of_releases_back(world: World, device: Device) -> None:
    """Every role's version is remembered, not only the timestamp's."""
    repository, second = world.repository, world.release("2.0.0")
    withdrawn = copy.deepcopy(repository.snapshot.signed.meta)
    del repository.models.signed.targets[second.manifest.target_path]
    repository.publish("models")
    world.publish_metadata()
    device.run(1)
    repository.snapshot.signed.meta = withdrawn
    repository.publish()
    world.publish_metadata()
    refused(device, "rolled-back-metadata")


@pytest.mark.attack("29")
@pytest.mark.parametrize("target", ["models/../../../etc/x.json", "../director.json", "keys/director.json"])
def test_29_a_target_that_leaves_its_folder_is_not_released(world: World, device: Device, target: str) -> None:
    second = world.release("2.0.0")
    if target.startswith("models/"):
        world.repository.add(target, second.content, 1)
        world.repository.publish("models")
        world.publish_metadata()
    world.broker.retain(ASSIGNMENT, world.envelope(msgspec.structs.replace(second.item, target=target)))
    rejected(device, "release-mismatch" if target.startswith("keys/") else "not-released")


def test_a_manifest_that_is_not_the_one_asked_for_is_ignored(world: World, device: Device) -> None:
    second, third = world.release("2.0.0"), world.release("3.0.0")
    world.broker.retained[topics.manifest_topic(second.digest)] = third.content
    world.assign(second)
    device.run(3)
    assert (device.last.state, device.serves) == (S.OFFERED, "1.0.0")
    world.broker.retain(topics.manifest_topic(second.digest), second.content)
    device.run(1)
    assert device.last.state is S.OFFERED, "it unsubscribed; the next connection asks again"
    device.link.cut()
    device.link.connect()
    device.run(12)
    assert device.serves == "2.0.0"
