"""From batches of messages to rows: one transaction per batch, acknowledged by the caller only after it committed.

What is believed is decided in ``fleet_server.ingest``; here are the rows around it. Every batch first writes the devices'
``last_seen``: that takes the rows' locks (PostgreSQL) or the write lock (SQLite), so what is read afterwards stays true.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import case, delete, func, insert, select, update
from sqlalchemy.orm import Session, sessionmaker

from fleet_protocol.errors import MalformedInput, StateTimedOut
from fleet_protocol.identifiers import DeviceId, Digest
from fleet_protocol.messages import DeploymentReport, HealthReport, Message, MissingChunks, Presence
from fleet_protocol.states import TERMINAL, UNSUCCESSFUL, DeploymentState
from fleet_server import ingest as rules
from fleet_server.changes import ChangeFeed
from fleet_server.clones import ALARM, CloneWatch
from fleet_server.db.models import (
    Audit,
    DeploymentEvent,
    Desired,
    Device,
    HealthHistory,
    LatestHealth,
    Rollout,
    RolloutDevice,
)
from fleet_server.ports import Incoming
from fleet_server.rollout.view import LIVE, custody

MAX_BATCH: Final = 2000
COMPLAINT_EVERY_S: Final = 3600.0
WATCHED_AFTER_END_S: Final = 7 * 86_400.0
"""Heartbeats are still held against a rollout's devices this long after it ended."""
_MAX_COMPLAINTS: Final = 10_000
_MAX_REASON: Final = 400


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a batch. ``missing``: chunks that devices ask for again; the caller publishes them."""

    taken: int
    malformed: int
    disbelieved: int
    missing: tuple[tuple[DeviceId, MissingChunks], ...]


@dataclass(slots=True)
class _Outcome:
    """What one batch came to, before it is committed."""

    changed: set[tuple[str, str]] = field(default_factory=set)
    history: list[dict[str, Any]] = field(default_factory=list)
    missing: list[tuple[DeviceId, MissingChunks]] = field(default_factory=list)
    complaints: dict[tuple[DeviceId, str], str] = field(default_factory=dict)
    taken: int = 0
    malformed: int = 0
    disbelieved: int = 0

    def refuse(self, incoming: Incoming, reason: str) -> None:
        self.malformed += 1
        self.complaints.setdefault((incoming.device, "ingest.refused"), f"{incoming.topic.name}: {reason}")


class Ingest:
    """Writes what devices say. One instance, one thread; the rows' locks keep it apart from the rollouts' ticks."""

    def __init__(self, sessions: sessionmaker[Session], changes: ChangeFeed) -> None:
        """``sessions`` begins writing transactions."""
        self._sessions = sessions
        self._changes = changes
        self._complained_at: dict[tuple[DeviceId, str], float] = {}
        self._clones = CloneWatch()

    def apply(self, batch: Sequence[Incoming], now: float) -> Ingested:
        """Take in at most MAX_BATCH messages in one transaction. Nothing that a device sends makes it raise."""
        outcome = _Outcome()
        messages = list(_decoded(batch[:MAX_BATCH], outcome))
        with self._sessions.begin() as session:
            desk = _Desk(session, messages, outcome, now)
            for incoming, message in messages:
                desk.take(incoming, message)
                self._compare_boots(incoming.device, message, outcome)
            if outcome.history:
                session.execute(insert(HealthHistory), outcome.history)
            self._complain(session, outcome, now)
        for topic, subject in sorted(outcome.changed):
            self._changes.publish(topic, subject)
        return Ingested(outcome.taken, outcome.malformed, outcome.disbelieved, tuple(outcome.missing))

    def prune(self, now: float, *, limit: int = 5000) -> int:
        """Delete at most ``limit`` rows of history that are too old; how many. Called again until it returns 0."""
        with self._sessions.begin() as session:
            old = select(HealthHistory.id).where(HealthHistory.at < now - rules.HISTORY_S).limit(limit)
            ids = session.scalars(old).all()
            session.execute(delete(HealthHistory).where(HealthHistory.id.in_(ids)))
        return len(ids)

    def _compare_boots(self, device: DeviceId, message: Message, outcome: _Outcome) -> None:
        if isinstance(message, HealthReport) and (reason := self._clones.hear(device, message.boot_id, message.seq)):
            outcome.complaints.setdefault((device, ALARM), reason)

    def _complain(self, session: Session, outcome: _Outcome, now: float) -> None:
        # Once per device, kind and hour: a broken device must not fill the audit.
        for about, reason in outcome.complaints.items():
            if now - self._complained_at.get(about, -COMPLAINT_EVERY_S) < COMPLAINT_EVERY_S:
                continue
            if len(self._complained_at) >= _MAX_COMPLAINTS:
                self._complained_at.clear()
            self._complained_at[about] = now
            device, action = about
            clipped = rules.text(reason, _MAX_REASON)
            session.add(Audit(at=now, who=device, action=action, subject=f"device:{device}", reason=clipped))


def _decoded(batch: Iterable[Incoming], outcome: _Outcome) -> Iterable[tuple[Incoming, Message]]:
    for incoming in batch:
        try:
            yield incoming, rules.decode(incoming)
        except MalformedInput as error:
            outcome.refuse(incoming, str(error))


class _Desk:
    """The rows that one batch is about, read once and written back by the session."""

    def __init__(
        self, session: Session, messages: Sequence[tuple[Incoming, Message]], outcome: _Outcome, now: float
    ) -> None:
        self._session = session
        self._outcome = outcome
        self._now = now
        named = {incoming.device for incoming, _ in messages}
        _mark_alive(session, messages, named, now)
        self._devices = {row.id: row for row in session.scalars(select(Device).where(Device.id.in_(named)))}
        self._latest = {
            row.device_id: row for row in session.scalars(select(LatestHealth).where(LatestHealth.device_id.in_(named)))
        }
        self._desired = {
            (row.device_id, row.slot): row
            for row in session.scalars(select(Desired).where(Desired.device_id.in_(named)))
        }
        self._live, self._attempts = _attempts(session, named, self._desired.values(), now)
        self._events = _newest_events(session, messages)

    def take(self, incoming: Incoming, message: Message) -> None:
        """Write down one message, if its device may speak."""
        device = self._devices.get(incoming.device)
        if device is None:
            self._outcome.refuse(incoming, "this device is not in the registry")
            return
        is_active = device.state == "active"
        match message:
            case DeploymentReport():
                self._deployment(device, message, "" if is_active else f"the device is {device.state}")
            case _ if not is_active:
                self._outcome.refuse(incoming, f"the device is {device.state}")
                return
            case Presence():
                device.online = message.online
            case HealthReport():
                self._health(device, message)
            case MissingChunks():
                self._outcome.missing.append((incoming.device, message))
        self._outcome.taken += 1
        self._outcome.changed.add(("device", device.id))

    def _health(self, device: Device, report: HealthReport) -> None:
        latest = self._latest.get(device.id)
        is_late = latest is not None and report.seq <= latest.seq
        at = rules.history_time(report, self._now)
        if is_late and self._is_in_history(device.id, at):
            return
        self._outcome.history.extend(_history_rows(device.id, at, report))
        if is_late:
            return  # from a spool: history, but no news of what is served now
        if latest is None:
            latest = self._latest[device.id] = LatestHealth(device_id=device.id)
            self._session.add(latest)
        served = rules.served_by(report)
        latest.seq, latest.at, latest.received_at, latest.served = report.seq, report.at, self._now, served
        latest.report = msgspec.msgpack.encode(report)
        if device.fingerprint != (fingerprint := _fingerprint(report)):
            device.fingerprint = fingerprint
        for row in self._attempts.get(device.id, ()):
            self._compare(device, row, served.get(row.slot, ""), report.assignment_seq)

    def _compare(self, device: Device, row: RolloutDevice, served: str, accepted_seq: int) -> None:
        attempt = self._attempt(row)
        sign = rules.read_heartbeat(attempt, served, accepted_seq=accepted_seq, issued_seq=device.assignment_seq)
        match sign:
            case rules.Sign.NOTHING_NEW:
                return
            case rules.Sign.CONFIRMED:
                row.confirmed_at = self._now
            case rules.Sign.NOT_SERVED:
                row.confirmed_at = None
                if attempt.state is DeploymentState.COMMITTED:
                    row.state_since = self._now  # it may still come back; the limit for COMMITTED runs from here
            case rules.Sign.RESTORED:
                row.restored_at = self._now
            case rules.Sign.SERVED_AGAIN:
                row.restored_at = None
        self._outcome.changed.add(("rollout", str(row.rollout_id)))

    def _deployment(self, device: Device, report: DeploymentReport, fault: str) -> None:
        if self._events.get((device.id, report.slot)) == _key(report):
            return  # devices repeat their newest report on every connection (SPEC 8.4)
        row = self._row_for(device, report)
        try:
            fault = fault or self._judged(device, row, report)
        except rules.Repeated:
            return
        if fault:
            self._outcome.disbelieved += 1
        elif row is not None:
            self._move(row, report)
        self._session.add(_event(device.id, report, fault, self._now))
        self._events[device.id, report.slot] = _key(report)

    def _row_for(self, device: Device, report: DeploymentReport) -> RolloutDevice | None:
        # A later assignment may repeat the item because another slot changed, so the report's seq may be higher.
        fitting = [
            row
            for row in self._attempts.get(device.id, ())
            if row.slot == report.slot
            and row.manifest_sha256 == report.manifest_sha256
            and row.assignment_seq <= report.assignment_seq
            # An attempt that has ended stays as it ended: what a device does under a later assignment (a return to this
            # model, a renewed signature) is another execution and no contradiction.
            and not (row.state in TERMINAL and row.assignment_seq < report.assignment_seq)
        ]
        return max(fitting, key=lambda row: row.assignment_seq, default=None)

    def _judged(self, device: Device, row: RolloutDevice | None, report: DeploymentReport) -> str:
        if not 0 < report.assignment_seq <= device.assignment_seq:
            return f"assignment {report.assignment_seq} was never issued to it, the newest is {device.assignment_seq}"
        return rules.disbelief(self._attempt(row), report) if row is not None else ""

    def _move(self, row: RolloutDevice, report: DeploymentReport) -> None:
        row.state, row.execution, row.version = report.state, report.execution, report.version
        row.state_since = self._now
        is_failure = report.state in UNSUCCESSFUL
        row.code = rules.text(report.code, rules.MAX_CODE) if is_failure else ""
        row.detail = rules.text(report.detail, rules.MAX_DETAIL) if is_failure else ""
        self._outcome.changed.add(("rollout", str(row.rollout_id)))

    def _attempt(self, row: RolloutDevice) -> rules.Attempt:
        manifest, desired = Digest(row.manifest_sha256), self._desired.get((row.device_id, row.slot))
        return rules.Attempt(
            manifest=manifest,
            assignment_seq=row.assignment_seq,
            state=DeploymentState(row.state),
            execution=row.execution,
            version=row.version,
            is_given_up=row.code == StateTimedOut.code,
            is_confirmed=row.confirmed_at is not None,
            is_restored=row.restored_at is not None,
            custody=custody(
                manifest,
                row.rollout_id,
                desired=None if desired is None else Digest(desired.manifest_sha256),
                desired_by=None if desired is None else desired.rollout_id,
                is_live=row.rollout_id in self._live,
            ),
        )

    def _is_in_history(self, device: str, at: float) -> bool:
        if any(row["device_id"] == device and row["at"] == at for row in self._outcome.history):
            return True
        same = select(HealthHistory.id).where(HealthHistory.device_id == device, HealthHistory.at == at).limit(1)
        return self._session.scalar(same) is not None


def _mark_alive(
    session: Session, messages: Sequence[tuple[Incoming, Message]], named: set[DeviceId], now: float
) -> None:
    # A last will is the broker's word, not the device's.
    alive = {each.device for each, message in messages if not (isinstance(message, Presence) and not message.online)}
    seen = case((Device.id.in_(alive), now), else_=Device.last_seen)
    session.execute(
        update(Device).where(Device.id.in_(named), Device.state == "active").values(last_seen=seen),
        execution_options={"synchronize_session": False},
    )


def _attempts(
    session: Session, devices: set[DeviceId], desired: Iterable[Desired], now: float
) -> tuple[frozenset[int], dict[str, list[RolloutDevice]]]:
    """Ids of the live rollouts, and per device the attempts of every rollout that a report may still be about."""
    rollouts = session.execute(
        select(Rollout.id, Rollout.state).where(
            Rollout.state.in_(LIVE) | (Rollout.finished_at > now - WATCHED_AFTER_END_S)
        )
    ).all()
    watched = {row.id for row in rollouts} | {row.rollout_id for row in desired if row.rollout_id is not None}
    found: dict[str, list[RolloutDevice]] = {}
    query = select(RolloutDevice).where(RolloutDevice.rollout_id.in_(watched), RolloutDevice.device_id.in_(devices))
    for row in session.scalars(query.with_for_update()):
        found.setdefault(row.device_id, []).append(row)
    return frozenset(row.id for row in rollouts if row.state in LIVE), found


def _newest_events(
    session: Session, messages: Sequence[tuple[Incoming, Message]]
) -> dict[tuple[str, str], tuple[object, ...]]:
    reporting = {each.device for each, message in messages if isinstance(message, DeploymentReport)}
    newest = (
        select(func.max(DeploymentEvent.id))
        .where(DeploymentEvent.device_id.in_(reporting))
        .group_by(DeploymentEvent.device_id, DeploymentEvent.slot)
    )
    events = session.scalars(select(DeploymentEvent).where(DeploymentEvent.id.in_(newest)))
    return {(event.device_id, event.slot): _key(event) for event in events}


def _key(report: DeploymentReport | DeploymentEvent) -> tuple[object, ...]:
    return report.assignment_seq, report.execution, report.version, report.manifest_sha256, str(report.state)


def _event(device: str, report: DeploymentReport, fault: str, now: float) -> DeploymentEvent:
    return DeploymentEvent(
        device_id=device,
        received_at=now,
        at=report.at,
        slot=report.slot,
        assignment_seq=report.assignment_seq,
        execution=report.execution,
        version=report.version,
        manifest_sha256=report.manifest_sha256,
        state=report.state,
        code=rules.text(report.code, rules.MAX_CODE),
        detail=rules.text(report.detail, rules.MAX_DETAIL),
        fault=rules.text(fault, 200),
    )


def _history_rows(device: str, at: float, report: HealthReport) -> list[dict[str, Any]]:
    return [
        {
            "device_id": device,
            "at": at,
            "slot": slot.slot,
            "served_sha256": slot.served_sha256,
            "cpu_percent": report.cpu_percent,
            "memory_used_bytes": report.memory_used_bytes,
            "temperature_celsius": report.temperature_celsius,
            "fps": slot.fps,
            "frames": slot.frames,
            "errors": slot.errors,
            "latency": slot.latency,
        }
        for slot in report.slots
    ]


def _fingerprint(report: HealthReport) -> dict[str, str]:
    measured = report.fingerprint
    return {
        "board": measured.board,
        "runtime": measured.runtime,
        "runtime_version": measured.runtime_version,
        "architecture": measured.architecture,
    }
