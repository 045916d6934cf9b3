"""How often one address may ask without a token: a token bucket per address (pure; the time comes in)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, Final

from fleet_protocol.errors import RefusedRequest

MAX_ADDRESSES: Final = 10_000
"""Addresses remembered; beyond it the one that asked longest ago is forgotten (and starts with a full bucket)."""


class RateLimited(RefusedRequest):
    """Too many requests of one address; nothing was done."""

    code: ClassVar[str] = "rate-limited"


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class RateLimit:
    """``burst`` requests at once, then ``per_s`` each second, for each address."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, address: str, now: float) -> None:
        """Count one request; raises RateLimited where the bucket is empty."""
        with self._lock:
            bucket = self._buckets.pop(address, None) or _Bucket(float(self._burst), now)
            # A clock that was set back must not empty anybody's bucket.
            bucket.level = min(float(self._burst), bucket.level + max(0.0, now - bucket.at) * self._per_s)
            bucket.at = now
            self._buckets[address] = bucket
            if len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
            if bucket.level < 1:
                raise RateLimited(f"too many requests from {address}; try again in {1 / self._per_s:.0f} s")
            bucket.level -= 1
