"""Rollouts, releases and the audit as people see them: the read-only companion of :mod:`overview`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet_protocol import manifest as manifests
from fleet_protocol.errors import NotFound, StateTimedOut
from fleet_protocol.states import UNSUCCESSFUL, DeploymentState
from fleet_server.db.models import Audit, Device, Release, Rollout, RolloutDevice, Variant, Wave
from fleet_server.rollout.membership import Preview
from fleet_server.services.overview import MAX_PAGE, attempt_views
from fleet_server.services.views import (
    AttemptView,
    AuditView,
    PreviewView,
    ReleaseView,
    RolloutView,
    VariantView,
    WaveView,
)

MAX_LISTED: Final = 1000
"""Devices named in a preview; a fleet of a million is told in totals."""


@dataclass(slots=True)
class _Tally:
    """Where the devices of one wave are. ``withdrawn``: taken back before they had come to an end of their own."""

    assigned: int = 0
    confirmed: int = 0
    failed: int = 0
    timed_out: int = 0
    restored: int = 0
    withdrawn: int = 0

    def add(self, state: str, code: str, *, is_confirmed: bool, is_restored: bool, number: int) -> None:
        self.assigned += number
        self.restored += number if is_restored else 0
        if code == StateTimedOut.code:
            self.timed_out += number
        elif state in UNSUCCESSFUL:
            self.failed += number
        elif is_restored:
            self.withdrawn += number
        elif state == DeploymentState.COMMITTED and is_confirmed:
            self.confirmed += number

    @property
    def in_flight(self) -> int:
        """Assigned, and neither proven, lost nor taken back: COMMITTED without a heartbeat counts here."""
        return self.assigned - self.confirmed - self.failed - self.timed_out - self.withdrawn


def rollout_view(db: Session, rollout_id: int, *, now: float) -> RolloutView:
    """One rollout; raises NotFound."""
    rollout = db.get(Rollout, rollout_id)
    if rollout is None:
        raise NotFound(f"there is no rollout {rollout_id}; `fleetctl rollout list` shows them")
    return _rollout_views(db, [rollout], now=now)[0]


def rollout_views(db: Session, *, now: float, before: int | None = None, limit: int = 50) -> tuple[RolloutView, ...]:
    """Rollouts, newest first; ``before``: only older ones than this id."""
    query = select(Rollout).order_by(Rollout.id.desc()).limit(max(1, min(limit, MAX_PAGE)))
    if before is not None:
        query = query.where(Rollout.id < before)
    return _rollout_views(db, db.scalars(query).all(), now=now)


def rollout_devices(db: Session, rollout_id: int, *, after: str = "", limit: int = MAX_PAGE) -> tuple[AttemptView, ...]:
    """The devices that a rollout has assigned, in order of id after ``after``."""
    query = select(RolloutDevice).where(RolloutDevice.rollout_id == rollout_id, RolloutDevice.device_id > after)
    query = query.order_by(RolloutDevice.device_id).limit(max(1, min(limit, MAX_PAGE)))
    return attempt_views(db, db.scalars(query).all())


def preview_view(preview: Preview) -> PreviewView:
    """A preview with its lists cut to what a person reads; the totals are whole."""
    return PreviewView(
        salt=preview.salt,
        waves=preview.waves,
        members=len(preview.devices),
        download_bytes=preview.download_bytes,
        devices=preview.devices[:MAX_LISTED],
        excluded_total=len(preview.excluded),
        excluded=preview.excluded[:MAX_LISTED],
    )


def release_view(db: Session, release_id: int) -> ReleaseView:
    """One release; raises NotFound."""
    release = db.get(Release, release_id)
    if release is None:
        raise NotFound(f"there is no release {release_id}; `fleetctl release list` shows them")
    return _release_views(db, [release])[0]


def release_views(db: Session, *, before: int | None = None, limit: int = 50) -> tuple[ReleaseView, ...]:
    """Releases, newest first."""
    query = select(Release).order_by(Release.id.desc()).limit(max(1, min(limit, MAX_PAGE)))
    if before is not None:
        query = query.where(Release.id < before)
    return _release_views(db, db.scalars(query).all())


def audit_views(db: Session, *, before: int | None = None, limit: int = 50) -> tuple[AuditView, ...]:
    """The audit, newest first; ``before``: only older entries than this id."""
    query = select(Audit).order_by(Audit.id.desc()).limit(max(1, min(limit, MAX_PAGE)))
    if before is not None:
        query = query.where(Audit.id < before)
    return tuple(AuditView(row.id, row.at, row.who, row.action, row.subject, row.reason) for row in db.scalars(query))


def _rollout_views(db: Session, rollouts: Sequence[Rollout], *, now: float) -> tuple[RolloutView, ...]:
    ids = [rollout.id for rollout in rollouts]
    releases = {
        row.id: row for row in db.scalars(select(Release).where(Release.id.in_({each.release_id for each in rollouts})))
    }
    waves: dict[int, list[Wave]] = {}
    for wave in db.scalars(select(Wave).where(Wave.rollout_id.in_(ids)).order_by(Wave.rollout_id, Wave.number)):
        waves.setdefault(wave.rollout_id, []).append(wave)
    tallies = _tallies(db, ids)
    return tuple(
        _rollout_view(rollout, releases[rollout.release_id], waves.get(rollout.id, ()), tallies, now=now)
        for rollout in rollouts
    )


def _tallies(db: Session, rollout_ids: Sequence[int]) -> dict[tuple[int, int], _Tally]:
    is_confirmed = RolloutDevice.confirmed_at.is_not(None)
    is_restored = RolloutDevice.restored_at.is_not(None)
    key = (RolloutDevice.rollout_id, RolloutDevice.wave, RolloutDevice.state, RolloutDevice.code)
    query = select(*key, is_confirmed, is_restored, func.count()).join(Device, Device.id == RolloutDevice.device_id)
    # A revoked device is evidence of nothing, here as for the planner.
    query = query.where(RolloutDevice.rollout_id.in_(rollout_ids), Device.state == "active")
    tallies: dict[tuple[int, int], _Tally] = {}
    for rollout, wave, state, code, confirmed, restored, number in db.execute(
        query.group_by(*key, is_confirmed, is_restored)
    ):
        tally = tallies.setdefault((rollout, wave), _Tally())
        tally.add(state, code, is_confirmed=confirmed, is_restored=restored, number=number)
    return tallies


def _rollout_view(
    rollout: Rollout,
    release: Release,
    waves: Iterable[Wave],
    tallies: Mapping[tuple[int, int], _Tally],
    *,
    now: float,
) -> RolloutView:
    return RolloutView(
        id=rollout.id,
        release_id=release.id,
        model=release.model,
        version=release.version,
        slot=release.slot,
        selector=rollout.selector,
        state=rollout.state,
        reason=rollout.reason,
        created_at=rollout.created_at,
        created_by=rollout.created_by,
        started_at=rollout.started_at,
        finished_at=rollout.finished_at,
        revision=rollout.revision,
        policy=rollout.policy,
        waves=tuple(
            _wave_view(wave, rollout.policy, tallies.get((rollout.id, wave.number), _Tally()), now=now)
            for wave in waves
        ),
    )


def _wave_view(wave: Wave, policy: Mapping[str, Any], tally: _Tally, *, now: float) -> WaveView:
    bake_left_s = None
    if wave.state == "BAKING" and wave.baking_since is not None:
        bake_left_s = max(0.0, wave.baking_since + float(policy.get("bake_s", 0.0)) - now)
    return WaveView(
        number=wave.number,
        title=wave.title,
        state=wave.state,
        members=wave.members,
        assigned=tally.assigned,
        confirmed=tally.confirmed,
        in_flight=tally.in_flight,
        failed=tally.failed,
        timed_out=tally.timed_out,
        restored=tally.restored,
        opened_at=wave.opened_at,
        baking_since=wave.baking_since,
        finished_at=wave.finished_at,
        bake_left_s=bake_left_s,
        verdict=wave.verdict,
    )


def _release_views(db: Session, releases: Sequence[Release]) -> tuple[ReleaseView, ...]:
    variants: dict[int, list[VariantView]] = {}
    query = select(Variant).where(Variant.release_id.in_([release.id for release in releases]))
    for row in db.scalars(query.order_by(Variant.release_id, Variant.position)):
        variants.setdefault(row.release_id, []).append(_variant_view(row))
    return tuple(
        ReleaseView(
            id=row.id,
            model=row.model,
            version=row.version,
            slot=row.slot,
            counter=row.counter,
            created_at=row.created_at,
            created_by=row.created_by,
            variants=tuple(variants.get(row.id, ())),
        )
        for row in releases
    )


def _variant_view(row: Variant) -> VariantView:
    manifest = manifests.parse(row.manifest)
    return VariantView(
        name=row.name,
        manifest_sha256=row.manifest_sha256,
        target_path=row.target_path,
        boards=manifest.boards,
        runtime=manifest.runtime.name,
        precision=manifest.runtime.precision,
        metric=manifest.measured.metric,
        value=manifest.measured.value,
        baseline=manifest.measured.baseline,
        latency_p95_ms=manifest.measured.latency_p95_ms,
        blob_sha256=row.blob_sha256,
        blob_bytes=row.blob_bytes,
    )
