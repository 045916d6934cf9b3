"""Between the planner and the registry: reads a rollout into a ``Snapshot``, writes an ``Action`` back as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from fleet_protocol import manifest as manifests
from fleet_protocol.errors import DeviceRevoked, FleetError, NoMatchingVariant, NotFound, StateTimedOut
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import DeviceId, Digest, SlotName
from fleet_protocol.states import TERMINAL, DeploymentState
from fleet_server.db.models import Audit, Desired, Device, LatestHealth, Release, Rollout, RolloutDevice, Variant, Wave
from fleet_server.rollout import policy as policies
from fleet_server.rollout import selector as selectors
from fleet_server.rollout.actions import (
    Action,
    Assign,
    BeginBake,
    BeginRollback,
    BreachWave,
    EndRollback,
    FinishRolledBack,
    FinishRollout,
    HoldWave,
    MarkTimedOut,
    OpenWave,
    PassWave,
    PauseBreached,
    ResumeWave,
    RollBack,
)
from fleet_server.rollout.membership import OfferedVariant, Prospect, bucket_ranges, fit, offset_of
from fleet_server.rollout.view import (
    LIVE,
    Candidate,
    Member,
    RolloutState,
    Snapshot,
    WaveStand,
    WaveState,
    custody,
)

MAX_TEXT = 400
THE_SERVER = "fleet-server"
"""Who the audit names where no person decided."""


class Assigner(Protocol):
    """What a rollout asks of assignments; both work inside the caller's transaction."""

    def set_desired(
        self,
        session: Session,
        device_id: DeviceId,
        slot: SlotName,
        manifest_sha256: Digest | None,
        rollout_id: int | None,
        now: float,
    ) -> None:
        """Wish for a manifest (None: nothing) in a slot."""
        ...

    def issue(self, session: Session, device_id: DeviceId, now: float) -> int:
        """Sign what the device shall serve; its new sequence number. Raises DeviceRevoked."""
        ...


# --- reading --------------------------------------------------------------------------------------------------------
def load(session: Session, rollout: Rollout) -> Snapshot:
    """Everything that the planner asks about ``rollout``."""
    slot = slot_of(session, rollout)
    state = RolloutState(rollout.state)
    return Snapshot(
        id=rollout.id,
        state=state,
        opened=rollout.opened,
        policy=policies.parse(rollout.policy),
        waves=tuple(_wave_stand(wave) for wave in _waves(session, rollout)),
        members=tuple(_members(session, rollout, slot)),
        candidates=tuple(_candidates(session, rollout)) if state in LIVE else (),
    )


def slot_of(session: Session, rollout: Rollout) -> SlotName:
    """The slot that the rollout's release is for."""
    return SlotName(session.scalars(select(Release.slot).where(Release.id == rollout.release_id)).one())


def variants_of(session: Session, release_id: int) -> tuple[OfferedVariant, ...]:
    """The release's variants in its order of preference; raises NotFound where there is no such release."""
    if session.get(Release, release_id) is None:
        raise NotFound(f"there is no release {release_id}; `fleetctl release list` shows them")
    rows = session.execute(
        select(Variant.manifest_sha256, Variant.manifest, Variant.blob_bytes)
        .where(Variant.release_id == release_id)
        .order_by(Variant.position)
    )
    return tuple(OfferedVariant(Digest(digest), manifests.parse(content), size) for digest, content, size in rows)


def prospects(session: Session, where: ColumnElement[bool] | None = None) -> Iterator[Prospect]:
    """Devices as a rollout looks at them, in order of id."""
    query = select(Device.id, Device.bucket, Device.board, Device.tags, Device.fingerprint, Device.state)
    for device, bucket, board, tags, measured, state in session.execute(
        (query if where is None else query.where(where)).order_by(Device.id)
    ):
        fingerprint = None if measured is None else Fingerprint(**measured)
        yield Prospect(DeviceId(device), bucket, board, tags, fingerprint, state == "active")


def _waves(session: Session, rollout: Rollout) -> Sequence[Wave]:
    return session.scalars(select(Wave).where(Wave.rollout_id == rollout.id).order_by(Wave.number)).all()


