"""The inference side of the agent: every configured slot with its source, its workers and its results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent.config import SlotConfig
from edge_agent.inference.capture import Capture, Mailbox
from edge_agent.inference.results import ResultLog
from edge_agent.inference.slot import Slot
from edge_agent.ports import BakeWindow, Clock, Proof, SealedModel
from edge_agent.worker.client import Launcher, WorkerLimits
from fleet_protocol.board import Board
from fleet_protocol.identifiers import Digest, SlotName
from fleet_protocol.manifest import slot_of
from fleet_protocol.messages import SlotHealth


class InferenceEngine:
    """Implements :class:`edge_agent.ports.Inference`. Two threads per slot; a source is opened when a model first serves."""

    def __init__(
        self,
        board: Board,
        slots: Sequence[SlotConfig],
        state_dir: Path,
        *,
        served_changed: Callable[[], None] = lambda: None,
        clock: Clock = time.time,
        limits: WorkerLimits = WorkerLimits(),
    ) -> None:
        """``served_changed`` is called, from any thread, after a slot's served model changed."""
        self._launcher = Launcher(board, limits)
        self._slots: dict[SlotName, Slot] = {}
        self._results: dict[Path, ResultLog] = {}
        self._mailboxes: list[Mailbox] = []
        self._threads: list[threading.Thread] = []
        for config in slots:
            self._open(config, state_dir, clock, served_changed)

    def _open(self, config: SlotConfig, state_dir: Path, clock: Clock, served_changed: Callable[[], None]) -> None:
        mailbox = Mailbox()
        name = SlotName(config.name)
        path = state_dir / config.results
        results = self._results.setdefault(path, ResultLog(path))
        slot = Slot(name, self._launcher, mailbox, results, served_changed)
        capture = Capture(config.source, mailbox, clock)
        self._slots[name] = slot
        self._mailboxes.append(mailbox)
        for purpose, body in (("infer", slot.run), ("capture", capture.run)):
            thread = threading.Thread(target=body, name=f"{purpose}.{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def serving(self, slot: SlotName) -> Digest | None:
        """See the port, as for every method below."""
        served = self._slots[slot].served()
        return served.digest if served else None

    def stage(self, model: SealedModel) -> Proof:
        return self._slots[slot_of(model.manifest)].stage(model)

    def switch(self, slot: SlotName) -> None:
        self._slots[slot].switch()

    def bake_window(self, slot: SlotName) -> BakeWindow:
        return self._slots[slot].window()

    def commit(self, slot: SlotName) -> None:
        self._slots[slot].commit()

    def revert(self, slot: SlotName) -> None:
        self._slots[slot].revert()

    def serve(self, model: SealedModel) -> None:
        self._slots[slot_of(model.manifest)].serve(model)

    def discard(self, slot: SlotName) -> None:
        self._slots[slot].discard()

    def stop(self, slot: SlotName) -> None:
        self._slots[slot].stop()

    def slot_health(self) -> tuple[SlotHealth, ...]:
        return tuple(slot.health() for slot in self._slots.values())

    def worker_pids(self) -> list[int]:
        """Every process that holds a model, for the device's memory figures."""
        return [pid for slot in self._slots.values() for pid in slot.worker_pids()]

    def close(self) -> None:
        for mailbox in self._mailboxes:
            mailbox.close()
        self._launcher.close()
        for thread in self._threads:
            thread.join()
        for slot in self._slots.values():
            slot.stop()
