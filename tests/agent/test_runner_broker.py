"""The MQTT adapter against a real Mosquitto with mutual TLS: identity, last will, reconnection, limits, a whole install."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.adapters.mqtt import MAX_PACKET_BYTES, Endpoint, MqttTransport
from edge_agent.inbox import MAX_TOPICS, Inbox, LinkChanged, Message
from fleet_protocol import messages, topics
from fleet_protocol.claim import SERVER_NAME
from fleet_protocol.errors import BrokerUnreachable, MalformedConfig
from fleet_protocol.identifiers import DeviceId
from tests.agent.authority import Authority
from tests.agent.tuf_world import DEVICE, Device, World

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
LIMIT_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealBroker:
    """A Mosquitto of its own: certificates decide who a client is, the contract's rules what it may do."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        assert MOSQUITTO is not None, "the broker is part of this project; apt install mosquitto"
        self.folder, self.authority, self.port = folder, authority, free_port()
        server = authority.issue_server(folder)
        (folder / "ca.pem").write_bytes(authority.pem)
        (folder / "acl").write_text(topics.access_rules())
        (folder / "acl").chmod(0o600)
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\ncafile {folder / 'ca.pem'}\ncertfile {server}.pem\nkeyfile {server}.key\n"
            "require_certificate true\nuse_identity_as_username true\nuse_username_as_clientid true\n"
            f"allow_anonymous false\nacl_file {folder / 'acl'}\nmax_queued_messages 10000\nuser root\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(self._config)], stdout=log, stderr=log)
        eventually(self._listens, "the broker listens")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def endpoint(self, name: str, port: int | None = None, authority: Authority | None = None) -> Endpoint:
        stem = (authority or self.authority).issue_client(self.folder, name)
        ca = self.folder / "ca.pem"
        return Endpoint("127.0.0.1", port or self.port, ca, stem.with_suffix(".pem"), stem.with_suffix(".key"))

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def eventually(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    pause = threading.Event()
    for _ in range(int(limit_s / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError(f"not within {limit_s:g} s: {what}")


class Server:
    """The fleet server's connection: it may publish everything and hears everything."""

    def __init__(self, broker: RealBroker) -> None:
        endpoint = broker.endpoint(SERVER_NAME)
        self.heard: dict[str, bytes] = {}
        context = ssl.create_default_context(cafile=str(endpoint.ca))
        context.load_cert_chain(endpoint.certificate, endpoint.key)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=SERVER_NAME, protocol=paho.MQTTv5)
        self._client.tls_set_context(context)
        self._client.on_message = lambda _client, _data, message: self.heard.update({message.topic: message.payload})
        self._client.on_connect = lambda client, *_: client.subscribe(f"{topics.PREFIX}/d/#", qos=1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def retain(self, topic: str, payload: bytes) -> None:
        eventually(self._client.is_connected, "the server is connected")
        self._client.publish(topic, payload, qos=1, retain=True).wait_for_publish(LIMIT_S)

    def presence(self, device: str = DEVICE) -> messages.Presence | None:
        content = self.heard.get(topics.PRESENCE.of(DeviceId(device)))
        return messages.decode(content, messages.Presence) if content else None

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RealBroker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    running = RealBroker(folder, Authority())
    yield running
    running.stop()


@pytest.fixture
def server(broker: RealBroker) -> Iterator[Server]:
    connected = Server(broker)
    yield connected
    connected.close()


@contextmanager
def connected(endpoint: Endpoint, device: str = DEVICE, inbox: Inbox | None = None) -> Iterator[MqttTransport]:
    transport = MqttTransport(endpoint, DeviceId(device), inbox or Inbox(), boot_id="b1", agent_version="0")
    transport.start()
    try:
        yield transport
    finally:
        transport.stop()


def test_a_device_says_that_it_is_there_and_when_it_goes(broker: RealBroker, server: Server) -> None:
    with connected(broker.endpoint(DEVICE)):
        eventually(lambda: server.presence() and server.presence().online, "online is known")  # type: ignore[union-attr]
    eventually(lambda: not server.presence().online, "offline is known")  # type: ignore[union-attr]
    assert server.presence().boot_id == "b1"  # type: ignore[union-attr]


def test_a_device_that_vanishes_is_reported_by_its_last_will(broker: RealBroker, server: Server) -> None:
    with connected(broker.endpoint(DEVICE)) as transport:
        eventually(lambda: server.presence() and server.presence().online, "online is known")  # type: ignore[union-attr]
        link = transport._client.socket()
        assert link is not None
        transport._stopping.set()
        link.shutdown(socket.SHUT_RDWR)
        eventually(lambda: not server.presence().online, "the will was published")  # type: ignore[union-attr]


def test_a_message_is_sent_when_the_broker_has_acknowledged_it(broker: RealBroker, server: Server) -> None:
    with connected(broker.endpoint(DEVICE)) as transport:
        eventually(lambda: transport.is_connected, "connected")
        transport.publish(topics.HEALTH.of(DEVICE), b"hello")
        eventually(lambda: server.heard.get(topics.HEALTH.of(DEVICE)) == b"hello", "the server heard it")


@pytest.mark.attack("15")
def test_a_device_cannot_speak_for_another(broker: RealBroker, server: Server) -> None:
    with connected(broker.endpoint(DEVICE)) as transport:
        eventually(lambda: transport.is_connected, "connected")
        with pytest.raises(BrokerUnreachable, match="is this device revoked"):
            transport.publish(topics.HEALTH.of(DeviceId("cam-8")), b"forged")
        transport.publish(topics.HEALTH.of(DEVICE), b"own")
        eventually(lambda: topics.HEALTH.of(DEVICE) in server.heard, "its own is heard")
    assert topics.HEALTH.of(DeviceId("cam-8")) not in server.heard


def test_without_a_connection_a_report_is_refused_at_once(broker: RealBroker) -> None:
    broker.stop()
    with connected(broker.endpoint(DEVICE)) as transport, pytest.raises(BrokerUnreachable, match="wait on disk"):
        transport.publish(topics.HEALTH.of(DEVICE), b"x")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # paho forgets the socket of a failed handshake
def test_a_broker_with_a_certificate_of_another_ca_is_not_spoken_to(tmp_path: Path, broker: RealBroker) -> None:
    endpoint = broker.endpoint(DEVICE)
    (tmp_path / "other.pem").write_bytes(Authority().pem)
    distrustful = Endpoint("127.0.0.1", broker.port, tmp_path / "other.pem", endpoint.certificate, endpoint.key)
    inbox = Inbox()
    with connected(distrustful, inbox=inbox) as transport:
        eventually(lambda: transport._failures >= 1, "the handshake was refused")
        assert not transport.is_connected
        assert inbox.take(0) is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_a_device_of_another_fleet_gets_no_connection(broker: RealBroker) -> None:
    with connected(broker.endpoint("stranger", authority=Authority()), "stranger") as transport:
        eventually(lambda: transport._failures >= 1, "the broker refused it")
        assert not transport.is_connected


def test_a_certificate_that_cannot_be_read_is_a_configuration_error(tmp_path: Path, broker: RealBroker) -> None:
    endpoint = broker.endpoint(DEVICE)
    endpoint.certificate.write_bytes(b"damaged")
    with pytest.raises(MalformedConfig, match="enrol it again"):
        MqttTransport(endpoint, DEVICE, Inbox(), boot_id="b", agent_version="0")


def test_the_link_comes_back_by_itself_and_the_inbox_is_told(broker: RealBroker) -> None:
    inbox = Inbox()
    with connected(broker.endpoint(DEVICE), inbox=inbox):
        assert inbox.take(LIMIT_S) == LinkChanged(is_up=True)
        broker.stop()
        assert inbox.take(LIMIT_S) == LinkChanged(is_up=False)
        broker.start()
        assert inbox.take(LIMIT_S) == LinkChanged(is_up=True)


def test_stopping_is_quick_with_and_without_a_broker(broker: RealBroker) -> None:
    import time

    with connected(broker.endpoint(DEVICE)) as transport:
        eventually(lambda: transport.is_connected, "connected")
        broker.stop()
        eventually(lambda: not transport.is_connected, "the loss was seen")
        began = time.monotonic()
    assert time.monotonic() - began < 5.0


def test_a_message_larger_than_any_that_a_device_needs_is_never_sent_to_it(broker: RealBroker, server: Server) -> None:
    inbox = Inbox()
    server.retain(topics.METADATA, bytes(MAX_PACKET_BYTES + 1))
    server.retain(topics.ASSIGNMENT.of(DEVICE), b"small")
    with connected(broker.endpoint(DEVICE), inbox=inbox) as transport:
        assert inbox.take(LIMIT_S) == LinkChanged(is_up=True)
        transport.subscribe([topics.METADATA, topics.ASSIGNMENT.of(DEVICE)])
        assert inbox.take(LIMIT_S) == Message(topics.ASSIGNMENT.of(DEVICE), b"small")
        assert inbox.take(0) is None
        assert transport.is_connected


def test_a_whole_install_over_a_real_broker_survives_its_restart(
    tmp_path: Path, broker: RealBroker, server: Server
) -> None:
    """The simulated broker of the other tests is replaced by the real one; the broker dies in mid-download."""
    world = World()
    release = world.release("1.0.0", model_bytes=3_000_000)
    world.assign(release)
    content = dict(world.broker.retained)
    withheld = [topic for topic in content if release.blob_digest in topic][40:]
    for topic, payload in content.items():
        if topic not in withheld:
            server.retain(topic, payload)
    inbox = Inbox()
    with connected(broker.endpoint(DEVICE), inbox=inbox) as transport:
        device = Device(world, tmp_path / "state", inbox=inbox, transport=transport)
        device.runner.boot()

        def progressed() -> bool:
            device.runner.turn(0.05)
            return bool(device.reports()) and device.last.chunks_done >= 20

        eventually(progressed, "a part of the blob is there")
        broker.stop()
        broker.start()  # it is not the store: the server publishes everything again
        for topic, payload in content.items():
            server.retain(topic, payload)

        def served() -> bool:
            device.runner.turn(0.05)
            device.clock.pass_s(0.2)
            return device.serves == "1.0.0"

        eventually(served, "the device serves the model", 60.0)
        device.close()


# --- the inbox --------------------------------------------------------------------------------------------------------
def test_the_newest_message_of_a_topic_replaces_the_older() -> None:
    inbox = Inbox()
    for payload in (b"1", b"2", b"3"):
        inbox.put("a", payload)
    inbox.put("b", b"4")
    assert [inbox.take(0), inbox.take(0), inbox.take(0)] == [Message("a", b"3"), Message("b", b"4"), None]


def test_the_inbox_is_bounded() -> None:
    inbox = Inbox()
    for number in range(MAX_TOPICS + 10):
        inbox.put(str(number), b"x")
    assert sum(1 for _ in iter(lambda: inbox.take(0), None)) == MAX_TOPICS


def test_a_flapping_link_keeps_its_last_state() -> None:
    inbox = Inbox()
    for is_up in (True, False, True, False, True):
        inbox.link(is_up)
    assert [inbox.take(0), inbox.take(0), inbox.take(0)] == [LinkChanged(is_up=False), LinkChanged(is_up=True), None]


def test_closing_the_inbox_wakes_whoever_waits() -> None:
    inbox = Inbox()
    threading.Timer(0.05, inbox.close).start()
    assert inbox.take(LIMIT_S) is None
