"""When a certificate is renewed, and what follows from how it went (SPEC 9.3). Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from fleet_protocol.identifiers import DeviceId

_SHARE: Final = 2 / 3
_SPREAD: Final = 1 / 12
"""Devices that enrolled together renew over a twelfth of a life (2.5 of 30 days), and a fifth of it is left to try in."""
_FIRST_RETRY_S: Final = 60.0
_LONGEST_RETRY_S: Final = 6 * 3600.0
_QUIET_SHARE: Final = 1 / 4


@dataclass(frozen=True, slots=True)
class Life:
    """From when to when a certificate is valid, Unix seconds."""

    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Seconds between the two."""
        return self.end_s - self.begin_s


def due_at(life: Life, device: DeviceId) -> float:
    """When this device asks for the next certificate: two thirds of the life and a part that its id decides."""
    part = int.from_bytes(hashlib.sha256(b"renew/" + device.encode()).digest()[:8], "big") / 2**64
    return life.begin_s + (_SHARE + _SPREAD * part) * life.length_s


def is_due(life: Life, device: DeviceId, now_s: float) -> bool:
    """Whether it is time, by ``now_s`` (trusted). A clock far ahead only makes the device ask: the server's time decides."""
    return now_s >= due_at(life, device)


def quiet_s(life: Life) -> float:
    """How long after a renewal none is asked for, by the monotonic clock: a wrong clock would call each new one due."""
    return _QUIET_SHARE * life.length_s


def retry_s(failures: int) -> float:
    """How long to wait after this many failures in a row: a minute, doubled each time, at most six hours."""
    doubled: float = _FIRST_RETRY_S * 2.0 ** min(failures - 1, 20)
    return min(doubled, _LONGEST_RETRY_S)
