"""One slot at work: frames from its mailbox to the worker that serves, results out, dead workers replaced."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from edge_agent.inference.capture import Frame, Mailbox
from edge_agent.inference.residents import Leaving, Resident, Residents
from edge_agent.inference.results import Result, ResultLog
from edge_agent.inference.tally import Tally, bake_window, restart_delay, slot_health
from edge_agent.ports import BakeWindow, Proof, SealedModel
from edge_agent.worker.client import Launcher
from edge_agent.worker.wire import NOTHING, FrameFailed, Inferred
from fleet_protocol.errors import ProofError, WorkerDied
from fleet_protocol.identifiers import SlotName
from fleet_protocol.messages import SlotHealth

log = logging.getLogger(__name__)

_LIVENESS_S: Final = 1.0
"""How long a dead worker may go unnoticed where no frame comes."""

Move = Callable[[Residents], tuple[Residents, Leaving]]


class Slot:
    """The residents of one slot and the thread that feeds them. All methods may be called from any thread."""

    def __init__(
        self,
        name: SlotName,
        launcher: Launcher,
        mailbox: Mailbox,
        results: ResultLog,
        served_changed: Callable[[], None],
    ) -> None:
        self.name = name
        self._launcher, self._mailbox, self._results, self._served_changed = launcher, mailbox, results, served_changed
        self._changed = threading.Condition()
        self._residents = Residents()
        self._dead: Resident | None = None
        self._has_ended = False
        self._cause_of_death = ""
        self._deaths: deque[float] = deque(maxlen=8)
        self._window = Tally()
        self._interval, self._interval_began = Tally(), time.monotonic()

    # --- what the updater asks for -----------------------------------------------------------------------------------
    def stage(self, model: SealedModel) -> Proof:
        """See :meth:`edge_agent.ports.Inference.stage`."""
        with ExitStack() as undo:
            resident = self._loaded(model, undo)
            proof = resident.worker.prove()
            undo.pop_all()
        self._move(lambda residents: residents.stage(resident))
        return proof

    def serve(self, model: SealedModel) -> None:
        """See :meth:`edge_agent.ports.Inference.serve`."""
        with ExitStack() as undo:
            resident = self._loaded(model, undo)
            undo.pop_all()
        self._move(lambda residents: residents.install(resident), is_new=True)

    def switch(self) -> None:
        """See :meth:`edge_agent.ports.Inference.switch`."""
        self._move(Residents.switch, is_new=True)

    def commit(self) -> None:
        """See :meth:`edge_agent.ports.Inference.commit`."""
        self._move(Residents.commit)

    def revert(self) -> None:
        """See :meth:`edge_agent.ports.Inference.revert`."""
        self._move(Residents.revert, is_new=self._residents.is_baking)

    def discard(self) -> None:
        """See :meth:`edge_agent.ports.Inference.discard`."""
        self._move(Residents.discard)

    def stop(self) -> None:
        """Stop every worker; the slot may serve again later."""
        self._move(Residents.clear, is_new=True)

    def served(self) -> SealedModel | None:
        """What a living worker holds and serves now."""
        with self._changed:
            serving = self._residents.serving
            is_served = serving is not self._dead and not self._has_ended
            return serving.model if serving and is_served and serving.worker.is_alive else None

    def window(self) -> BakeWindow:
        """See :meth:`edge_agent.ports.Inference.bake_window`."""
        is_served = self.served() is not None
        with self._changed:
            return bake_window(self._window, self._cause_of_death or ("" if is_served else "no worker serves the slot"))

    def health(self) -> SlotHealth:
        """The interval since the last call; the next one begins."""
        served, now = self.served(), time.monotonic()
        with self._changed:
            tally, began = self._interval, self._interval_began
            self._interval, self._interval_began = Tally(), now
        return slot_health(self.name, served, tally, self._mailbox.take_dropped(), now - began)

    def worker_pids(self) -> list[int]:
        """Processes that hold this slot's models."""
        with self._changed:
            return [resident.worker.pid for resident in self._residents.all()]

    # --- the thread --------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """The body of the inferring thread, until the mailbox is closed."""
        try:
            while not self._mailbox.is_closed:
                self._step(self._mailbox.take(_LIVENESS_S))
        finally:
            # Also where a mistake of ours ended it: a slot that nobody feeds must not be reported as serving.
            self._has_ended = True
            self._served_changed()

    def _step(self, frame: Frame | None) -> None:
        serving = self._residents.serving
        if serving is None:
            return
        if serving is self._dead:
            self._revive(serving)
        elif frame is not None:
            self._infer(serving, frame)
        elif not serving.worker.is_alive:
            self._bury(serving, "the worker died between two frames")

    def _infer(self, serving: Resident, frame: Frame) -> None:
        began = time.perf_counter()
        try:
            answer = serving.worker.infer(frame.pixels)
        except WorkerDied as error:
            self._bury(serving, str(error))
            return
        latency_ms = (time.perf_counter() - began) * 1000.0
        self._count(serving, answer, latency_ms)
        if isinstance(answer, Inferred):
            self._results.append(_result(frame, serving.model, answer, latency_ms))

    def _count(self, serving: Resident, answer: Inferred | FrameFailed, latency_ms: float) -> None:
        with self._changed:
            # A switch may have come between question and answer: the old model's frame is not the new one's.
            tallies = (self._interval, self._window) if self._residents.serving is serving else (self._interval,)
            for tally in tallies:
                if isinstance(answer, Inferred):
                    tally.count(latency_ms, answer.index)
                else:
                    tally.count_error()

    def _bury(self, dead: Resident, cause: str) -> None:
        with self._changed:
            if self._residents.serving is not dead:
                return  # it was stopped on purpose while it worked on its last frame
            self._dead, self._cause_of_death = dead, cause
            self._deaths.append(time.monotonic())
            self._interval.count_error()
            self._window.count_error()
        log.error("slot %s: %s", self.name, cause)
        self._served_changed()

    def _revive(self, dead: Resident) -> None:
        """Start the dead worker's model again; not in a bake, where the updater returns to the kept model instead."""
        delay = restart_delay(self._deaths, time.monotonic())
        with self._changed:
            if self._residents.kept is not None:
                return
            if delay and self._changed.wait_for(lambda: self._residents.serving is not dead, delay):
                return
        if delay is None:
            log.error("slot %s: its worker died too often; nothing is served until the next deployment", self.name)
            self._move(lambda residents: residents.give_up(dead))
            return
        try:
            with ExitStack() as undo:
                fresh = self._loaded(dead.model, undo)
                undo.pop_all()
        except ProofError as error:
            self._deaths.append(time.monotonic())
            log.warning("slot %s: the worker cannot be started again: %s", self.name, error)
            return
        self._move(lambda residents: residents.revive(dead, fresh))

    # --- moves -------------------------------------------------------------------------------------------------------
    def _loaded(self, model: SealedModel, undo: ExitStack) -> Resident:
        worker = self._launcher.start()
        undo.callback(worker.stop)
        worker.load(model)
        return Resident(model, worker)

    def _move(self, move: Move, *, is_new: bool = False) -> None:
        """Make a move between two frames, then stop whoever leaves. ``is_new``: another model begins to be judged."""
        with self._changed:
            before = self._residents.serving
            self._residents, leaving = move(self._residents)
            if is_new:
                self._window, self._cause_of_death = Tally(), ""
                self._deaths.clear()
            self._mailbox.want(self._residents.serving is not None)
            has_changed = self._residents.serving is not before
            self._changed.notify_all()
        for resident in leaving:
            resident.worker.stop()
        if has_changed:
            self._served_changed()


def _result(frame: Frame, model: SealedModel, answer: Inferred, latency_ms: float) -> Result:
    return Result(
        at=frame.at,
        frame=frame.number,
        source=frame.origin,
        label=model.manifest.postprocessing.labels[answer.index] if answer.index != NOTHING else "",
        index=answer.index,
        confidence=answer.confidence,
        latency_ms=latency_ms,
        model=model.manifest.model,
        version=model.manifest.version,
        manifest=model.digest,
        boxes=answer.boxes,
        values=answer.values,
    )
