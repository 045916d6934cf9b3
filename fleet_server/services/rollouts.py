"""Rollouts: what people ask of them, and the tick that carries them on.

Every command and every step of the tick is one transaction under the rollout's row lock, so any number of server replicas may
run them; all that is known lies in the registry, so a server killed at any point goes on where it was.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from fleet_protocol.errors import Conflict, FleetError, NotFound
from fleet_protocol.identifiers import BUCKETS
from fleet_server.changes import ChangeFeed
from fleet_server.db.models import Release, Rollout, Wave
from fleet_server.ports import Clock
from fleet_server.rollout import policy as policies
from fleet_server.rollout import selector as selectors
from fleet_server.rollout.actions import Action, Assign, MarkTimedOut, PassWave, RollBack
from fleet_server.rollout.membership import Preview, draw_up
from fleet_server.rollout.planner import leftovers, opened_waves, plan
from fleet_server.rollout.policy import Policy
from fleet_server.rollout.view import LIVE, TURNED_BACK, RolloutState, Snapshot, WaveStand, WaveState
from fleet_server.services.rollout_rows import MAX_TEXT, Assigner, Scribe, after, load, prospects, slot_of, variants_of

ACTIONS_PER_TRANSACTION: Final = 100
"""Keeps the write lock short: an assignment costs about 3 ms (rows, signature, wrapped key), so this is about 0.3 s."""
_STEPS_PER_TICK: Final = 100
_UNDOABLE: Final = LIVE | {RolloutState.ABORTED, RolloutState.FINISHED}


def _random_salt() -> int:
    return secrets.randbelow(BUCKETS)


class Rollouts:
    """``assigner`` says what devices shall serve; ``draw_salt`` chooses who is first (0..9999)."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        readers: sessionmaker[Session],
        assigner: Assigner,
        changes: ChangeFeed,
        clock: Clock,
        *,
        draw_salt: Callable[[], int] = _random_salt,
        actions_per_transaction: int = ACTIONS_PER_TRANSACTION,
    ) -> None:
        """``sessions`` begins writing transactions, ``readers`` reading ones."""
        self._sessions = sessions
        self._readers = readers
        self._assigner = assigner
        self._changes = changes
        self._clock = clock
        self._draw_salt = draw_salt
        self._actions_per_transaction = actions_per_transaction
        self._listening_since = clock()

    # --- what people ask ---------------------------------------------------------------------------------------------
    def preview(self, release_id: int, selector: str, policy: Policy, *, salt: int | None = None) -> Preview:
        """Who would be in which wave with which variant, and who cannot; raises NotFound or MalformedSelector."""
        with self._readers() as session:
            return self._draft(session, release_id, selector, policy, salt)

    def create(
        self, release_id: int, selector: str, policy: Policy, reason: str, who: str, *, salt: int | None = None
    ) -> Rollout:
        """A DRAFT; nothing moves before :meth:`start`. ``salt`` of a preview makes it begin with the same devices.

        Raises NotFound, MalformedSelector, MalformedPolicy, or Conflict where no device could take part.
        """
        policy = policies.parse(policies.to_json(policy))
        now = self._clock()
        with self._sessions.begin() as session:
            drafted = self._draft(session, release_id, selector, policy, salt)
            if not drafted.waves:
                raise Conflict(_nobody(drafted))
            rollout = Rollout(
                release_id=release_id,
                selector=selector.strip() or "all",
                salt=drafted.salt,
                state=RolloutState.DRAFT,
                policy=policies.to_json(policy),
                reason=reason[:MAX_TEXT],
                created_at=now,
                created_by=who[:63],
            )
            session.add(rollout)
            session.flush()
            for wave in drafted.waves:
                session.add(
                    Wave(
                        rollout_id=rollout.id,
                        number=wave.number,
                        title=wave.title,
                        window_end=wave.window_end,
                        members=wave.members,
                        state=WaveState.PENDING,
                    )
                )
            self._scribe(session, rollout, now).audit(who, "create", reason)
            _detach(session, rollout)
        self._changes.publish("rollout", str(rollout.id))
        return rollout

    def start(self, rollout_id: int, who: str, reason: str) -> Rollout:
        """DRAFT to RUNNING. Raises Conflict while another rollout moves the same slot: two would undo each other."""
        with self._command(rollout_id, "start", who, reason) as scribe:
            _require(scribe.rollout, "start", RolloutState.DRAFT)
            _refuse_second(scribe)
            scribe.rollout.state, scribe.rollout.started_at = RolloutState.RUNNING, scribe.now
        return scribe.rollout

    def pause(self, rollout_id: int, who: str, reason: str) -> Rollout:
        """Assign and open nothing more. Devices on their way arrive; silence and breaches are still acted upon."""
        with self._command(rollout_id, "pause", who, reason) as scribe:
            _require(scribe.rollout, "pause", RolloutState.RUNNING)
            _refuse_turned_back(scribe, "pause")
            scribe.rollout.state = RolloutState.PAUSED
        return scribe.rollout

    def resume(self, rollout_id: int, who: str, reason: str) -> Rollout:
        """Go on where it paused. Raises Conflict where a breach waits for a decision: promote, abort or undo."""
        with self._command(rollout_id, "resume", who, reason) as scribe:
            _require(scribe.rollout, "resume", RolloutState.PAUSED)
            current = _refuse_turned_back(scribe, "resume").current
            if current is not None and current.state is WaveState.PAUSED:
                raise Conflict(f"wave {current.number} breached its limits: promote, abort or undo the rollout")
            scribe.rollout.state = RolloutState.RUNNING
        return scribe.rollout

    def promote(self, rollout_id: int, who: str, reason: str) -> Rollout:
        """Pass the present wave on a person's word, whatever its evidence.

        Its devices are still followed, and those not yet assigned go with the next wave.
        """
        with self._command(rollout_id, "promote", who, reason) as scribe:
            _require(scribe.rollout, "promote", *LIVE)
            view = _refuse_turned_back(scribe, "promote")
            wave = _promotable(view)
            verdict = scribe.session.get_one(Wave, (rollout_id, wave.number)).verdict
            scribe.carry_out(PassWave(wave.number, after(verdict, f"promoted by {who}: {reason}")))
            scribe.rollout.state = RolloutState.RUNNING
        return scribe.rollout

    def abort(self, rollout_id: int, who: str, reason: str) -> Rollout:
        """Stop here: ABORTED. Proven devices keep the new model; all others get back what they were to serve before."""
        with self._command(rollout_id, "abort", who, reason) as scribe:
            _require(scribe.rollout, "abort", RolloutState.DRAFT, *LIVE)
            view = _refuse_turned_back(scribe, "abort")
            for action in leftovers(view):
                scribe.carry_out(action)
            if view.current is not None:
                wave = scribe.session.get_one(Wave, (rollout_id, view.current.number))
                wave.state, wave.finished_at = WaveState.HELD, scribe.now
                wave.verdict = after(wave.verdict, f"aborted by {who}: {reason}")
            scribe.rollout.state, scribe.rollout.finished_at = RolloutState.ABORTED, scribe.now
        return scribe.rollout

    def undo(self, rollout_id: int, who: str, reason: str) -> Rollout:
        """Take it all back, also after its end: RUNNING with waves ROLLING_BACK, until it is ROLLED_BACK."""
        with self._command(rollout_id, "undo", who, reason) as scribe:
            _require(scribe.rollout, "undo", *_UNDOABLE)
            view = _refuse_turned_back(scribe, "undo")
            begin = opened_waves(view)
            if not begin:
                raise Conflict(f"rollout {rollout_id} has opened no wave yet: there is nothing to undo; abort it")
            if view.state not in LIVE:
                _refuse_second(scribe)
            for action in begin:
                scribe.carry_out(action)
            scribe.rollout.state, scribe.rollout.finished_at = RolloutState.RUNNING, None
        return scribe.rollout

    # --- what happens by itself --------------------------------------------------------------------------------------
    def tick(self, now: float) -> int:
        """Carry every live rollout as far as the evidence allows; how many actions that took. Safe to run anywhere, often.

        A rollout that cannot go on does not stop the others; its FleetError is raised after them.
        """
        with self._readers() as session:
            live = session.scalars(select(Rollout.id).where(Rollout.state.in_(LIVE)).order_by(Rollout.id)).all()
        done, failure = 0, None
        for rollout_id in live:
            try:
                done += self._advance(rollout_id, now)
            except FleetError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return done

    def step(self, rollout_id: int, now: float) -> tuple[Action, ...]:
        """One transaction: plan, and carry out the first actions of the plan. Which they were; empty: nothing to do."""
        with self._readers() as session:
            rollout = session.get(Rollout, rollout_id)
            if rollout is None or not self._plan(session, rollout, now):
                return ()  # most ticks end here, without ever waiting for the write lock
        with self._sessions.begin() as session:
            rollout = session.get_one(Rollout, rollout_id, with_for_update=True)
            # Planned again under the lock: another replica or a person may have been faster.
            actions = self._plan(session, rollout, now)[: self._actions_per_transaction]
            scribe = self._scribe(session, rollout, now)
            for action in actions:
                scribe.carry_out(action)
            if actions:
                rollout.revision += 1
        self._tell(rollout_id, actions)
        return actions

    def heard_again(self, now: float) -> None:
        """The server hears devices since ``now`` (broker reconnected): no silence is counted from before.

        So a server that is deaf more often than a limit lasts postpones that limit; it never passes a wave meanwhile.
        """
        self._listening_since = now

    def _advance(self, rollout_id: int, now: float) -> int:
        done = 0
        for _ in range(_STEPS_PER_TICK):
            actions = self.step(rollout_id, now)
            if not actions:
                break
            done += len(actions)
        return done

    def _plan(self, session: Session, rollout: Rollout, now: float) -> tuple[Action, ...]:
        return plan(load(session, rollout), now, listening_since=self._listening_since)

    def _tell(self, rollout_id: int, actions: tuple[Action, ...]) -> None:
        if actions:
            self._changes.publish("rollout", str(rollout_id))
        for action in actions:
            if isinstance(action, Assign | RollBack | MarkTimedOut):
                self._changes.publish("device", action.device)

    def _draft(self, session: Session, release_id: int, selector: str, policy: Policy, salt: int | None) -> Preview:
        variants = variants_of(session, release_id)
        chosen = self._draw_salt() if salt is None else salt % BUCKETS
        return draw_up(prospects(session), selectors.parse(selector), variants, policy.waves, chosen)

    @contextmanager
    def _command(self, rollout_id: int, verb: str, who: str, reason: str) -> Iterator[Scribe]:
        """A person's command: one transaction under the rollout's lock, audited; the rollout is detached afterwards."""
        with self._sessions.begin() as session:
            rollout = session.get(Rollout, rollout_id, with_for_update=True)
            if rollout is None:
                raise NotFound(f"there is no rollout {rollout_id}; `fleetctl rollout list` shows them")
            scribe = self._scribe(session, rollout, self._clock())
            yield scribe
            scribe.audit(who, verb, reason)
            rollout.revision += 1
            _detach(session, rollout)
        self._changes.publish("rollout", str(rollout_id))

    def _scribe(self, session: Session, rollout: Rollout, now: float) -> Scribe:
        return Scribe(session, rollout, slot_of(session, rollout), self._assigner, now)


