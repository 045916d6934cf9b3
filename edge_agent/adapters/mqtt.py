"""MQTT 5 over mutual TLS with paho. Its thread only puts into the inbox; nobody waits inside a callback (SPEC 7.6)."""

from __future__ import annotations

import contextlib
import logging
import random
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.inbox import Inbox
from fleet_protocol import messages, topics
from fleet_protocol.errors import BrokerUnreachable, MalformedConfig
from fleet_protocol.identifiers import DeviceId
from fleet_protocol.metadata_bundle import MAX_PACKED_BYTES

_LOG: Final = logging.getLogger(__name__)
KEEP_ALIVE_S: Final = 30
CONNECT_LIMIT_S: Final = 4.0
PUBLISH_LIMIT_S: Final = 20.0
MAX_PACKET_BYTES: Final = MAX_PACKED_BYTES + 4096
"""The largest message that a device ever needs is a metadata bundle; the broker does not send it more (MQTT 5, 3.1.2.11.4)."""
RECEIVE_MAXIMUM: Final = 64
MAX_QUEUED: Final = 256
"""Unsent packets in memory. Reports wait in the spool on disk, so this is only what is on its way."""
FIRST_RETRY_S: Final = 1
LONGEST_RETRY_S: Final = 60
_REFUSED: Final = 0x80


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the broker is, and with what the device proves itself. ``ca``: the only authority that is trusted."""

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path


class MqttTransport:
    """Implements :class:`edge_agent.ports.Transport`. One connection per device; ``start`` returns at once."""

    def __init__(self, endpoint: Endpoint, device: DeviceId, inbox: Inbox, *, boot_id: str, agent_version: str) -> None:
        """Raises MalformedConfig where certificate, key or CA cannot be used."""
        self._endpoint, self._device, self._inbox = endpoint, device, inbox
        self._online = messages.encode(messages.Presence(online=True, boot_id=boot_id, agent_version=agent_version))
        self._gone = messages.encode(messages.Presence(online=False, boot_id=boot_id, agent_version=agent_version))
        self._stopping = threading.Event()
        self._is_up = threading.Event()  # paho calls itself connected until its own callback of the end returns
        self._hurry = threading.Event()  # set: nobody waits before the next attempt, there is none or it is wanted now
        self._failures = 0
        self._refused: set[int] = set()
        self._client = self._new_client(endpoint)

    def start(self) -> None:
        """Connect in the background and stay connected: exponential back-off with jitter."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_PACKET_BYTES
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        # A clean start each time: the subscriptions are exact chunk topics, and only the runner knows which it still wants.
        self._client.connect_async(
            self._endpoint.host, self._endpoint.port, KEEP_ALIVE_S, clean_start=True, properties=properties
        )
        self._client.loop_start()

    def use(self, certificate: Path, key: Path) -> None:
        """Connect anew with this certificate and key (PEM). Raises MalformedConfig; then the connection is as it was.

        Called from one thread that is not paho's. The old session ends with a goodbye, not with the last will.
        """
        endpoint = replace(self._endpoint, certificate=certificate, key=key)
        following = self._new_client(endpoint)
        self._hurry.set()
        self._client.disconnect()
        self._client.loop_stop()
        self._is_up.clear()
        # A client of its own: paho leaks its socket pair where one that was stopped is started again (2.1).
        self._endpoint, self._client, self._failures = endpoint, following, 0
        if not self._stopping.is_set():
            self._hurry.clear()
            self.start()

    def wait_connected(self, limit_s: float) -> bool:
        """Whether the broker accepts this device within ``limit_s`` seconds."""
        return self._is_up.wait(limit_s) and self.is_connected

    def stop(self) -> None:
        """Say goodbye (the last will is for accidents) and disconnect; returns within about a second."""
        self._stopping.set()
        self._hurry.set()
        if self._client.is_connected():
            info = self._client.publish(topics.PRESENCE.of(self._device), self._gone, qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):  # the link just ended: the last will says the same
                info.wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()

    # --- the port -----------------------------------------------------------------------------------------------------
    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """See the port."""
        if not self.is_connected:
            raise BrokerUnreachable(f"{self._where} is not connected; reports wait on disk")
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        try:
            info.wait_for_publish(PUBLISH_LIMIT_S)
        except (RuntimeError, ValueError) as error:  # not connected any more, or paho's queue is full
            raise BrokerUnreachable(f"{self._where} took no message: {error}") from error
        if not info.is_published():
            raise BrokerUnreachable(f"{self._where} did not acknowledge within {PUBLISH_LIMIT_S:.0f} s")
        if info.mid in self._refused:
            self._refused.discard(info.mid)
            raise BrokerUnreachable(f"{self._where} refused a message on {topic}; is this device revoked?")

    def subscribe(self, topics: Sequence[str]) -> None:
        """See the port. SUBACK is not waited for: it says Granted even where the broker's ACL denies."""
        if topics:
            self._client.subscribe([(topic, 1) for topic in topics])

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """See the port."""
        if topics:
            self._client.unsubscribe(list(topics))

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted this device and was heard since."""
        return self._is_up.is_set() and self._client.is_connected()

    # --- paho's thread ------------------------------------------------------------------------------------------------
    def _new_client(self, endpoint: Endpoint) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._device, protocol=paho.MQTTv5, reconnect_on_failure=True
        )
        client.tls_set_context(_tls(endpoint))
        client.connect_timeout = CONNECT_LIMIT_S
        client.max_inflight_messages_set(20)
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(FIRST_RETRY_S, LONGEST_RETRY_S)
        client.will_set(topics.PRESENCE.of(self._device), self._gone, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda *_: self._wait_a_little()
        client.on_disconnect = self._on_disconnect
        client.on_message = lambda _client, _userdata, message: self._inbox.put(message.topic, bytes(message.payload))
        client.on_publish = self._on_publish
        return client

    def _on_connect(
        self, client: paho.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            _LOG.warning("broker.refused reason=%s", reason)
            return
        self._failures = 0
        self._refused.clear()
        self._is_up.set()
        _LOG.info("broker.connected %s", self._where)
        client.publish(topics.PRESENCE.of(self._device), self._online, qos=1, retain=True)
        self._inbox.link(is_up=True)

    def _on_disconnect(
        self, _client: paho.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self._is_up.clear()
        _LOG.info("broker.disconnected reason=%s", reason)
        self._inbox.link(is_up=False)
        self._wait_a_little()

    def _on_publish(self, _client: paho.Client, _userdata: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        if reason.value >= _REFUSED and len(self._refused) < MAX_QUEUED:
            self._refused.add(mid)

    def _wait_a_little(self) -> None:
        # Full jitter on top of paho's doubling delay: after a broker's restart a fleet must not return in step.
        longest = min(2.0**self._failures, LONGEST_RETRY_S)
        self._failures = min(self._failures + 1, 10)
        self._hurry.wait(random.uniform(0, longest))  # noqa: S311 - spreads load, protects nothing

    @property
    def _where(self) -> str:
        return f"the broker at {self._endpoint.host}:{self._endpoint.port}"


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=endpoint.ca)
        context.load_cert_chain(endpoint.certificate, endpoint.key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise MalformedConfig(f"the device's certificate cannot be used; enrol it again: {error}") from error
    return context
