"""Two machines with one identity, noticed from the boots that health reports name (pure).

A health report carries the boot that wrote it and a number that grows over boots. One machine therefore never speaks for an
earlier boot with a number above the first of a later one. A copy of a device's disk does, as soon as both are switched on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from fleet_protocol.identifiers import DeviceId

MAX_EARLIER: Final = 8
MAX_DEVICES: Final = 200_000
ALARM: Final = "device.cloned"
"""Action of the audit row; the dashboard and ``fleetctl device why`` show the newest."""


@dataclass(frozen=True, slots=True)
class Boots:
    """The boot that spoke last, the number of its first report, and boots before it (newest first, at most MAX_EARLIER)."""

    current: str
    first_seq: int
    earlier: tuple[str, ...] = ()


def follow(before: Boots | None, boot_id: str, seq: int) -> tuple[Boots, bool]:
    """The boots after one more report, and whether it contradicts that there is one machine."""
    if before is None:
        return Boots(boot_id, seq), False
    if boot_id == before.current:
        return replace(before, first_seq=min(before.first_seq, seq)), False
    if boot_id in before.earlier and seq <= before.first_seq:
        return before, False  # from the spool of before the restart, or delivered twice
    earlier = (before.current, *(each for each in before.earlier if each != boot_id))[:MAX_EARLIER]
    return Boots(boot_id, seq, earlier), boot_id in before.earlier


class CloneWatch:
    """The boots of every device since the server started; a clone that goes on speaking is noticed anew after that."""

    def __init__(self) -> None:
        self._boots: dict[DeviceId, Boots] = {}

    def hear(self, device: DeviceId, boot_id: str, seq: int) -> str:
        """What is wrong, in one sentence; empty where one machine explains the report."""
        if device not in self._boots and len(self._boots) >= MAX_DEVICES:
            self._boots.clear()
        before = self._boots.get(device)
        after, is_contradiction = follow(before, boot_id, seq)
        self._boots[device] = after
        if before is None or not is_contradiction:
            return ""
        return f"boots {before.current[:8]} and {boot_id[:8]} both report as this device; its keys were copied, or its disk was"
