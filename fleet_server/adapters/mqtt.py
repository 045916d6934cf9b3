"""The server's connection to its broker: paho-mqtt, MQTT 5, mutual TLS as ``fleet-server``.

Callbacks run in paho's thread and only move messages into a bounded inbox; where it is full the thread waits, so the broker
holds what the server cannot take. A message is acknowledged by :meth:`MqttLink.acknowledge`, after its batch was committed.
"""

from __future__ import annotations

import logging
import queue
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fleet_protocol import topics
from fleet_protocol.claim import SERVER_NAME
from fleet_protocol.errors import BrokerUnreachable, MalformedIdentifier
from fleet_server.ports import Incoming

log = logging.getLogger(__name__)

INBOX_MESSAGES: Final = 10_000
KEEPALIVE_S: Final = 30
ACKNOWLEDGE_LIMIT_S: Final = 15.0
WINDOW: Final = 64
"""Messages in flight at once: 64 chunks are 2 MB; more makes the broker copy, not faster."""
SESSION_S: Final = 7 * 86_400
"""How long the broker keeps reports for a server that is down."""
_PUT_S: Final = 0.5
_SUFFIXES: Final = ("", topics.JSON_SUFFIX)


@dataclass(frozen=True, slots=True)
class Identity:
    """The server's client certificate and the CA that it believes, as files."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Received:
    """A message and what acknowledges it. ``connection`` numbers the connection it came over."""

    incoming: Incoming
    mid: int
    qos: int
    connection: int


class MqttLink:
    """Control plane and telemetry over one connection: the broker allows one per certificate."""

    def __init__(self, address: tuple[str, int], identity: Identity) -> None:
        self._address = address
        self._identity = identity
        self._inbox: queue.Queue[Received] = queue.Queue(INBOX_MESSAGES)
        self._stopping = threading.Event()
        self._connected = threading.Event()
        self._connection = 0
        self._unreadable = 0
        self._client = self._make_client()

    def start(self) -> None:
        """Connect, and keep connecting, in a thread of its own."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it bare
        properties.SessionExpiryInterval = SESSION_S
        # The session is ours alone (one certificate): what arrived while the server was down is still to come.
        self._client.connect_async(*self._address, KEEPALIVE_S, clean_start=False, properties=properties)
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect; what is not acknowledged comes again at the next start. Safe to call twice."""
        self._stopping.set()
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def is_connected(self) -> bool:
        """Whether the broker accepted this connection and it still stands."""
        return self._connected.is_set()

    @property
    def connection(self) -> int:
        """Number of the newest connection; it grows with every time that the broker was lost and found again."""
        return self._connection

    def wait_connected(self, limit_s: float) -> bool:
        """Block until connected or the limit; whether it is."""
        return self._connected.wait(limit_s)

    @property
    def unreadable(self) -> int:
        """Messages on topics that the registry does not know, since the start."""
        return self._unreadable

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """See ``ports.Broker``."""
        self._await(self._send(topic, payload, qos=qos, retain=retain), time.monotonic() + ACKNOWLEDGE_LIMIT_S)

    def publish_many(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """See ``ports.Broker``."""
        in_flight: deque[paho.MQTTMessageInfo] = deque()
        for topic, payload in messages:
            if len(in_flight) >= WINDOW:
                self._await(in_flight.popleft(), time.monotonic() + ACKNOWLEDGE_LIMIT_S)
            in_flight.append(self._send(topic, payload, qos=1, retain=True))
        deadline = time.monotonic() + ACKNOWLEDGE_LIMIT_S
        for sent in in_flight:
            self._await(sent, deadline)

    def receive(self, limit: int, linger_s: float, wait_s: float) -> list[Received]:
        """At most ``limit`` messages: waits ``wait_s`` for the first and then ``linger_s`` for more. Empty: none came."""
        batch: list[Received] = []
        deadline = time.monotonic() + wait_s
        while len(batch) < limit:
            try:
                batch.append(self._inbox.get(timeout=max(deadline - time.monotonic(), 0.001)))
            except queue.Empty:
                break
            if len(batch) == 1:
                deadline = time.monotonic() + linger_s
            elif time.monotonic() > deadline:
                break
        return batch

    def acknowledge(self, batch: Sequence[Received]) -> None:
        """Tell the broker that these are safe. Messages of an earlier connection are not: the broker sends them again."""
        for each in batch:
            if each.connection == self._connection and each.qos > 0:  # QoS 0 has nothing to acknowledge
                self._client.ack(each.mid, each.qos)

    def _make_client(self) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=SERVER_NAME, protocol=paho.MQTTv5, manual_ack=True)
        context = ssl.create_default_context(cafile=str(self._identity.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._identity.certificate, self._identity.key)
        client.tls_set_context(context)
        client.max_inflight_messages_set(WINDOW)
        client.max_queued_messages_set(4 * WINDOW)
        client.reconnect_delay_set(1, 5)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _send(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> paho.MQTTMessageInfo:
        if not self.is_connected:
            raise BrokerUnreachable("the server is not connected to its broker")
        return self._client.publish(topic, payload, qos, retain)

    def _await(self, sent: paho.MQTTMessageInfo, deadline: float) -> None:
        try:
            sent.wait_for_publish(max(deadline - time.monotonic(), 0.001))
            is_safe = sent.is_published()
        except (ValueError, RuntimeError) as error:
            raise BrokerUnreachable("the broker connection broke while publishing") from error
        if not is_safe:
            raise BrokerUnreachable(f"the broker did not acknowledge within {ACKNOWLEDGE_LIMIT_S:.0f} s")

    def _on_connect(self, client: paho.Client, _: object, __: object, code: Any, ___: object) -> None:
        if code.is_failure:
            log.error("the broker refused the server: %s", code)
            return
        self._connection += 1
        subscriptions = [(topic.filter + suffix, topic.qos) for topic in topics.UP_TOPICS for suffix in _SUFFIXES]
        client.subscribe(subscriptions)
        self._connected.set()

    def _on_disconnect(self, _: object, __: object, ___: object, code: Any, ____: object) -> None:
        self._connected.clear()
        if not self._stopping.is_set():
            log.warning("connection to the broker lost (%s); connecting again", code)

    def _on_message(self, client: paho.Client, _: object, message: paho.MQTTMessage) -> None:
        try:
            device, topic, is_json = topics.parse_device_topic(message.topic)
        except (MalformedIdentifier, UnicodeDecodeError):
            self._unreadable += 1
            if message.qos > 0:
                client.ack(message.mid, message.qos)
            return
        incoming = Incoming(device, topic, bytes(message.payload), is_json)
        received = Received(incoming, message.mid, message.qos, self._connection)
        while not self._stopping.is_set():
            try:
                self._inbox.put(received, timeout=_PUT_S)
            except queue.Full:
                continue
            return


def take_over(address: tuple[str, int], identity: Identity, client_id: str, limit_s: float) -> None:
    """Connect once in a device's name, which ends the device's own session, and leave; raises BrokerUnreachable."""
    context = ssl.create_default_context(cafile=str(identity.ca))
    context.load_cert_chain(identity.certificate, identity.key)
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
    client.tls_set_context(context)
    answers: queue.Queue[Any] = queue.Queue()
    client.on_connect = lambda _client, _user, _flags, code, _properties: answers.put(code)
    try:
        # A clean start also discards the session and everything queued for it.
        client.connect(*address, KEEPALIVE_S, clean_start=True)
        client.loop_start()
        code = answers.get(timeout=limit_s)
    except (OSError, queue.Empty) as error:
        raise BrokerUnreachable("the broker cannot be reached to end a session") from error
    finally:
        client.disconnect()
        client.loop_stop()
    if code.is_failure:
        raise BrokerUnreachable(f"the broker did not let the server end {client_id}'s session: {code}")
