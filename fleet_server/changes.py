"""The feed of what changed: services publish from any thread, browsers follow it over SSE."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

MAX_PENDING: Final = 512
"""Distinct changes that wait for one slow subscriber; beyond it they become one ``EVERYTHING``."""


@dataclass(frozen=True, slots=True)
class Change:
    """``topic``: device | rollout | release | claim; ``subject``: its id. Says that it changed, never how: readers ask again."""

    topic: str
    subject: str

    def __str__(self) -> str:
        return f"{self.topic}:{self.subject}"


EVERYTHING: Final = Change("all", "")
"""Too much changed to name; a reader refreshes all that it shows."""


class ChangeFeed:
    """Thread-safe fan-out. Changes that a subscriber has not yet taken are merged, so a feed holds no backlog."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: set[_Subscriber] = set()
        self._is_closed = False

    def publish(self, topic: str, subject: str) -> None:
        """Tell every subscriber that ``topic:subject`` changed. Never blocks; may be called from any thread."""
        change = Change(topic, subject)
        with self._lock:
            subscribers = tuple(self._subscribers)
        for each in subscribers:
            each.offer(change)

    async def subscribe(self) -> AsyncIterator[Change]:
        """Every change from the first ``anext`` on, in order, repeated ones merged; ends when the feed is closed."""
        subscriber = _Subscriber(asyncio.get_running_loop())
        with self._lock:
            if self._is_closed:
                return
            self._subscribers.add(subscriber)
        try:
            while (change := await subscriber.take()) is not None:
                yield change
        finally:
            with self._lock:
                self._subscribers.discard(subscriber)

    def close(self) -> None:
        """End every subscription, so that open streams do not hold up a shutdown."""
        with self._lock:
            self._is_closed = True
            subscribers = tuple(self._subscribers)
        for each in subscribers:
            each.close()

    @property
    def subscribers(self) -> int:
        """Number of open subscriptions."""
        with self._lock:
            return len(self._subscribers)


class _Subscriber:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._pending: dict[Change, None] = {}  # a dict keeps the order and merges what repeats
        self._is_closed = False
        self._wake = asyncio.Event()

    def offer(self, change: Change) -> None:
        with self._lock:
            if len(self._pending) >= MAX_PENDING:
                self._pending.clear()
                change = EVERYTHING
            self._pending[change] = None
        self._notify()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
        self._notify()

    async def take(self) -> Change | None:
        while True:
            with self._lock:
                if self._pending:
                    change = next(iter(self._pending))
                    del self._pending[change]
                    return change
                if self._is_closed:
                    return None
                self._wake.clear()
            await self._wake.wait()

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            # The subscriber's event loop has ended with its browser's connection: nobody is left to tell.
            self._is_closed = True
