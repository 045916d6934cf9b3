"""What the agent's parts ask of each other. Only ``agent.py`` knows the concrete classes behind these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fleet_protocol.identifiers import Digest, SlotName
from fleet_protocol.manifest import Manifest
from fleet_protocol.messages import SlotHealth

Clock = Callable[[], float]
"""Unix seconds, as the system has them; may be wrong by decades (SPEC 6.3)."""


@dataclass(frozen=True, slots=True)
class SealedModel:
    """A downloaded, authenticated, still encrypted model: all that a worker needs to serve it.

    ``blob``: the ciphertext file. ``key``: its content key; lives in memory only, never printed, never written.
    """

    manifest: Manifest
    digest: Digest
    blob: Path
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """Outcome of the golden frames on this device: how far off, how fast (ms)."""

    frames: int
    worst_error: float
    latency_p95_ms: float


@dataclass(frozen=True, slots=True)
class BakeWindow:
    """What the serving worker of a slot did since the last switch.

    ``errors`` of the ``frames`` tried failed; ``p95_ms`` is None before the first that did not. A worker that died once
    stays dead here, even where it was started again: it is the model that is judged.
    """

    frames: int
    errors: int
    p95_ms: float | None
    is_alive: bool
    cause_of_death: str = ""


class Inference(Protocol):
    """The inference side as the updater sees it. Blocking; every method may be called from one runner thread only."""

    def serving(self, slot: SlotName) -> Digest | None:
        """Digest that the slot's runtime holds and serves now; None where nothing is served."""
        ...

    def stage(self, model: SealedModel) -> Proof:
        """Start a second worker, load, warm up, replay the golden frames; the old worker keeps serving.

        Raises ProofError (ModelNotLoadable, GoldenFramesDiffer, LatencyOverBudget, WorkerDied); then nothing is staged.
        """
        ...

    def switch(self, slot: SlotName) -> None:
        """Send the next frame to the staged worker. The old worker stays resident until ``commit``."""
        ...

    def bake_window(self, slot: SlotName) -> BakeWindow:
        """What happened since ``switch``."""
        ...

    def commit(self, slot: SlotName) -> None:
        """Stop the old worker."""
        ...

    def revert(self, slot: SlotName) -> None:
        """Return to the old worker at once and stop the new one. Safe to call twice, and where there was no old one."""
        ...

    def serve(self, model: SealedModel) -> None:
        """At boot: load and serve without golden frames' verdict being needed again. Raises ProofError."""
        ...

    def discard(self, slot: SlotName) -> None:
        """Stop a staged worker that will not be switched to. Safe where nothing is staged."""
        ...

    def stop(self, slot: SlotName) -> None:
        """Stop every worker of a slot: the desired state no longer names it. Safe where nothing is served."""
        ...

    def slot_health(self) -> tuple[SlotHealth, ...]:
        """One entry per configured slot for the interval since the last call."""
        ...

    def close(self) -> None:
        """Stop every worker and source."""
        ...


class Transport(Protocol):
    """MQTT as the agent needs it. ``publish`` returns once the broker has acknowledged."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Raises BrokerUnreachable where no acknowledgement came within the transport's limit."""
        ...

    def subscribe(self, topics: Sequence[str]) -> None: ...

    def unsubscribe(self, topics: Sequence[str]) -> None: ...

    @property
    def is_connected(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """What the updater knows and every health report repeats: how far the device's trust has come (SPEC 6.4, 10.2).

    ``trusted_time_s``: Unix seconds below which the device does not believe its clock.
    """

    assignment_seq: int = 0
    root_version: int = 0
    timestamp_version: int = 0
    trusted_time_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """The board at one moment. ``cpu_percent``: share of all cores in use since the last sample; memory and disk in bytes;
    ``temperature_celsius``: the hottest sensor, None where there is none.
    """

    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    agent_rss_bytes: int
    disk_free_bytes: int
    temperature_celsius: float | None


class Sensors(Protocol):
    """What the board can tell about itself."""

    def sample(self, worker_pids: Sequence[int]) -> Vitals:
        """Measure now; the resident memory of ``worker_pids`` counts as the agent's. Never raises for a missing sensor."""
        ...


class Spool(Protocol):
    """Reports on their way out: on disk, bounded, states before samples (SPEC 10.4)."""

    def put(self, topic: str, payload: bytes, *, is_state: bool) -> None:
        """Keep a report until it was delivered; where the spool is full the oldest sample goes first, a state never."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Block until something is waiting or the time is over; whether something is waiting."""
        ...
