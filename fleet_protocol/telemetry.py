"""The telemetry registry: the one source of every metric's name, unit and meaning (SPEC 10.2).

Code, documentation and dashboard draw from here; ``tests/protocol/test_telemetry.py`` compares it with the messages' fields
in both directions and with a list of literals, so that neither can be renamed by accident.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Metric:
    """``name`` is the field of the message, ``unit`` as in UCUM where there is one, ``meaning`` one sentence."""

    name: str
    unit: str
    meaning: str


DEVICE_METRICS: Final = (
    Metric("seq", "1", "Number of the health report, growing over the life of the device, restarts included."),
    Metric("at", "s", "Unix time at which the report was made, by the device's trusted time."),
    Metric("boot_id", "", "Changes at every start of the agent."),
    Metric("agent_version", "", "Version of edge_agent."),
    Metric("fingerprint", "", "Board, runtime, runtime version and architecture, as measured."),
    Metric("uptime_s", "s", "Since the agent started."),
    Metric("cpu_percent", "%", "Share of all cores in use over the interval, by everything on the board."),
    Metric("memory_used_bytes", "By", "Memory in use on the board (total minus available)."),
    Metric("memory_total_bytes", "By", "Memory fitted."),
    Metric("agent_rss_bytes", "By", "Resident memory of the agent and its workers."),
    Metric("disk_free_bytes", "By", "Free on the file system that holds the agent's state."),
    Metric("temperature_celsius", "Cel", "Hottest sensor; absent where the board has none."),
    Metric("assignment_seq", "1", "Highest assignment sequence accepted."),
    Metric("root_version", "1", "TUF root version trusted."),
    Metric("timestamp_version", "1", "TUF timestamp version accepted: the server sees a freeze attack here."),
    Metric("trusted_time", "s", "Floor below which the device does not believe its clock."),
    Metric("clock_offset_s", "s", "Trusted time minus the system clock; far from zero on a board without a clock."),
    Metric("spool_depth", "1", "Reports waiting on disk."),
    Metric("spool_dropped", "1", "Reports given up since the agent's first start because the spool was full."),
    Metric("slots", "", "One entry per slot, below."),
)

SLOT_METRICS: Final = (
    Metric("slot", "", "Name of the slot."),
    Metric("served_sha256", "", "Manifest digest that the runtime holds and serves now; empty: nothing is served."),
    Metric("model", "", "Model name of that manifest."),
    Metric("version", "", "Model version of that manifest."),
    Metric("frames", "1", "Frames inferred over the interval."),
    Metric("errors", "1", "Frames that failed in pre-processing, inference or post-processing over the interval."),
    Metric("dropped", "1", "Frames replaced by newer ones before they were inferred, over the interval."),
    Metric("fps", "1/s", "Frames inferred per second over the interval."),
    Metric("latency", "ms", "Sketch of the time from frame in memory to result, per frame."),
    Metric("predictions", "1", "Frames per top-1 class over the interval, by label index, first 64 classes."),
)
