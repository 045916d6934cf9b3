"""A source's frames at their pace into a place for one: the newest wins, whoever is slow sees fewer, never older ones."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.config import SourceConfig
from edge_agent.errors import SourceUnavailable
from edge_agent.inference.sources import Picture, pictures
from edge_agent.ports import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

RETRY_S: Final = (1.0, 30.0)
"""First and longest wait before a source that failed is opened again."""
_REMEMBERED_COMPLAINTS: Final = 256


@dataclass(frozen=True, slots=True)
class Frame:
    """8-bit BGR pixels (H, W, 3), their number since the agent started, capture time (Unix s) and origin."""

    number: int
    at: float
    origin: str
    pixels: NDArray[np.uint8]


class Mailbox:
    """Room for one frame between the thread that captures and the thread that infers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._dropped = 0
        self._is_wanted = False
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._is_closed

    def put(self, frame: Frame) -> None:
        """Offer a frame; one that nobody took in time is replaced and counted as dropped."""
        with self._changed:
            self._dropped += self._frame is not None
            self._frame = frame
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Frame | None:
        """The newest frame, as soon as there is one; None when the time is over or the mailbox was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._is_closed, timeout_s)
            frame, self._frame = self._frame, None
            return None if self._is_closed else frame

    def take_dropped(self) -> int:
        """Frames dropped since the last call."""
        with self._changed:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def want(self, is_wanted: bool) -> None:  # noqa: FBT001 - the one argument is the sentence
        """Tell the capturing side whether anybody will look at a frame."""
        with self._changed:
            self._is_wanted = is_wanted
            self._changed.notify_all()

    def wait_wanted(self) -> bool:
        """Block until frames are wanted; False where the mailbox was closed instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_wanted or self._is_closed)
            return not self._is_closed

    def wait_closed(self, timeout_s: float) -> bool:
        """Block until the mailbox is closed or the time is over; whether it is closed."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_closed, timeout_s)

    def close(self) -> None:
        """Let both sides go."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class Capture:
    """Plays one source into a mailbox until that is closed. A source that fails is reported and opened again."""

    def __init__(self, config: SourceConfig, mailbox: Mailbox, clock: Clock) -> None:
        self.unreadable = 0
        self._config, self._mailbox, self._clock = config, mailbox, clock
        self._number = 0
        self._retry_s = RETRY_S[0]
        self._complaints: set[str] = set()

    def run(self) -> None:
        """The body of the capturing thread."""
        while self._mailbox.wait_wanted():
            try:
                self._play()
            except SourceUnavailable as error:
                log.warning("source: %s; next attempt in %g s", error, self._retry_s)
                self._mailbox.wait_closed(self._retry_s)
                self._retry_s = min(self._retry_s * 2, RETRY_S[1])
            else:
                return

    def _play(self) -> None:
        """Offer the pictures at ``fps``; returns at the end of a source that does not loop, or when nobody listens."""
        period = 1.0 / self._config.fps
        due = time.monotonic()
        for picture in pictures(self._config):
            if self._mailbox.wait_closed(max(due - time.monotonic(), 0.0)) or not self._mailbox.wait_wanted():
                return
            self._offer(picture)
            due = next_due(due, time.monotonic(), period)

    def _offer(self, picture: Picture) -> None:
        if picture.pixels is None:
            self.unreadable += 1
            self._complain(picture.name)
            return
        self._number += 1
        self._retry_s = RETRY_S[0]
        self._mailbox.put(Frame(self._number, self._clock(), picture.name, picture.pixels))

    def _complain(self, name: str) -> None:
        if name in self._complaints or len(self._complaints) >= _REMEMBERED_COMPLAINTS:
            return  # a looped folder would say it again at every pass
        self._complaints.add(name)
        log.warning("source: %s is not a readable picture and was skipped", name)


def next_due(due: float, now: float, period: float) -> float:
    """When the next picture is due after one at ``due``; a source that fell behind does not catch up in a burst."""
    return max(now, due + period)
