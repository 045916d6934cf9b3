"""What the API and the pages show: frozen values, already joined and named. Times in Unix seconds, digests in full.

Every view is made by :mod:`fleet_server.services.overview`; the API serialises them as they stand, so a field here is a
field of the public API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fleet_server.rollout.membership import Excluded, PlannedDevice, PlannedWave

ClaimState = Literal["open", "used", "expired", "revoked"]
Presence = Literal["online", "silent", "offline", "never", "revoked"]
"""silent: the broker holds its connection but no report came for a while; never: enrolled, not heard of yet."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """A manifest digest with the names that the registry knows for it; ``model`` is empty where it knows none."""

    manifest_sha256: str
    model: str = ""
    version: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class SlotView:
    """One slot of a device: what it serves (None: nothing), what it shall serve, and how it does."""

    slot: str
    serves: ModelView | None
    desired: ModelView | None
    is_desired: bool
    fps: float | None
    p95_ms: float | None
    frames: int
    errors: int


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device as its newest report described it."""

    id: str
    board: str
    state: str
    online: bool
    presence: Presence
    last_seen: float | None
    tags: Mapping[str, str]
    temperature_celsius: float | None
    cpu_percent: float | None
    slots: tuple[SlotView, ...]


@dataclass(frozen=True, slots=True)
class DevicePage:
    """A page of devices in order of id; ``next_after`` is the ``after`` of the next page, None on the last."""

    devices: tuple[DeviceView, ...]
    next_after: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a device is (not) on its desired release: a verdict, one sentence, and what a person can do."""

    verdict: Literal["up-to-date", "updating", "waiting", "blocked"]
    sentence: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class EventView:
    """One deployment report of a device as it came; ``fault`` says why it was not believed, empty where it was."""

    id: int
    received_at: float
    slot: str
    model: ModelView
    state: str
    code: str
    detail: str
    assignment_seq: int
    execution: int
    version: int
    fault: str


@dataclass(frozen=True, slots=True)
class AttemptView:
    """A rollout's attempt at a device."""

    rollout_id: int
    device_id: str
    wave: int
    slot: str
    model: ModelView
    state: str
    state_since: float
    assigned_at: float
    confirmed_at: float | None
    restored_at: float | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class DeviceDetail:
    """Everything about one device: registry, newest report, explanation, attempts and timeline (newest first)."""

    device: DeviceView
    why: Explanation
    enrolled_at: float
    certificate_serial: str
    fingerprint: Mapping[str, str] | None
    assignment_seq: int
    assignment_published_at: float | None
    agent_version: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    disk_free_bytes: int | None
    uptime_s: float | None
    attempts: tuple[AttemptView, ...]
    timeline: tuple[EventView, ...]


@dataclass(frozen=True, slots=True)
class WaveView:
    """One wave with its denominator shown: ``members`` expected, ``assigned`` so far, and where those are.

    ``confirmed``: COMMITTED and a heartbeat said so. ``restored``: back on the model before. ``bake_left_s``: None unless
    the wave bakes.
    """

    number: int
    title: str
    state: str
    members: int
    assigned: int
    confirmed: int
    in_flight: int
    failed: int
    timed_out: int
    restored: int
    opened_at: float | None
    baking_since: float | None
    finished_at: float | None
    bake_left_s: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A release on its way, with its waves."""

    id: int
    release_id: int
    model: str
    version: str
    slot: str
    selector: str
    state: str
    reason: str
    created_at: float
    created_by: str
    started_at: float | None
    finished_at: float | None
    revision: int
    policy: Mapping[str, Any]
    waves: tuple[WaveView, ...]


@dataclass(frozen=True, slots=True)
class PreviewView:
    """What a rollout would do. ``devices`` and ``excluded`` are the first thousand of each, the totals are whole.

    ``salt``: give it to ``create`` and the rollout begins with these devices. ``download_bytes``: over all devices at most.
    """

    salt: int
    waves: tuple[PlannedWave, ...]
    members: int
    download_bytes: int
    devices: tuple[PlannedDevice, ...]
    excluded_total: int
    excluded: tuple[Excluded, ...]


@dataclass(frozen=True, slots=True)
class VariantView:
    """One variant of a release: its digest, target path, the boards that it is made for, sealed size in bytes."""

    name: str
    manifest_sha256: str
    target_path: str
    boards: tuple[str, ...]
    runtime: str
    precision: str
    metric: str
    value: float
    baseline: float
    latency_p95_ms: float | None
    blob_sha256: str
    blob_bytes: int


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """One version of a model with its variants in order of preference."""

    id: int
    model: str
    version: str
    slot: str
    counter: int
    created_at: float
    created_by: str
    variants: tuple[VariantView, ...]


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A claim without its secret. ``used_by``: digest of the device's keys that redeemed it, hexadecimal."""

    id: str
    device_id: str
    board: str
    tags: dict[str, str]
    state: ClaimState
    created_at: float
    created_by: str
    expires_at: float
    used_at: float | None
    used_by: str | None
    revoked_at: float | None
    revoked_by: str | None
    revoked_because: str | None


@dataclass(frozen=True, slots=True)
class AuditView:
    """Who did what, when and why."""

    id: int
    at: float
    who: str
    action: str
    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class Counts:
    """The fleet in five numbers: active devices, and how many of them are connected, on target, behind, without a target."""

    devices: int
    online: int
    on_target: int
    behind: int
    unassigned: int
    revoked: int
