"""What the server's parts ask of each other and of the world. Only ``app.py`` knows the concrete classes behind these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fleet_protocol.identifiers import DeviceId
from fleet_protocol.topics import DeviceTopic

Clock = Callable[[], float]
"""Unix seconds."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message as the broker delivered it: who and what from the topic, the bytes not yet parsed."""

    device: DeviceId
    topic: DeviceTopic
    payload: bytes
    is_json: bool


class Broker(Protocol):
    """The broker as the server's publisher needs it."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Returns once the broker has acknowledged; raises BrokerUnreachable. An empty retained payload clears a topic."""
        ...

    def publish_many(self, messages: list[tuple[str, bytes]]) -> None:
        """Publish retained messages (topic, payload) with QoS 1, many in flight; returns once all are acknowledged.

        Raises BrokerUnreachable; then any part of them may have been published (publishing again is harmless).
        """
        ...

    @property
    def is_connected(self) -> bool: ...
