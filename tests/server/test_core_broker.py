"""The real broker: who may connect, read and write; what it keeps; how it comes back."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fleet_protocol import envelope, messages, metadata_bundle, topics
from fleet_protocol.errors import BrokerUnreachable, DeviceRevoked, NotFound
from fleet_protocol.identifiers import DeviceId, Digest, SlotName, digest_of
from fleet_protocol.topics import HEALTH, METADATA, PRESENCE
from fleet_server.adapters.broker import Mosquitto, find_mosquitto
from fleet_server.adapters.broker_config import access_list, configuration
from fleet_server.adapters.ca import found_authority
from fleet_server.adapters.mqtt import Identity, take_over
from fleet_server.ceremony import Founding
from fleet_server.config import ServerConfig, StateLayout
from fleet_server.db.models import Device, Variant
from tests.server.conftest import Live, free_port
from tests.server.kit import DeviceKit, manifest_of, release
from tests.server.wire import eventually


def assign(live: Live, device: DeviceKit, manifest: str | None) -> int:
    """Wish and sign, as a rollout does."""
    now, digest = live.fleet.clock(), None if manifest is None else Digest(manifest)
    with live.fleet.sessions.begin() as session:
        live.fleet.assignments.set_desired(session, device.id, SlotName("textline"), digest, None, now)
        return live.fleet.assignments.issue(session, device.id, now)


def blob_of(live: Live, manifest: str) -> tuple[Digest, int]:
    with live.fleet.readers() as session:
        variant = session.get_one(Variant, manifest)
        return Digest(variant.blob_sha256), variant.blob_bytes


def is_online(live: Live, device: DeviceKit) -> bool:
    with live.fleet.readers() as session:
        return session.get_one(Device, device.id).online


def presence(*, online: bool = True) -> bytes:
    return messages.encode(messages.Presence(online=online, boot_id="b", agent_version="0.1"))


# --- mutual TLS and rights ------------------------------------------------------------------------------------------
def handshake(live: Live, identity: tuple[Path, Path] | None) -> bool:
    """Whether the broker lets a TLS connection live with this identity (TLS 1.3 refuses after the handshake)."""
    context = ssl.create_default_context(cafile=str(live.fleet.layout.ca_certificate))
    if identity is not None:
        context.load_cert_chain(*identity)
    address = ("127.0.0.1", live.fleet.config.broker_port)
    try:
        with socket.create_connection(address, 5) as raw, context.wrap_socket(raw, server_hostname="localhost") as tls:
            tls.settimeout(5)
            # An MQTT 5 CONNECT with an empty client id; an accepted peer answers with a CONNACK.
            tls.sendall(b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00")
            return tls.recv(1) == b"\x20"
    except OSError:
        return False


def test_only_certificates_of_the_fleets_ca_may_connect(live: Live, tmp_path: Path) -> None:
    member = live.enrol("cam-1")
    assert handshake(live, member.write_identity(tmp_path / "own"))
    assert not handshake(live, None)
    stranger = DeviceKit(DeviceId("cam-1"))
    foreign = found_authority("evil", live.fleet.clock()).issue_device(
        stranger.tls.public_key(), stranger.id, live.fleet.clock()
    )
    assert member.reply is not None
    stranger.reply = msgspec.structs.replace(member.reply, certificate=foreign.public_bytes(Encoding.PEM).decode())
    assert not handshake(live, stranger.write_identity(tmp_path / "foreign"))


@pytest.mark.attack("15")
def test_a_device_reads_and_writes_its_own_subtree_and_nothing_of_another(live: Live) -> None:
    a, b = live.enrol("cam-a"), live.enrol("cam-b")
    wire_a, wire_b = live.connect(a), live.connect(b)
    for pattern in (
        f"{topics.PREFIX}/d/cam-b/down/#",
        f"{topics.PREFIX}/d/+/down/#",
        f"{topics.PREFIX}/d/#",
        "#",
        "$SYS/#",
    ):
        wire_a.subscribe(pattern)
    wire_b.subscribe(topics.ASSIGNMENT.of(b.id))
    assert wire_a.publish(HEALTH.of(b.id), b"forged") == "Not authorized"
    assert wire_a.publish(topics.ASSIGNMENT.of(b.id), b"forged") == "Not authorized"
    assert wire_a.publish(topics.ASSIGNMENT.of(a.id), b"forged") == "Not authorized"
    assert wire_a.publish(METADATA, b"forged", retain=True) == "Not authorized"
    assert wire_a.publish(topics.chunk_topic(digest_of(b"x"), 0), b"forged", retain=True) == "Not authorized"
    assert wire_a.publish(HEALTH.of(a.id), b"own") == "Success"
    live.background.link.publish(topics.ASSIGNMENT.of(b.id), b"for b", retain=True)
    eventually(lambda: wire_b.payloads(topics.ASSIGNMENT.of(b.id)), "b got its assignment")
    assert wire_b.payloads(topics.ASSIGNMENT.of(b.id)) == [b"for b"]
    live.background.link.publish(topics.ASSIGNMENT.of(a.id), b"for a", retain=True)
    eventually(lambda: wire_a.payloads(topics.ASSIGNMENT.of(a.id)), "a got its own")
    assert not [topic for topic, _ in wire_a.received if "/cam-b/" in topic or topic.startswith("$SYS")]


@pytest.mark.attack("15")
def test_a_device_cannot_take_over_anothers_session_by_its_client_id(live: Live) -> None:
    a, b = live.enrol("cam-a"), live.enrol("cam-b")
    wire_a = live.connect(a)
    wire_b = live.connect(b, client_id="cam-a")
    assert wire_b.publish(HEALTH.of(b.id), b"still b") == "Success"
    assert wire_a.publish(HEALTH.of(a.id), b"still here") == "Success"
    assert wire_a.ended == []


# --- what is kept for devices ---------------------------------------------------------------------------------------
def test_metadata_is_retained_and_follows_a_release(live: Live, tmp_path: Path) -> None:
    wire = live.connect(live.enrol("cam-1"))
    wire.subscribe(METADATA)
    first = eventually(lambda: wire.payloads(METADATA), "the bundle came")[0]
    assert "1.models.json" in metadata_bundle.unpack(first)
    release(live.fleet, live.founding, tmp_path)
    eventually(
        lambda: any("2.models.json" in metadata_bundle.unpack(each) for each in wire.payloads(METADATA)),
        "the new bundle came",
    )


def test_an_assignment_arrives_after_its_artifact_is_there_and_the_chunks_make_the_blob(
    live: Live, tmp_path: Path
) -> None:
    device = live.enrol("cam-1")
    wire = live.connect(device)
    manifest = manifest_of(live.fleet, release(live.fleet, live.founding, tmp_path))
    blob, size = blob_of(live, manifest)
    wire.subscribe(topics.ASSIGNMENT.of(device.id))
    assign(live, device, manifest)
    eventually(lambda: wire.payloads(topics.ASSIGNMENT.of(device.id)), "the assignment came")
    wire.subscribe(topics.manifest_topic(Digest(manifest)))
    chunks = [topics.chunk_topic(blob, index) for index in range(envelope.message_count(size))]
    for topic in chunks:
        wire.subscribe(topic)
    eventually(lambda: all(wire.payloads(topic) for topic in chunks), "every chunk came")
    assert digest_of(b"".join(wire.payloads(topic)[0] for topic in chunks)) == blob
    eventually(lambda: wire.payloads(topics.manifest_topic(Digest(manifest))), "the manifest came")
    assert digest_of(wire.payloads(topics.manifest_topic(Digest(manifest)))[0]) == manifest


def test_missing_chunks_are_published_again_and_only_those(live: Live, tmp_path: Path) -> None:
    device = live.enrol("cam-1")
    wire = live.connect(device)
    made = release(live.fleet, live.founding, tmp_path)
    manifest = manifest_of(live.fleet, made)
    blob, size = blob_of(live, manifest)
    wire.subscribe(topics.ASSIGNMENT.of(device.id))
    assign(live, device, manifest)
    eventually(lambda: wire.payloads(topics.ASSIGNMENT.of(device.id)), "the assignment came")
    last = envelope.message_count(size) - 1
    assert last >= 1
    lost, kept = topics.chunk_topic(blob, last), topics.chunk_topic(blob, 0)
    live.background.link.publish(lost, b"", retain=True)
    live.background.link.publish(kept, b"", retain=True)
    bitmap = (1 << last).to_bytes(last // 8 + 1, "little")
    report = messages.MissingChunks(blob_sha256=blob, blob_bytes=size, bitmap=bitmap)
    wire.publish(topics.MISSING.of(device.id), messages.encode(report))
    wire.subscribe(lost)
    wire.subscribe(kept)
    eventually(lambda: any(wire.payloads(lost)), "the lost chunk came again")
    assert not any(wire.payloads(kept))


def test_a_blob_that_no_assignment_names_any_more_is_cleared(live: Live, tmp_path: Path) -> None:
    device = live.enrol("cam-1")
    wire = live.connect(device)
    manifest = manifest_of(live.fleet, release(live.fleet, live.founding, tmp_path))
    blob, _ = blob_of(live, manifest)
    assign(live, device, manifest)
    chunk = topics.chunk_topic(blob, 0)
    wire.subscribe(chunk)
    eventually(lambda: any(wire.payloads(chunk)), "the chunk was published")
    wire.unsubscribe(chunk)
    assign(live, device, None)
    retained = live.fleet.layout.broker / "retained.json"
    eventually(lambda: retained.read_bytes() == b"{}", "the server cleared the topics")
    late = live.connect(live.enrol("cam-2"))
    late.subscribe(chunk)
    late.subscribe(METADATA)
    eventually(lambda: late.payloads(METADATA), "what is retained arrived")
    assert late.payloads(chunk) == []


# --- restart --------------------------------------------------------------------------------------------------------
def test_a_killed_broker_comes_back_with_everything_that_devices_need(live: Live, tmp_path: Path) -> None:
    device = live.enrol("cam-1")
    manifest = manifest_of(live.fleet, release(live.fleet, live.founding, tmp_path))
    blob, _ = blob_of(live, manifest)
    assign(live, device, manifest)
    first = live.connect(device)
    first.subscribe(topics.ASSIGNMENT.of(device.id))
    eventually(lambda: first.payloads(topics.ASSIGNMENT.of(device.id)), "the assignment came")
    first.publish(PRESENCE.of(device.id), presence(), retain=True)
    eventually(lambda: is_online(live, device), "the device is online")
    assert live.background.broker.pid is not None
    os.kill(live.background.broker.pid, signal.SIGKILL)
    eventually(lambda: not is_online(live, device), "nobody counts as online")
    eventually(lambda: live.background.broker.generation == 2 and live.background.broker.is_listening(), "it is back")
    second = live.connect(device)
    for topic in (topics.ASSIGNMENT.of(device.id), METADATA, topics.chunk_topic(blob, 0)):
        second.subscribe(topic)
        eventually(lambda topic=topic: second.payloads(topic), f"{topic} was published again")  # type: ignore[misc]


def test_reports_that_arrive_are_stored_and_the_last_will_is_believed(live: Live) -> None:
    device = live.enrol("cam-1")
    wire = live.connect(device)
    wire.publish(PRESENCE.of(device.id), presence(), retain=True)
    eventually(lambda: is_online(live, device), "the device is online")
    wire._client._sock_close()  # the connection breaks without a goodbye
    eventually(lambda: not is_online(live, device), "the last will was believed")


def test_messages_that_are_no_messages_do_not_stop_the_intake(live: Live) -> None:
    device = live.enrol("cam-1")
    wire = live.connect(device)
    for payload in (b"", b"\xff" * 100, b"{", b"x" * 200_000):
        wire.publish(HEALTH.of(device.id), payload)
        wire.publish(HEALTH.of(device.id) + topics.JSON_SUFFIX, payload, qos=0)
    wire.publish(f"{topics.PREFIX}/d/{device.id}/up/unknown/thing", b"x")
    wire.publish(PRESENCE.of(device.id), presence(), qos=1, retain=True)
    eventually(lambda: is_online(live, device), "the next good message was taken in")


# --- revocation -----------------------------------------------------------------------------------------------------
@pytest.mark.attack("26")
def test_a_revoked_device_loses_rights_session_and_new_assignments(live: Live, tmp_path: Path) -> None:
    stolen, other = live.enrol("cam-1"), live.enrol("cam-2")
    wire, bystander = live.connect(stolen), live.connect(other)
    manifest = manifest_of(live.fleet, release(live.fleet, live.founding, tmp_path))
    assign(live, stolen, manifest)
    wire.publish(PRESENCE.of(stolen.id), presence(), retain=True)
    eventually(lambda: is_online(live, stolen), "the device is online")
    live.fleet.enrolment.revoke(stolen.id, "tester", "stolen")
    eventually(lambda: wire.ended, "its live session was ended")
    assert not is_online(live, stolen)
    again = live.connect(stolen)
    again.subscribe(topics.ASSIGNMENT.of(stolen.id))
    again.subscribe(METADATA)
    assert again.publish(PRESENCE.of(stolen.id), presence()) == "Not authorized"
    assert again.publish(HEALTH.of(stolen.id), b"x") == "Not authorized"
    bystander.subscribe(METADATA)
    eventually(lambda: bystander.payloads(METADATA), "others are served as before")
    assert again.received == []
    assert not is_online(live, stolen)
    with pytest.raises(DeviceRevoked):
        assign(live, stolen, manifest)


# --- configuration and supervision ----------------------------------------------------------------------------------
def test_every_limit_that_loses_messages_by_default_is_set(founding: Founding) -> None:
    config = ServerConfig(fleet="acme", hosts=("localhost",), broker_port=8883)
    text = configuration(config, StateLayout(founding.state), "edgefleet")
    settings = dict(line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert (
        settings
        | {
            "require_certificate": "true",
            "allow_anonymous": "false",
            "use_identity_as_username": "true",
            "use_username_as_clientid": "true",
            "max_queued_messages": "100000",
            "max_queued_bytes": "0",
            "max_inflight_messages": "1000",
            "persistence": "true",
        }
        == settings
    )
    assert int(settings["max_packet_size"]) > metadata_bundle.MAX_PACKED_BYTES > envelope.MESSAGE_BYTES
    assert settings["listener"] == "8883 127.0.0.1"


def test_the_access_list_ends_with_those_who_have_no_rights() -> None:
    text = access_list({DeviceId("cam-2"), DeviceId("cam-1")})
    assert text.startswith(topics.access_rules())
    assert text.endswith("\nuser cam-1\ntopic deny #\n\nuser cam-2\ntopic deny #\n")


def test_a_port_that_somebody_else_listens_on_is_not_taken_for_the_brokers(founding: Founding) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = ServerConfig(fleet="acme", hosts=("localhost",), broker_port=taken.getsockname()[1])
        broker = Mosquitto(find_mosquitto(), config, StateLayout(founding.state), [])
        with pytest.raises(BrokerUnreachable, match="Address already in use"):
            broker.start()
        assert broker.pid is None


def test_a_mosquitto_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_MOSQUITTO", str(tmp_path / "none"))
    with pytest.raises(NotFound, match="EDGE_MOSQUITTO"):
        find_mosquitto()


def test_ending_a_session_without_a_broker_is_an_error_and_not_a_silence(live: Live, tmp_path: Path) -> None:
    device = live.enrol("cam-1")
    certificate, key = device.write_identity(tmp_path)
    identity = Identity(live.fleet.layout.ca_certificate, certificate, key)
    with pytest.raises(BrokerUnreachable):
        take_over(("127.0.0.1", free_port()), identity, device.id, 1.0)
