"""What the device says of itself: one report per interval, and at once when a slot serves another model.

Building a report is pure; :class:`HealthLoop` is the thread that does it in time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Protocol

from edge_agent.ports import Clock, Sensors, Spool, Standing, Vitals
from fleet_protocol import messages, topics
from fleet_protocol.errors import DeliveryError
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import DeviceId
from fleet_protocol.messages import HealthReport, SlotHealth

log = logging.getLogger(__name__)

SHORTEST_INTERVAL_S: Final = 1.0
"""Even a slot whose worker dies again and again makes no more reports than this, so report numbers grow slower than time."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What does not change while the agent runs. ``started_at``: monotonic seconds."""

    device: DeviceId
    boot_id: str
    fingerprint: Fingerprint
    started_at: float
    agent_version: str = version("edgefleet")


@dataclass(frozen=True, slots=True)
class Backlog:
    """How the spool stands: reports waiting, reports given up."""

    depth: int
    dropped: int


class Slots(Protocol):
    """The inference side as the health loop sees it."""

    def slot_health(self) -> tuple[SlotHealth, ...]: ...

    def worker_pids(self) -> list[int]: ...


class NumberedSpool(Spool, Protocol):
    """A spool that also numbers reports over restarts and tells its figures. All three raise DeliveryError."""

    def next_number(self, name: str) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def dropped(self) -> int: ...


def build_report(
    identity: Identity,
    vitals: Vitals,
    standing: Standing,
    backlog: Backlog,
    slots: Sequence[SlotHealth],
    *,
    seq: int,
    now: float,
    monotonic: float,
) -> HealthReport:
    """One report. ``now``: the system's clock (Unix s); a clock behind the trusted time is corrected to it (SPEC 6.3)."""
    at = max(now, standing.trusted_time_s)
    return HealthReport(
        seq=seq,
        at=at,
        boot_id=identity.boot_id,
        agent_version=identity.agent_version,
        fingerprint=identity.fingerprint,
        uptime_s=monotonic - identity.started_at,
        cpu_percent=vitals.cpu_percent,
        memory_used_bytes=vitals.memory_used_bytes,
        memory_total_bytes=vitals.memory_total_bytes,
        agent_rss_bytes=vitals.agent_rss_bytes,
        disk_free_bytes=vitals.disk_free_bytes,
        temperature_celsius=vitals.temperature_celsius,
        assignment_seq=standing.assignment_seq,
        root_version=standing.root_version,
        timestamp_version=standing.timestamp_version,
        trusted_time=standing.trusted_time_s,
        clock_offset_s=at - now,
        spool_depth=backlog.depth,
        spool_dropped=backlog.dropped,
        slots=tuple(slots),
    )


class HealthLoop:
    """Measures, builds, spools. ``run`` is the body of a thread; ``wake`` may be called from any other."""

    def __init__(
        self,
        identity: Identity,
        sensors: Sensors,
        slots: Slots,
        standing: Callable[[], Standing],
        spool: NumberedSpool,
        interval_s: float,
        clock: Clock = time.time,
    ) -> None:
        """``standing`` is asked once per report, from the loop's thread."""
        self._identity, self._sensors, self._slots = identity, sensors, slots
        self._standing, self._spool, self._clock = standing, spool, clock
        self._interval_s = max(interval_s, SHORTEST_INTERVAL_S)
        self._topic = topics.HEALTH.of(identity.device)
        self._woken = threading.Event()
        self._stopped = threading.Event()

    def wake(self) -> None:
        """Report soon: a slot serves another model."""
        self._woken.set()

    def stop(self) -> None:
        """Let ``run`` return."""
        self._stopped.set()
        self._woken.set()

    def run(self) -> None:
        """Report at once, then every interval and after each ``wake``, until ``stop``."""
        while not self._stopped.is_set():
            self._woken.clear()
            self.report()
            if not self._stopped.wait(SHORTEST_INTERVAL_S):
                self._woken.wait(self._interval_s - SHORTEST_INTERVAL_S)

    def report(self) -> None:
        """Make one report and give it to the spool; a disk that takes nothing costs the report, not the agent."""
        vitals, slots = self._sensors.sample(self._slots.worker_pids()), self._slots.slot_health()
        try:
            backlog = Backlog(self._spool.depth, self._spool.dropped)
            seq = self._spool.next_number("health")
        except DeliveryError as error:
            log.warning("health: no report: %s", error)
            return
        report = build_report(
            self._identity, vitals, self._standing(), backlog, slots,
            seq=seq, now=self._clock(), monotonic=time.monotonic(),
        )  # fmt: skip
        self._spool.put(self._topic, messages.encode(report), is_state=False)
