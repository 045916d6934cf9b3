"""An MQTT client as a device has it, for tests against a real broker."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fleet_protocol import messages, topics
from fleet_protocol.identifiers import DeviceId
from tests.server.kit import DeviceKit

LIMIT_S = 10.0
T = TypeVar("T")


def eventually(condition: Callable[[], T | None], what: str, limit_s: float = LIMIT_S) -> T:
    """The first true value of ``condition``; fails the test after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"within {limit_s:.0f} s it did not happen that {what}"
        pause.wait(0.02)


class Wire:
    """One connection. ``received``: topic and payload of every message, in order."""

    def __init__(
        self, port: int, ca: Path, identity: tuple[Path, Path] | None, client_id: str, *, will: str | None = None
    ) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.codes: dict[int, str] = {}
        self.connected = threading.Event()
        self.ended: list[str] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
        context = ssl.create_default_context(cafile=str(ca))
        if identity is not None:
            context.load_cert_chain(*identity)
        self._client.tls_set_context(context)
        self._client.on_connect = lambda *_: self.connected.set()
        self._client.on_disconnect = lambda _c, _u, _f, code, _p: self.ended.append(str(code))
        self._client.on_message = lambda _c, _u, message: self.received.append((message.topic, message.payload))
        self._client.on_publish = self._on_publish
        self._client.reconnect_delay_set(60, 60)
        if will is not None:
            gone = messages.encode(messages.Presence(online=False, boot_id="b"))
            self._client.will_set(will, gone, 1, retain=True)
        self._client.connect("127.0.0.1", port, 30, clean_start=True)
        self._client.loop_start()

    def _on_publish(self, _client: object, _user: object, mid: int, code: Any, _properties: object) -> None:
        self.codes[mid] = str(code)

    def subscribe(self, topic: str, qos: int = 1) -> None:
        self._client.subscribe(topic, qos)

    def unsubscribe(self, topic: str) -> None:
        self._client.unsubscribe(topic)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> str:
        """The broker's answer, e.g. ``Success`` or ``Not authorized``."""
        sent = self._client.publish(topic, payload, qos, retain)
        return eventually(lambda: self.codes.get(sent.mid), f"the broker answered on {topic}")

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for name, payload in list(self.received) if name == topic]

    def fence(self, device: DeviceId) -> None:
        """Everything that the broker had for this client before now has arrived."""
        mark = topics.ASSIGNMENT.of(device) + "/fence"
        before = len(self.payloads(mark))
        self.subscribe(mark)
        self.publish(mark, b"")
        eventually(lambda: len(self.payloads(mark)) > before or self.ended, "the fence came back")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def wire_of(device: DeviceKit, port: int, ca: Path, directory: Path, *, client_id: str | None = None) -> Wire:
    """A device's own connection, with its presence and its will."""
    wire = Wire(port, ca, device.write_identity(directory), client_id or device.id, will=topics.PRESENCE.of(device.id))
    eventually(wire.connected.is_set, f"{device.id} is connected")
    return wire
