"""Latency sketch: a histogram over logarithmic buckets that merges by adding counts (SPEC 10.3).

Index mapping of DDSketch (Masson, Rim, Lee, VLDB 2019, section 2): value ``x`` falls in bucket ``ceil(log_gamma(x))``, and
any quantile is within 2 % of the true one. On the wire: delta-varints, about 64 bytes for 900 values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Self

from fleet_protocol.errors import MalformedMessage

RELATIVE_ERROR: Final = 0.02
_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)
_FIRST_INDEX: Final = -2000
_MAX_BUCKETS: Final = 4096
_SMALLEST: Final = 1e-6


class Sketch:
    """Counts per bucket. Values in milliseconds by convention; anything below 1e-6 counts as 1e-6."""

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def add(self, value: float) -> None:
        """Count one value; O(1)."""
        index = math.ceil(math.log(max(value, _SMALLEST)) / _LOG_GAMMA)
        self.counts[index] = self.counts.get(index, 0) + 1

    def merge(self, other: Sketch) -> None:
        """Add the counts of ``other``; the order of merges does not matter."""
        for index, count in other.counts.items():
            self.counts[index] = self.counts.get(index, 0) + count

    @property
    def total(self) -> int:
        """Number of values counted."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """The value at ``share`` (0..1), within 2 %; None where nothing was counted."""
        rank = share * (self.total - 1)
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen > rank:
                return 2 * _GAMMA**index / (1 + _GAMMA)
        return None

    def encode(self) -> bytes:
        """``varint(buckets)`` then per bucket ``varint(index - previous) varint(count)``, the first index from -2000."""
        wire, previous = bytearray(), _FIRST_INDEX
        _put_varint(wire, len(self.counts))
        for index in sorted(self.counts):
            _put_varint(wire, index - previous)
            _put_varint(wire, self.counts[index])
            previous = index
        return bytes(wire)

    @classmethod
    def decode(cls, wire: bytes) -> Self:
        """Inverse of :meth:`encode`; raises MalformedMessage."""
        numbers = _varints(wire)
        try:
            buckets = next(numbers)
            if buckets > _MAX_BUCKETS:
                raise MalformedMessage(f"a sketch has at most {_MAX_BUCKETS} buckets, got {buckets}")
            counts, index = {}, _FIRST_INDEX
            for _ in range(buckets):
                index += next(numbers)
                counts[index] = next(numbers)
        except StopIteration:
            raise MalformedMessage("a sketch ends before its last bucket") from None
        if index > -_FIRST_INDEX:
            raise MalformedMessage(f"a sketch's bucket index is at most {-_FIRST_INDEX}, got {index}")
        return cls(counts)


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """The sketch of all values of all ``sketches``."""
    result = Sketch()
    for sketch in sketches:
        result.merge(sketch)
    return result


def _put_varint(wire: bytearray, number: int) -> None:
    while number > 0x7F:
        wire.append(number & 0x7F | 0x80)
        number >>= 7
    wire.append(number)


def _varints(wire: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in wire:
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > 63:
            raise MalformedMessage("a varint of a sketch is longer than 63 bits")
        if byte < 0x80:
            yield number
            number = shift = 0
