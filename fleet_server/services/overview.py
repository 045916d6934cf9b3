"""Devices as people see them: read-only queries behind the API and the pages. Nothing here writes.

Every function takes an open database session and the time; lists are paged by key, so a page costs the same at the end of a
large fleet as at its beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from fleet_protocol import messages
from fleet_protocol.errors import FleetError, NotFound
from fleet_protocol.sketch import Sketch
from fleet_server.clones import ALARM
from fleet_server.db.models import (
    Assignment,
    Audit,
    DeploymentEvent,
    Desired,
    Device,
    LatestHealth,
    Release,
    RolloutDevice,
    Variant,
)
from fleet_server.services.explanations import DeviceFacts, explain
from fleet_server.services.views import (
    AttemptView,
    Counts,
    DeviceDetail,
    DevicePage,
    DeviceView,
    EventView,
    ModelView,
    Presence,
    SlotView,
)

MAX_PAGE: Final = 200
SILENT_AFTER_S: Final = 120.0
"""Four missed reports at the usual cadence of 30 s: connected, but no longer to be believed."""
_ALARM_S: Final = 86_400.0
"""So long after it was last seen a second machine with the device's identity is shown; while both run it is seen hourly."""
_TIMELINE: Final = 100
_ATTEMPTS: Final = 20


def counts(db: Session) -> Counts:
    """The fleet in five numbers. On target: every desired slot is what the newest heartbeat says is served."""
    active = Device.state == "active"
    devices = db.scalar(select(func.count()).select_from(Device).where(active)) or 0
    online = db.scalar(select(func.count()).select_from(Device).where(active, Device.online)) or 0
    revoked = db.scalar(select(func.count()).select_from(Device).where(Device.state == "revoked")) or 0
    wanted: dict[str, bool] = {}
    rows = db.execute(
        select(Desired.device_id, Desired.slot, Desired.manifest_sha256, LatestHealth.served)
        .join(Device, Device.id == Desired.device_id)
        .outerjoin(LatestHealth, LatestHealth.device_id == Desired.device_id)
        .where(active)
    )
    for device, slot, digest, served in rows:
        wanted[device] = wanted.get(device, True) and (served or {}).get(slot) == digest
    on_target = sum(wanted.values())
    return Counts(devices, online, on_target, len(wanted) - on_target, devices - len(wanted), revoked)


def device_page(
    db: Session, *, now: float, text: str = "", board: str = "", presence: str = "", after: str = "", limit: int = 50
) -> DevicePage:
    """Devices whose id, board or a tag contains ``text``, in order of id. ``presence``: online, offline, revoked or ""."""
    limit = max(1, min(limit, MAX_PAGE))
    query = select(Device).where(Device.id > after).order_by(Device.id).limit(limit + 1)
    if text:
        like = f"%{_escaped(text)}%"
        query = query.where(or_(Device.id.like(like, escape="\\"), Device.board.like(like, escape="\\")))
    if board:
        query = query.where(Device.board == board)
    if presence == "revoked":
        query = query.where(Device.state == "revoked")
    elif presence in {"online", "offline"}:
        query = query.where(Device.state == "active", Device.online.is_(presence == "online"))
    found = list(db.scalars(query))
    views = device_views(db, found[:limit], now=now)
    return DevicePage(views, found[limit - 1].id if len(found) > limit else None)


def device_views(db: Session, devices: Sequence[Device], *, now: float) -> tuple[DeviceView, ...]:
    """The views of ``devices`` in their order, by four queries however many they are."""
    ids = [device.id for device in devices]
    latest = {row.device_id: row for row in db.scalars(select(LatestHealth).where(LatestHealth.device_id.in_(ids)))}
    desired: dict[str, dict[str, str]] = {}
    for row in db.scalars(select(Desired).where(Desired.device_id.in_(ids))):
        desired.setdefault(row.device_id, {})[row.slot] = row.manifest_sha256
    reports = {device: _report(row) for device, row in latest.items()}
    names = model_names(
        db,
        {digest for row in latest.values() for digest in row.served.values()}
        | {digest for slots in desired.values() for digest in slots.values()},
    )
    return tuple(
        _device_view(device, reports.get(device.id), desired.get(device.id, {}), names, now=now) for device in devices
    )


def device_detail(db: Session, device_id: str, *, now: float) -> DeviceDetail:
    """Everything about one device; raises NotFound."""
    device = db.get(Device, device_id)
    if device is None:
        raise NotFound(f"there is no device {device_id[:80]}; `fleetctl device list` shows them")
    (view,) = device_views(db, [device], now=now)
    attempts = device_attempts(db, device_id)
    assignment = db.get(Assignment, device_id)
    published_at = assignment.published_at if assignment else None
    latest = db.get(LatestHealth, device_id)
    report = _report(latest) if latest else None
    facts = DeviceFacts(
        view.presence, view.last_seen, view.slots, attempts, device.assignment_seq, published_at,
        cloned=_clone_alarm(db, device_id, now=now),
    )  # fmt: skip
    return DeviceDetail(
        device=view,
        why=explain(facts, now=now),
        enrolled_at=device.enrolled_at,
        certificate_serial=device.serial,
        fingerprint=device.fingerprint,
        assignment_seq=device.assignment_seq,
        assignment_published_at=published_at,
        agent_version=report.agent_version if report else "",
        memory_used_bytes=report.memory_used_bytes if report else None,
        memory_total_bytes=report.memory_total_bytes if report else None,
        disk_free_bytes=report.disk_free_bytes if report else None,
        uptime_s=report.uptime_s if report else None,
        attempts=attempts,
        timeline=_timeline(db, device_id),
    )