def _detach(session: Session, rollout: Rollout) -> None:
    session.flush()
    session.refresh(rollout)
    session.expunge(rollout)


def _require(rollout: Rollout, verb: str, *allowed: RolloutState) -> None:
    if rollout.state not in allowed:
        states = " or ".join(sorted(allowed))
        raise Conflict(f"cannot {verb} rollout {rollout.id}: it is {rollout.state}, not {states}")


def _refuse_turned_back(scribe: Scribe, verb: str) -> Snapshot:
    view = load(scribe.session, scribe.rollout)
    turned = next((wave for wave in view.waves if wave.state in TURNED_BACK), None)
    if turned is not None:
        raise Conflict(f"cannot {verb} rollout {view.id}: wave {turned.number} is {turned.state}")
    return view


def _refuse_second(scribe: Scribe) -> None:
    # The slot's first release is a row that every rollout of the slot shares: its lock keeps two starts apart.
    session, own = scribe.session, scribe.rollout
    session.scalars(
        select(Release).where(Release.slot == scribe.slot).order_by(Release.id).limit(1).with_for_update()
    ).one()
    other = session.scalars(
        select(Rollout.id)
        .join(Release, Release.id == Rollout.release_id)
        .where(Release.slot == scribe.slot, Rollout.state.in_(LIVE), Rollout.id != own.id)
    ).first()
    if other is not None:
        raise Conflict(f"rollout {other} is still moving slot {scribe.slot}: let it end, or abort or undo it first")


def _promotable(view: Snapshot) -> WaveStand:
    wave = view.current
    if wave is None:
        raise Conflict(f"rollout {view.id} has no wave under way to promote")
    return wave


def _nobody(drafted: Preview) -> str:
    if not drafted.excluded:
        return "no device matches the selector; `fleetctl device list` shows boards and tags"
    first = drafted.excluded[0]
    return f"none of the {len(drafted.excluded)} devices that match can take part; {first.device}: {first.reason}"
