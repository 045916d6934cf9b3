"""The threads beside the web server: ingest, publishing, rollouts, upkeep. Each repeats one step until it is stopped."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from fleet_protocol.errors import FleetError
from fleet_protocol.identifiers import DeviceId
from fleet_protocol.messages import MissingChunks
from fleet_server.adapters.mqtt import MqttLink, Received
from fleet_server.ports import Clock
from fleet_server.services.ingest import MAX_BATCH, Ingest, Ingested

log = logging.getLogger(__name__)

LINGER_S: Final = 0.05
WAIT_S: Final = 0.25
PAUSES_S: Final = (0.2, 1.0, 5.0)
MAX_REQUESTS: Final = 1000


class Loop(threading.Thread):
    """Runs ``step`` every ``interval_s`` in a thread of its own. A step that fails is repeated, later and later."""

    def __init__(self, name: str, step: Callable[[], object], interval_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self._step = step
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self.failures = 0

    def stop(self, limit_s: float) -> None:
        """Finish the step that runs and end."""
        self._stopping.set()
        if self.is_alive():
            self.join(limit_s)

    def run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                self._step()
            except FleetError as error:
                pause = self._failed(f"[{error.code}] {error}")
            except SQLAlchemyError as error:
                pause = self._failed(f"the registry: {error}")
            except Exception:
                # A defect in one step must not silently end the others: it is logged with its trace and tried again.
                log.exception("%s: a step failed in an unforeseen way", self.name)
                pause = self._failed("see the trace above")
            else:
                self.failures, pause = 0, self._interval_s

    def _failed(self, what: str) -> float:
        self.failures += 1
        pause = PAUSES_S[min(self.failures, len(PAUSES_S)) - 1]
        log.warning("%s failed %d times: %s; next in %.1f s", self.name, self.failures, what, pause)
        return pause


class Requests:
    """Devices that ask for chunks again, from the ingest thread to the publisher's; bounded, the oldest go first."""

    def __init__(self) -> None:
        self._waiting: collections.deque[tuple[DeviceId, MissingChunks]] = collections.deque(maxlen=MAX_REQUESTS)

    def add(self, requests: Sequence[tuple[DeviceId, MissingChunks]]) -> None:
        """Keep them for the publisher. One that falls out is asked again by its device."""
        self._waiting.extend(requests)

    def take(self) -> tuple[DeviceId, MissingChunks] | None:
        """The oldest, or None."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None


class Intake:
    """Messages from the broker into the registry: batch, commit, acknowledge. A batch is kept until it is committed."""

    def __init__(
        self,
        link: MqttLink,
        ingest: Ingest,
        requests: Requests,
        clock: Clock,
        generation: Callable[[], int],
        forget_presence: Callable[[], None],
    ) -> None:
        self._link = link
        self._ingest = ingest
        self._requests = requests
        self._clock = clock
        self._generation = generation
        self._forget_presence = forget_presence
        self._known_generation = 0
        self._batch: list[Received] = []

    def step(self) -> None:
        """Take in one batch, if there is one."""
        generation = self._generation()
        if generation != self._known_generation:
            self._forget_presence()
            self._known_generation = generation
        if not self._batch:
            self._batch = self._link.receive(MAX_BATCH, LINGER_S, WAIT_S)
        if self._batch:
            done = self._ingest.apply([each.incoming for each in self._batch], self._clock())
            self._finish(done)

    def _finish(self, done: Ingested) -> None:
        self._link.acknowledge(self._batch)
        self._batch = []
        self._requests.add(done.missing)


def stop_all(loops: Sequence[Loop], limit_s: float) -> None:
    """End every loop within ``limit_s`` altogether."""
    deadline = time.monotonic() + limit_s
    for loop in loops:
        loop.stop(max(deadline - time.monotonic(), 0.05))