def device_attempts(db: Session, device_id: str) -> tuple[AttemptView, ...]:
    """What rollouts tried on a device, newest rollout first."""
    query = select(RolloutDevice).where(RolloutDevice.device_id == device_id)
    return attempt_views(db, db.scalars(query.order_by(RolloutDevice.rollout_id.desc()).limit(_ATTEMPTS)).all())


def attempt_views(db: Session, rows: Sequence[RolloutDevice]) -> tuple[AttemptView, ...]:
    """The views of ``rows`` in their order."""
    names = model_names(db, {row.manifest_sha256 for row in rows})
    return tuple(
        AttemptView(
            rollout_id=row.rollout_id,
            device_id=row.device_id,
            wave=row.wave,
            slot=row.slot,
            model=names[row.manifest_sha256],
            state=row.state,
            state_since=row.state_since,
            assigned_at=row.assigned_at,
            confirmed_at=row.confirmed_at,
            restored_at=row.restored_at,
            code=row.code,
            detail=row.detail,
        )
        for row in rows
    )


def model_names(db: Session, digests: Iterable[str]) -> dict[str, ModelView]:
    """Names of manifests; a digest that the registry does not know keeps only itself."""
    wanted = {digest for digest in digests if digest}
    known = db.execute(
        select(Variant.manifest_sha256, Release.model, Release.version, Variant.name)
        .join(Release, Release.id == Variant.release_id)
        .where(Variant.manifest_sha256.in_(wanted))
    )
    return {digest: ModelView(digest) for digest in wanted} | {row[0]: ModelView(*row) for row in known}


def presence_of(device: Device, *, now: float) -> Presence:
    """What can be said of a device's connection."""
    if device.state == "revoked":
        return "revoked"
    if device.last_seen is None:
        return "never"
    if not device.online:
        return "offline"
    return "silent" if now - device.last_seen > SILENT_AFTER_S else "online"


def _clone_alarm(db: Session, device_id: str, *, now: float) -> str:
    query = select(Audit.reason).where(
        Audit.subject == f"device:{device_id}", Audit.action == ALARM, Audit.at > now - _ALARM_S
    )
    return db.scalar(query.order_by(Audit.id.desc()).limit(1)) or ""


def _timeline(db: Session, device_id: str) -> tuple[EventView, ...]:
    query = select(DeploymentEvent).where(DeploymentEvent.device_id == device_id)
    rows = db.scalars(query.order_by(DeploymentEvent.id.desc()).limit(_TIMELINE)).all()
    names = model_names(db, {row.manifest_sha256 for row in rows})
    return tuple(
        EventView(
            id=row.id,
            received_at=row.received_at,
            slot=row.slot,
            model=names.get(row.manifest_sha256, ModelView(row.manifest_sha256)),
            state=row.state,
            code=row.code,
            detail=row.detail,
            assignment_seq=row.assignment_seq,
            execution=row.execution,
            version=row.version,
            fault=row.fault,
        )
        for row in rows
    )


def _report(row: LatestHealth) -> messages.HealthReport | None:
    # Written by this server after it had parsed it; a later schema may still not read it, and then the row shows less.
    try:
        return messages.decode(row.report, messages.HealthReport)
    except FleetError:
        return None


def _device_view(
    device: Device,
    report: messages.HealthReport | None,
    desired: Mapping[str, str],
    names: Mapping[str, ModelView],
    *,
    now: float,
) -> DeviceView:
    health = {slot.slot: slot for slot in report.slots} if report else {}
    return DeviceView(
        id=device.id,
        board=device.board,
        state=device.state,
        online=device.online,
        presence=presence_of(device, now=now),
        last_seen=device.last_seen,
        tags=device.tags,
        temperature_celsius=report.temperature_celsius if report else None,
        cpu_percent=report.cpu_percent if report else None,
        slots=tuple(
            _slot_view(slot, health.get(slot), desired.get(slot), names) for slot in sorted({*health, *desired})
        ),
    )


def _slot_view(
    slot: str, health: messages.SlotHealth | None, desired: str | None, names: Mapping[str, ModelView]
) -> SlotView:
    served = health.served_sha256 if health else ""
    serves = None
    if health and served:
        serves = names.get(served, ModelView(served, health.model, health.version))
    return SlotView(
        slot=slot,
        serves=serves,
        desired=names[desired] if desired else None,
        is_desired=served == (desired or ""),
        fps=health.fps if health else None,
        p95_ms=_p95(health.latency) if health else None,
        frames=health.frames if health else 0,
        errors=health.errors if health else 0,
    )


def _p95(latency: bytes) -> float | None:
    try:
        return Sketch.decode(latency).quantile(0.95) if latency else None
    except FleetError:
        return None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