def _wave_stand(wave: Wave) -> WaveStand:
    return WaveStand(
        number=wave.number,
        title=wave.title,
        window_end=wave.window_end,
        members=wave.members,
        state=WaveState(wave.state),
        opened_at=wave.opened_at,
        baking_since=wave.baking_since,
        finished_at=wave.finished_at,
    )


def _members(session: Session, rollout: Rollout, slot: SlotName) -> Iterator[Member]:
    query = (
        select(
            *RolloutDevice.__table__.columns,
            Device.state.label("device_state"),
            LatestHealth.received_at.label("heard_at"),
            Desired.manifest_sha256.label("desired"),
            Desired.rollout_id.label("desired_by"),
        )
        .join(Device, Device.id == RolloutDevice.device_id)
        .outerjoin(LatestHealth, LatestHealth.device_id == RolloutDevice.device_id)
        .outerjoin(Desired, and_(Desired.device_id == RolloutDevice.device_id, Desired.slot == slot))
        .where(RolloutDevice.rollout_id == rollout.id)
        .order_by(RolloutDevice.device_id)
    )
    for row in session.execute(query):
        manifest = Digest(row.manifest_sha256)
        yield Member(
            device=DeviceId(row.device_id),
            wave=row.wave,
            manifest=manifest,
            previous=None if row.previous_sha256 is None else Digest(row.previous_sha256),
            state=DeploymentState(row.state),
            code=row.code,
            assigned_at=row.assigned_at,
            state_since=row.state_since,
            confirmed_at=row.confirmed_at,
            restored_at=row.restored_at,
            heard_at=row.heard_at,
            custody=custody(
                manifest,
                rollout.id,
                desired=None if row.desired is None else Digest(row.desired),
                desired_by=row.desired_by,
                is_live=rollout.state in LIVE,
            ),
            is_active=row.device_state == "active",
        )


def _candidates(session: Session, rollout: Rollout) -> Iterator[Candidate]:
    """Devices inside the open window that the rollout has not assigned, in order of opening."""
    assigned = select(RolloutDevice.device_id).where(RolloutDevice.rollout_id == rollout.id)
    ranges = bucket_ranges(rollout.salt, rollout.opened)
    in_window = or_(*(and_(Device.bucket >= first, Device.bucket < end) for first, end in ranges))
    waiting = [
        prospect
        for prospect in prospects(session, and_(in_window, Device.state == "active", Device.id.not_in(assigned)))
        if prospect.fingerprint is not None
    ]
    if not waiting:
        return
    selector, variants = selectors.parse(rollout.selector), variants_of(session, rollout.release_id)
    waiting.sort(key=lambda prospect: (offset_of(prospect.bucket, rollout.salt), prospect.device))
    for prospect in waiting:
        if selector.matches(prospect.device, prospect.board, prospect.tags):
            try:
                chosen = fit(prospect, variants)
            except NoMatchingVariant:
                continue  # the preview names it with its reason
            yield Candidate(prospect.device, offset_of(prospect.bucket, rollout.salt), chosen.digest)


def after(verdict: str, sentence: str) -> str:
    """``sentence`` behind ``verdict``: what broke a wave stays readable in front of how it ended."""
    return f"{verdict}; {sentence}"[:MAX_TEXT] if verdict else sentence[:MAX_TEXT]


