"""Counting what a slot did. Pure; the caller locks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_agent.ports import BakeWindow, SealedModel
from fleet_protocol.identifiers import SlotName
from fleet_protocol.messages import SlotHealth
from fleet_protocol.sketch import Sketch

MAX_CLASSES: Final = 64
"""Classes whose predictions a health report counts (SPEC 10.2)."""
RESTART_DELAYS_S: Final = (0.0, 2.0)
DEATHS_WITHIN_S: Final = 60.0


class Tally:
    """Frames, errors, latencies (ms) and top-1 classes over one interval."""

    def __init__(self) -> None:
        self.frames = 0
        self.errors = 0
        self.latency = Sketch()
        self.predictions: list[int] = []

    def count(self, latency_ms: float, index: int) -> None:
        """One frame was inferred as class ``index``; a negative one is no class."""
        self.frames += 1
        self.latency.add(latency_ms)
        if 0 <= index < MAX_CLASSES:
            self.predictions.extend([0] * (index + 1 - len(self.predictions)))
            self.predictions[index] += 1

    def count_error(self) -> None:
        """One frame failed."""
        self.errors += 1


def bake_window(tally: Tally, cause_of_death: str) -> BakeWindow:
    """What the updater sees of the frames since the last switch; an empty ``cause_of_death`` means alive."""
    return BakeWindow(
        tally.frames + tally.errors,
        tally.errors,
        tally.latency.quantile(0.95),
        is_alive=not cause_of_death,
        cause_of_death=cause_of_death,
    )


def slot_health(slot: SlotName, served: SealedModel | None, tally: Tally, dropped: int, elapsed_s: float) -> SlotHealth:
    """The slot's entry of a health report for an interval of ``elapsed_s`` seconds."""
    return SlotHealth(
        slot=slot,
        served_sha256=served.digest if served else "",
        model=served.manifest.model if served else "",
        version=served.manifest.version if served else "",
        frames=tally.frames,
        errors=tally.errors,
        dropped=dropped,
        fps=tally.frames / elapsed_s if elapsed_s > 0 else 0.0,
        latency=tally.latency.encode(),
        predictions=tuple(tally.predictions),
    )


def restart_delay(deaths: Sequence[float], now: float) -> float | None:
    """Seconds to wait before a worker that died is started again; None where it died too often and stays down.

    ``deaths``: when the slot's worker died, on the same monotonic clock as ``now``, the last one included.
    """
    recent = sum(now - death < DEATHS_WITHIN_S for death in deaths)
    return RESTART_DELAYS_S[recent - 1] if recent <= len(RESTART_DELAYS_S) else None
