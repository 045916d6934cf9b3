"""An enrolled device turned thief: it uses its own certificate to hear everything that the broker lets it hear."""

from __future__ import annotations

import json
import ssl
import threading
from pathlib import Path
from typing import Self

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fleet_protocol import topics
from fleet_server.demo.programs import AgentPrograms, ServerPrograms


def hpke_key(state: Path) -> X25519PrivateKey:
    """A device's private HPKE key, as its agent keeps it."""
    for path in (state / "identity").iterdir():
        content = path.read_bytes()
        if len(content) == 32:
            return X25519PrivateKey.from_private_bytes(content)
        if b"PRIVATE KEY" in content:
            key = load_pem_private_key(content, password=None)
            if isinstance(key, X25519PrivateKey):
                return key
    raise FileNotFoundError(f"no HPKE key below {state}")


def tls(state: Path) -> ssl.SSLContext:
    """Mutual TLS with what the device's agent stored at enrolment."""
    identity = state / "identity"
    context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
    context.load_cert_chain(identity / "certificate.pem", identity / "tls.key")
    return context


class Eavesdropper:
    """Subscribes to every shared topic, and to the other devices' as well; ``heard`` is what came."""

    def __init__(self, device: AgentPrograms, server: ServerPrograms) -> None:
        self._heard: dict[str, bytes] = {}
        self._news = threading.Condition()
        name = json.loads((device.state / "identity" / "identity.json").read_text())["device"]
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self._client.tls_set_context(tls(device.state))
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe([("#", 1), (f"{topics.PREFIX}/blob/+/+", 1)])
        self._client.connect("127.0.0.1", int(server.ports["broker_port"]))

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        with self._news:
            self._heard[message.topic] = message.payload
            self._news.notify_all()

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for(self, topic: str, limit_s: float = 30.0) -> None:
        with self._news:
            assert self._news.wait_for(lambda: topic in self._heard, limit_s), f"never heard {topic}"

    def heard(self) -> dict[str, bytes]:
        with self._news:
            return dict(self._heard)