# --- writing --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Scribe:
    """Writes down actions of one rollout inside one transaction. The caller holds the rollout's lock."""

    session: Session
    rollout: Rollout
    slot: SlotName
    assigner: Assigner
    now: float

    def carry_out(self, action: Action) -> None:  # noqa: C901, PLR0912 - one case per action, nothing else
        """Write ``action`` down; doing it again changes nothing."""
        match action:
            case Assign():
                self._assign(action)
            case RollBack():
                self._roll_back(action)
            case MarkTimedOut():
                self._mark_timed_out(action)
            case OpenWave():
                self._open(action)
            case BeginBake():
                self._wave(action.wave, WaveState.BAKING).baking_since = self.now
            case ResumeWave():
                wave = self._wave(action.wave, WaveState.RUNNING)
                wave.baking_since, wave.finished_at, wave.verdict = None, None, ""
            case PassWave():
                self._conclude(action.wave, WaveState.PASSED, action.verdict)
            case HoldWave():
                self._conclude(action.wave, WaveState.HELD, action.verdict)
            case BreachWave():
                self._conclude(action.wave, WaveState.BREACHED, action.verdict)
            case PauseBreached():
                self._wave(action.wave, WaveState.PAUSED)
                self.rollout.state = RolloutState.PAUSED
            case BeginRollback():
                self._wave(action.wave, WaveState.ROLLING_BACK).finished_at = self.now
            case EndRollback():
                self._end_rollback(action)
            case FinishRollout():
                self._finish(RolloutState.FINISHED)
            case FinishRolledBack():
                self._finish(RolloutState.ROLLED_BACK)
            case _:
                assert_never(action)

    def audit(self, who: str, verb: str, reason: str) -> None:
        """Append to the audit that ``who`` did ``verb`` to this rollout."""
        self.session.add(
            Audit(
                at=self.now,
                who=who[:63],
                action=f"rollout.{verb}",
                subject=str(self.rollout.id),
                reason=reason[:MAX_TEXT],
            )
        )

    def _assign(self, action: Assign) -> None:
        desired = self.session.get(Desired, (action.device, self.slot))
        row = RolloutDevice(
            rollout_id=self.rollout.id,
            device_id=action.device,
            wave=action.wave,
            slot=self.slot,
            manifest_sha256=action.manifest,
            previous_sha256=None if desired is None else desired.manifest_sha256,
            assignment_seq=0,
            state=DeploymentState.IDLE,
            assigned_at=self.now,
            state_since=self.now,
        )
        try:
            with self.session.begin_nested():
                row.assignment_seq = self._order(action.device, action.manifest)
        except DeviceRevoked:
            return  # revoked since the plan was made: the next plan leaves it out
        except FleetError as error:
            # Counted as a failure with its reason; one device that cannot be assigned must not stop all others.
            row.state, row.code, row.detail = DeploymentState.REJECTED, error.code, str(error)[:MAX_TEXT]
        self.session.add(row)
        self.session.flush()

    def _roll_back(self, action: RollBack) -> None:
        try:
            with self.session.begin_nested():
                self._order(action.device, action.previous)
        except DeviceRevoked:
            return

    def _order(self, device: DeviceId, manifest: Digest | None) -> int:
        # Issued at once: whether a device has returned is told by the sequence number that it accepted.
        self.assigner.set_desired(self.session, device, self.slot, manifest, self.rollout.id, self.now)
        return self.assigner.issue(self.session, device, self.now)

    def _mark_timed_out(self, action: MarkTimedOut) -> None:
        row = self.session.get_one(RolloutDevice, (self.rollout.id, action.device), with_for_update=True)
        if DeploymentState(row.state) not in TERMINAL:
            row.state = DeploymentState.FAILED
        # A COMMITTED that no heartbeat bears out stays what the device said; the code says what we made of it.
        row.code, row.detail = StateTimedOut.code, action.reason[:MAX_TEXT]
        row.state_since, row.confirmed_at = self.now, None

    def _open(self, action: OpenWave) -> None:
        self._wave(action.wave, WaveState.RUNNING).opened_at = self.now
        self.rollout.opened = action.opened
        self.audit(THE_SERVER, "wave-opened", f"wave {action.wave}")

    def _conclude(self, number: int, state: WaveState, verdict: str) -> None:
        wave = self._wave(number, state)
        wave.finished_at, wave.verdict = self.now, verdict[:MAX_TEXT]
        self.audit(THE_SERVER, f"wave-{state.lower()}", f"wave {number}: {verdict}")

    def _end_rollback(self, action: EndRollback) -> None:
        wave = self._wave(action.wave, WaveState.ROLLED_BACK)
        wave.finished_at = self.now
        wave.verdict = after(wave.verdict, action.verdict)
        self.audit(THE_SERVER, "wave-rolled-back", f"wave {action.wave}: {action.verdict}")

    def _finish(self, state: RolloutState) -> None:
        self.rollout.state, self.rollout.finished_at = state, self.now
        self.audit(THE_SERVER, state.lower().replace("_", "-"), "")

    def _wave(self, number: int, state: WaveState) -> Wave:
        wave = self.session.get_one(Wave, (self.rollout.id, number))
        wave.state = state
        return wave
