"""The agent's one loop: messages become events, events become states, states are journalled, then effects are performed.

Order of everything that moves an execution: decide (:func:`edge_agent.updater.step`), journal, report into the spool, act.
A power cut between any two of them repeats the later ones at the next start (SPEC 8.6).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from edge_agent.errors import IncompleteAssignment, JournalUnwritable
from edge_agent.execution import (
    Admitted,
    Broke,
    Effect,
    Event,
    Execution,
    Observed,
    Refused,
    Resumed,
    Superseded,
    Switched,
    Tick,
)
from edge_agent.identity import Identity
from edge_agent.inbox import Inbox, LinkChanged, Message
from edge_agent.installer import Installer
from edge_agent.intake import Accepted, Intake
from edge_agent.journal import Change, Journal, Refusal
from edge_agent.ports import Inference, Spool, Standing, Transport
from edge_agent.updater import Policy, failure, offer, report, step
from fleet_protocol import messages, topics
from fleet_protocol.errors import FleetError, MalformedIdentifier, NotReleased, ReleaseMismatch
from fleet_protocol.identifiers import Digest, SlotName
from fleet_protocol.messages import MissingChunks
from fleet_protocol.states import DeploymentState

_LOG: Final = logging.getLogger(__name__)
_TICK_S: Final = 0.5
"""Longest time between two looks at timers, downloads and bakes."""
_RETRY_S: Final = 10.0
"""After the journal could not be written: when the device tries again to go on."""
_ASK_AGAIN_S: Final = 5.0
"""Between two verifications of items that wait for newer metadata: each costs a whole TUF refresh (about 10 ms)."""


class Runner:
    """Owns the executions. Every method is called from one thread; ``standing`` may be read from any."""

    def __init__(
        self,
        identity: Identity,
        journal: Journal,
        intake: Intake,
        installer: Installer,
        inference: Inference,
        transport: Transport,
        spool: Spool,
        inbox: Inbox,
        *,
        slots: tuple[SlotName, ...],
        board: str,
        policy: Policy,
        monotonic: Callable[[], float],
    ) -> None:
        self._identity, self._journal, self._intake, self._installer = identity, journal, intake, installer
        self._inference, self._transport, self._spool, self._inbox = inference, transport, spool, inbox
        self._slots, self._board, self._policy, self._monotonic = slots, board, policy, monotonic
        self._executions = {each.number: each for each in journal.executions()}
        self._due: deque[tuple[int, Event]] = deque()
        self._waits_for: dict[int, FleetError] = {}
        self._looked_s = self._asked_s = self._monotonic()
        self._retry_s: float | None = None
        self.standing: Standing = intake.standing

    # --- life ---------------------------------------------------------------------------------------------------------
    def boot(self) -> None:
        """Before any network: serve what was committed, then go on with what was interrupted (SPEC 8.6)."""
        for slot in self._slots:
            self._installer.serve_kept(slot)
        self._resume()
        self._note_served()

    def run(self, is_stopping: Callable[[], bool], alive: Callable[[], None]) -> None:
        """The loop, until ``is_stopping``; ``alive`` is called at each turn (the service's watchdog)."""
        while not is_stopping():
            self.turn(_TICK_S)
            alive()
        self._installer.close()
        self._journal.note_served({})

    def turn(self, timeout_s: float) -> bool:
        """Wait for one message at most ``timeout_s``, act on it and on the time. Whether there was a message."""
        arrived = self._inbox.take(timeout_s)
        try:
            if arrived is not None:
                self._receive(arrived)
            if arrived is None or self._monotonic() - self._looked_s >= _TICK_S:
                self._look()
            self._drain()
        except JournalUnwritable as error:
            # Nothing was done that is not in the journal; the interrupted step is begun again later.
            _LOG.error("journal.unwritable %s", error)
            self._due.clear()
            self._retry_s = self._monotonic() + _RETRY_S
        self.standing = self._intake.standing
        return arrived is not None

    # --- messages -----------------------------------------------------------------------------------------------------
    def _receive(self, arrived: Message | LinkChanged) -> None:
        if isinstance(arrived, LinkChanged):
            self._link(is_up=arrived.is_up)
            return
        if not arrived.payload:
            return  # MQTT's way to say that a retained message was removed; the desired state is what was accepted last
        try:
            if arrived.topic == topics.METADATA:
                self._intake.hear_metadata(arrived.payload)
                self._consider()
            elif arrived.topic == topics.ASSIGNMENT.of(self._identity.device):
                self._intake.hear_assignment(arrived.payload)
                self._consider()
            elif arrived.topic.startswith(topics.manifest_topic(Digest(""))):
                self._manifest(arrived)
            else:
                self._chunk(arrived)
        except JournalUnwritable:
            raise
        except FleetError as error:
            self._refuse(error)

    def _link(self, *, is_up: bool) -> None:
        # Also when a connection begins: what was asked for while the last one ended was asked of nobody.
        self._installer.link_lost()
        if not is_up:
            return
        self._hear_again()
        self._tell_missing(self._installer.check_downloads())
        # SPEC 8.4: the last word on each slot is said again; the server takes a report it has already seen for nothing.
        for body in self._journal.last_reports():
            self._spool.put(topics.DEPLOYMENT.of(self._identity.device), body, is_state=True)

    def _hear_again(self) -> None:
        """Have the broker send what it retains for this device; each subscription does, repeated ones too."""
        if self._transport.is_connected:
            waiting = [topics.manifest_topic(each.digest) for each in self._offered()]
            self._transport.subscribe([topics.ASSIGNMENT.of(self._identity.device), topics.METADATA, *waiting])

    def _manifest(self, arrived: Message) -> None:
        digest = Digest(arrived.topic.rpartition("/")[2])
        self._intake.hear_manifest(digest, arrived.payload)
        self._transport.unsubscribe([arrived.topic])
        self._admit()

    def _chunk(self, arrived: Message) -> None:
        try:
            blob, index = topics.parse_chunk_topic(arrived.topic)
        except MalformedIdentifier:
            return  # not a topic that this agent ever asks for
        events, missing = self._installer.chunk(blob, index, arrived.payload)
        self._due.extend(events)
        self._tell_missing([] if missing is None else [missing])

    def _refuse(self, error: FleetError) -> None:
        _LOG.warning("refused code=%s %s", error.code, error)
        self._journal.refuse(Refusal(code=error.code, detail=str(error), at=self._intake.now_s()))

    # --- from an assignment to executions -----------------------------------------------------------------------------
    def _consider(self) -> None:
        """Newer metadata or a newer assignment is there: accept what can be accepted, admit what waits."""
        self._admit()
        accepted = self._intake.accept()
        if accepted is not None:
            self._accept(accepted)

    def _accept(self, accepted: Accepted) -> None:
        assignment, now_s = accepted.verified.assignment, self._monotonic()
        running = [each for each in self._executions.values() if not each.is_over]
        first = accepted.remembered.executions + 1
        offered = [
            offer(first + place, assignment.seq, item, now_s=now_s) for place, item in enumerate(assignment.items)
        ]
        wanted = {each.slot: each.digest for each in offered}
        withdrawn = [slot for slot in accepted.remembered.committed if slot not in wanted]
        remembered = msgspec.structs.replace(accepted.remembered, executions=first - 1 + len(offered))
        reports = {each.slot: self._report(each) for each in offered}
        self._journal.accept(remembered, accepted.envelope, offered, reports, [SlotName(slot) for slot in withdrawn])
        for each in offered:
            self._executions[each.number] = each
            self._send(reports[each.slot])
        self._due.extend(
            (each.number, Superseded(assignment.seq, wanted.get(each.slot, Digest("")))) for each in running
        )
        self._due.extend((each.number, Resumed()) for each in offered if self._head(each.slot) == each)
        self._drain()
        for slot in withdrawn:
            self._installer.withdraw(SlotName(slot))

    def _admit(self) -> None:
        """All items of the newest assignment together: a part of an assignment is never installed (SPEC 6.5.9)."""
        waiting = {each.number: (each, self._intake.content_of(each)) for each in self._offered()}
        contents = {number: (each, content) for number, (each, content) in waiting.items() if content is not None}
        if not waiting or len(contents) < len(waiting) or not self._intake.has_metadata:
            return
        try:
            verdicts = self._intake.admit(contents)
        except FleetError as error:
            self._waits_for = dict.fromkeys(contents, error)
            raise
        if any(self._may_wait(self._executions[number], verdict) for number, verdict in verdicts.items()):
            self._waits_for = {number: each for number, each in verdicts.items() if isinstance(each, FleetError)}
            return
        is_whole = all(isinstance(verdict, Admitted) for verdict in verdicts.values())
        for number, verdict in verdicts.items():
            self._due.append((number, self._admission(self._executions[number], verdict, is_whole=is_whole)))
        self._intake.forget_manifests(())

    def _may_wait(self, execution: Execution, verdict: Admitted | FleetError) -> bool:
        """Whether newer metadata, still on its way, may turn the refusal into an admission."""
        is_early = self._monotonic() - execution.since_s < self._policy.metadata_wait_s
        return isinstance(verdict, NotReleased | ReleaseMismatch) and is_early

    def _admission(self, execution: Execution, verdict: Admitted | FleetError, *, is_whole: bool) -> Event:
        if isinstance(verdict, FleetError):
            return failure(verdict)
        committed = self._journal.committed(execution.slot)
        if is_whole or (committed is not None and committed.digest == execution.digest):
            return verdict
        error = IncompleteAssignment("another item of this assignment was refused; nothing of it is installed")
        return Refused(error.code, str(error))

    # --- one step at a time -------------------------------------------------------------------------------------------
    def _drain(self) -> None:
        while self._due:
            number, event = self._due.popleft()
            execution = self._executions.get(number)
            if execution is not None:
                self._advance(execution, event)

    def _advance(self, execution: Execution, event: Event) -> None:
        after, effects = step(
            execution,
            event,
            self._policy,
            now_s=self._monotonic(),
            latency_budget_ms=self._budget(execution) if isinstance(event, Observed) else None,
        )
        if _worth_keeping(after) != _worth_keeping(execution):
            self._record(execution, after, event, effects)
        self._executions[after.number] = after
        for effect in effects:
            outcome = self._ask_manifest(after) if effect is Effect.ADMIT else self._installer.perform(effect, after)
            self._due.extend((after.number, each) for each in outcome)
        if after.is_over and not execution.is_over:
            self._end(after)

    def _record(self, before: Execution, after: Execution, event: Event, effects: tuple[Effect, ...]) -> None:
        """The journal first, then the report; nothing was done yet."""
        body = self._report(after) if after.version != before.version else None
        if Effect.COMMIT in effects:
            candidate = self._journal.model(after.slot, "candidate")
            if candidate is None or body is None:
                raise RuntimeError(f"execution {after.number} commits without a model; this is a bug")
            self._journal.commit(after, candidate, body)
        elif isinstance(event, Admitted):
            floors = self._journal.remembered.with_floor(after.slot, event.floor)
            self._journal.record(Change(after, body, floors, event.record))
        else:
            self._journal.record(Change(after, body))
        if body is not None:
            _LOG.info("deployment.%s slot=%s seq=%d code=%s", after.state, after.slot, after.assignment_seq, after.code)
            self._send(body)

    def _end(self, execution: Execution) -> None:
        self._installer.end(execution)
        self._waits_for.pop(execution.number, None)
        gone = [each for each in self._executions.values() if each.slot == execution.slot and each.is_over]
        for each in gone:
            if each.number < execution.number:
                del self._executions[each.number]
        following = self._head(execution.slot)
        if following is not None:
            self._due.append((following.number, Resumed()))

    def _ask_manifest(self, execution: Execution) -> tuple[Event, ...]:
        if self._intake.content_of(execution) is None and self._transport.is_connected:
            self._transport.subscribe([topics.manifest_topic(execution.digest)])
        self._admit_or_refuse()
        return ()

    # --- time ---------------------------------------------------------------------------------------------------------
    def _look(self) -> None:
        """What only time brings: limits, bakes, stalls, metadata that did not come."""
        now_s = self._looked_s = self._monotonic()
        if self._retry_s is not None and now_s >= self._retry_s:
            self._retry_s = None
            self._hear_again()
            self._resume()
        for slot in self._slots:
            head = self._head(slot)
            if head is not None:
                self._due.append((head.number, self._timed(head)))
        self._tell_missing(self._installer.check_downloads())
        self._due.extend(self._installer.slow_downloads())
        self._note_served()
        if self._waits_for and now_s - self._asked_s >= _ASK_AGAIN_S:
            self._admit_or_refuse()

    def _timed(self, head: Execution) -> Event:
        if head.state is DeploymentState.BAKING:
            return Observed(self._inference.bake_window(head.slot), self._inference.serving(head.slot))
        late = self._monotonic() - head.since_s > self._policy.limits_s.get(head.state, float("inf"))
        reason = self._waits_for.get(head.number)
        return failure(reason) if late and reason is not None else Tick()

    def _admit_or_refuse(self) -> None:
        self._asked_s = self._monotonic()
        try:
            self._admit()
        except JournalUnwritable:
            raise
        except FleetError as error:
            self._refuse(error)

    def _resume(self) -> None:
        """Begin the step again in which each slot was interrupted."""
        for slot in {each.slot: None for each in self._executions.values()}:
            active = [each for each in self._in_order(slot) if not each.is_over]
            if len(active) > 1:
                self._due.append((active[0].number, Superseded(active[-1].assignment_seq, active[-1].digest)))
            if active:
                self._due.append((active[0].number, self._resumption(active[0])))
        self._drain()

    def _resumption(self, head: Execution) -> Event:
        """How an interrupted step goes on. Where only the journal failed, the new model may be serving already."""
        if head.slot in self._slots and self._inference.serving(head.slot) == head.digest and not head.code:
            if head.state is DeploymentState.SWITCHING:
                return Switched()
            if head.state is DeploymentState.BAKING:
                return Tick()
        return Resumed()

    # --- small questions ----------------------------------------------------------------------------------------------
    def _in_order(self, slot: SlotName) -> list[Execution]:
        return sorted((each for each in self._executions.values() if each.slot == slot), key=lambda each: each.number)

    def _head(self, slot: SlotName) -> Execution | None:
        """The oldest execution of a slot that is not over; newer ones wait for it."""
        return next((each for each in self._in_order(slot) if not each.is_over), None)

    def _offered(self) -> list[Execution]:
        """The items of the newest assignment that wait for admission; none while an older one is still being undone."""
        if any(isinstance(event, Admitted | Refused | Broke) for _, event in self._due):
            return []  # they were judged, and the next step of the loop will say so
        offered = [each for each in self._executions.values() if each.state is DeploymentState.OFFERED]
        return offered if all(self._head(each.slot) == each for each in offered) else []

    def _budget(self, execution: Execution) -> float | None:
        return self._installer.model_of(execution).manifest.golden.latency_budget_ms.get(self._board)

    def _report(self, execution: Execution) -> bytes:
        serving = self._inference.serving(execution.slot) if execution.slot in self._slots else None
        return messages.encode(report(execution, serving, at=self._intake.now_s()))

    def _send(self, body: bytes) -> None:
        self._spool.put(topics.DEPLOYMENT.of(self._identity.device), body, is_state=True)

    def _tell_missing(self, missing: list[MissingChunks]) -> None:
        for each in missing:
            _LOG.warning("blob.chunks_missing blob=%s", each.blob_sha256[:12])
            self._spool.put(topics.MISSING.of(self._identity.device), messages.encode(each), is_state=False)

    def _note_served(self) -> None:
        try:
            self._journal.note_served({slot: self._inference.serving(slot) or "" for slot in self._slots})
        except JournalUnwritable as error:
            _LOG.warning("journal.unwritable %s", error)


def _worth_keeping(execution: Execution) -> tuple[int, int, str, str]:
    """What a power cut must not lose. Chunks are counted by their bitmap, times by this run of the agent."""
    return execution.version, execution.attempts, execution.code, execution.detail
