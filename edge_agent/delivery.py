"""Which chunks of a blob to ask for now: pure window logic, time passed in (SPEC 7.3-7.5).

A chunk is asked for by subscribing to its exact topic, because a wildcard overruns the broker's queue and silently loses
what is beyond it. The window is small where the link is slow, so that a command never waits long behind a download, and
grows where chunks come quickly.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from fleet_protocol.errors import ChunkTampered, DownloadStalled, FleetError
from fleet_protocol.identifiers import Digest
from fleet_protocol.messages import MissingChunks

FAST_S: Final = 0.5
"""A chunk that came sooner than this after it was asked for lets the window grow by one."""
SLOW_S: Final = 2.0
"""A chunk that took longer shrinks it: what is asked for ahead is what a command has to wait behind."""
LEAST_CHUNKS: Final = 8
"""Chunks that have to come in each ``Limits.patience_s``: 256 KiB, 300 bytes a second, below every link that is of use."""
MAX_REFUSED: Final = 16
"""Chunks that do not authenticate before the download is given up (SPEC 7.4)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``window`` chunks at first, between ``smallest`` and ``largest`` later; ``stall_s`` without any is a stall.

    ``patience_s``: seconds of a standing link in which LEAST_CHUNKS have to come (SPEC 7.5.1).
    """

    window: int = 4
    largest: int = 32
    smallest: int = 1
    stall_s: float = 30.0
    patience_s: float = 900.0


class Window:
    """The missing chunks of one blob, and those that are asked for. Indexes as in SPEC 7.2; every method is O(1) a chunk."""

    def __init__(self, missing: set[int], limits: Limits) -> None:
        self.missing = missing
        self.asked: dict[int, float] = {}
        self.size = limits.window
        self.stalls = 0
        self._limits = limits
        self._waiting = deque(sorted(missing))
        self._heard_s: float | None = None
        self._refused = 0
        self._judged_s: float | None = None
        self._came = 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    def next(self, now_s: float) -> list[int]:
        """Chunks to ask for now; from here on they count as asked for."""
        wanted: list[int] = []
        # Chunk 0 goes first and alone: it has the header, without which no other chunk can be verified (SPEC 7.4).
        room = 1 if 0 in self.missing else self.size
        while self._waiting and len(self.asked) < room:
            index = self._waiting.popleft()
            if index in self.missing:
                self.asked[index] = now_s
                wanted.append(index)
        if wanted and self._heard_s is None:
            self._heard_s = now_s
        if wanted and self._judged_s is None:
            self._judged_s, self._came = now_s, 0
        return wanted

    def arrived(self, index: int, now_s: float) -> None:
        """A chunk is on disk, verified. One that nobody asked for changes nothing else."""
        self.missing.discard(index)
        self._came += 1
        asked_s = self.asked.pop(index, None)
        self._heard_s = now_s
        if asked_s is None:
            return
        took_s = now_s - asked_s
        if took_s < FAST_S:
            self.size = min(self.size + 1, self._limits.largest)
        elif took_s > SLOW_S:
            self.size = max(self.size - 1, self._limits.smallest)

    def not_authentic(self) -> FleetError | None:
        """A chunk did not verify: it stays missing and asked for. Returns an error when it was one too many."""
        self._refused += 1
        if self._refused < MAX_REFUSED:
            return None
        return ChunkTampered(f"{self._refused} chunks did not authenticate; publish the blob again")

    def link_lost(self) -> None:
        """Subscriptions ended with the connection: nothing is asked for any more, nothing is a stall."""
        self._take_back()
        self._heard_s = self._judged_s = None

    def too_slow(self, now_s: float) -> FleetError | None:
        """Why the download is to be given up: a link that stands and brings next to nothing (SPEC 7.5.1).

        One chunk now and then is no stall, and would keep a device on its way to a fix for as long as an attacker likes.
        Times without a link do not count; the limit of DOWNLOADING holds for those.
        """
        if self._judged_s is None or now_s - self._judged_s < self._limits.patience_s:
            return None
        came, self._judged_s, self._came = self._came, now_s, 0
        if came >= LEAST_CHUNKS:
            return None
        return DownloadStalled(
            f"{came} chunks came in {self._limits.patience_s:.0f} s, {LEAST_CHUNKS} are the least; see to the device's link"
        )

    def is_stalled(self, now_s: float) -> bool:
        """Whether chunks were asked for and none came for ``stall_s``."""
        return bool(self.asked) and self._heard_s is not None and now_s - self._heard_s > self._limits.stall_s

    def stalled(self, now_s: float) -> list[int]:
        """Give up on what was asked for: the indexes to unsubscribe. The window halves (SPEC 7.5)."""
        lost = self._take_back()
        self.size = max(self.size // 2, self._limits.smallest)
        self.stalls += 1
        self._heard_s = now_s
        return lost

    def _take_back(self) -> list[int]:
        lost = sorted(self.asked)
        self._waiting.extendleft(reversed(lost))
        self.asked.clear()
        return lost


def missing_report(blob: Digest, blob_bytes: int, total: int, missing: set[int]) -> MissingChunks:
    """What the device tells the server of ``missing`` message indexes out of ``total``."""
    bitmap = bytearray((total + 7) // 8)
    for index in missing:
        bitmap[index // 8] |= 1 << (index % 8)
    return MissingChunks(blob_sha256=blob, blob_bytes=blob_bytes, bitmap=bytes(bitmap))
