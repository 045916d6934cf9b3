"""What came from the broker and was not looked at yet: bounded, one entry per topic, the newest wins.

Everything that a device receives is desired state or content named by its digest, so an older message of the same topic
is worth nothing once a newer one is there. The broker client's thread puts, the runner takes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

MAX_TOPICS: Final = 2048
"""Far above what the agent ever subscribes to; beyond it a message is dropped and asked for again when it is missed."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The broker was reached or lost."""

    is_up: bool


class Inbox:
    """A mailbox between two threads."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._waiting: dict[str, bytes] = {}
        self._links: list[LinkChanged] = []
        self._is_closed = False

    def put(self, topic: str, payload: bytes) -> None:
        """Keep a message until it is taken. Never blocks: the broker client's thread must go on (SPEC 7.6)."""
        with self._ready:
            if topic in self._waiting or len(self._waiting) < MAX_TOPICS:
                self._waiting[topic] = payload
                self._ready.notify()

    def link(self, is_up: bool) -> None:  # noqa: FBT001 - the callback's only argument
        """Tell that the broker was reached or lost."""
        with self._ready:
            self._links = [*self._links[-1:], LinkChanged(is_up)]
            self._ready.notify()

    def close(self) -> None:
        """Wake whoever waits; from now on :meth:`take` returns None at once when nothing is left."""
        with self._ready:
            self._is_closed = True
            self._ready.notify_all()

    def take(self, timeout_s: float) -> Message | LinkChanged | None:
        """The oldest entry, link changes first; None when the time is over or the inbox was closed."""
        with self._ready:
            self._ready.wait_for(lambda: bool(self._links or self._waiting or self._is_closed), timeout_s)
            if self._links:
                return self._links.pop(0)
            if not self._waiting:
                return None
            topic = next(iter(self._waiting))
            return Message(topic, self._waiting.pop(topic))
