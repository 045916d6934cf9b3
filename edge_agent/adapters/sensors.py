"""The board's own figures, by psutil."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from edge_agent.ports import Vitals


class PsutilSensors:
    """Implements :class:`edge_agent.ports.Sensors`. ``state_dir``: a folder on the file system whose free space counts."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._agent = psutil.Process()
        psutil.cpu_percent()  # the first call only starts the interval that the next one measures

    def sample(self, worker_pids: Sequence[int]) -> Vitals:
        """See the port."""
        memory = psutil.virtual_memory()
        return Vitals(
            cpu_percent=psutil.cpu_percent(),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            agent_rss_bytes=self._agent.memory_info().rss + sum(_resident(pid) for pid in worker_pids),
            disk_free_bytes=psutil.disk_usage(str(self._state_dir)).free,
            temperature_celsius=hottest(_temperatures()),
        )


def hottest(celsius: Iterable[float]) -> float | None:
    """The highest plausible temperature; None where there is none. Broken sensors say 0, -273 or thousands."""
    return max((each for each in celsius if 0.0 < each < 200.0), default=None)


def _temperatures() -> list[float]:
    return [reading.current for readings in psutil.sensors_temperatures().values() for reading in readings]


def _resident(pid: int) -> int:
    with contextlib.suppress(psutil.Error):  # it may have ended since it was listed
        return int(psutil.Process(pid).memory_info().rss)
    return 0
