"""The agent's side of one worker: start the process, ask it, notice that it died or hangs. The worker never imports this."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakSet

from edge_agent.ports import Proof, SealedModel
from edge_agent.worker.frames import FrameWriter
from edge_agent.worker.wire import (
    NOTHING,
    Answer,
    Channel,
    FrameFailed,
    Infer,
    Inferred,
    Load,
    Loaded,
    Prove,
    Proved,
    Refused,
)
from fleet_protocol.board import Board
from fleet_protocol.errors import InputTooLarge, MalformedMessage, ProofError, WorkerDied, all_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_GRACE_S: Final = 0.5
_AnswerT = TypeVar("_AnswerT")


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Seconds after which a worker that does not answer is taken for hung and killed."""

    load_s: float = 120.0
    prove_s: float = 60.0
    infer_s: float = 10.0


class Worker:
    """One worker process. ``load``, ``prove`` and ``infer`` may be called from any thread, one at a time."""

    def __init__(self, board: Board, limits: WorkerLimits) -> None:
        """Start the process; made by :class:`Launcher` only."""
        self._board, self._limits = board, limits
        self._turn = threading.Lock()
        self._frames = FrameWriter()
        self._end, theirs = socket.socketpair()
        self._channel: Channel[Answer] = Channel(self._end, Answer)
        self._classes = 0
        with ExitStack() as undo:
            undo.callback(self._frames.close)
            undo.callback(self._end.close)
            with theirs:
                self._process = _start(theirs.fileno(), self._frames.fd)
            undo.pop_all()

    @property
    def pid(self) -> int:
        """The operating system's number of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs; asks the operating system, not the process."""
        return self._process.poll() is None

    def load(self, model: SealedModel) -> None:
        """Open and load ``model`` and run it once. Raises ModelNotLoadable, WorkerDied or another ProofError."""
        request = Load(
            str(model.blob), model.key, model.manifest.encode(), self._board.name,
            self._board.runtime.threads, self._board.limits.worker_memory_mib,
        )  # fmt: skip
        self._ask(request, Loaded, self._limits.load_s)
        self._classes = len(model.manifest.postprocessing.labels)

    def prove(self) -> Proof:
        """Replay the golden frames. Raises GoldenFramesDiffer, LatencyOverBudget, WorkerDied."""
        proved = self._ask(Prove(), Proved, self._limits.prove_s)
        return Proof(proved.frames, proved.worst_error, proved.latency_p95_ms)

    def infer(self, pixels: NDArray[np.uint8]) -> Inferred | FrameFailed:
        """Top-1 of a frame (H, W, 3), or why this frame failed. Raises WorkerDied."""

        def put() -> Infer:
            self._frames.write(pixels)
            return Infer(*pixels.shape[:2])

        try:
            answer = self._exchange(put, self._limits.infer_s)
        except InputTooLarge as error:
            return FrameFailed(str(error))
        # What a worker says is input from outside: a model may have taken it over.
        if isinstance(answer, FrameFailed) or (isinstance(answer, Inferred) and self._is_sound(answer)):
            return answer
        raise self._lost("its answer to a frame makes no sense")

    def _is_sound(self, answer: Inferred) -> bool:
        # A number of JSON cannot be NaN, and a label that does not exist has no name.
        numbers = (answer.confidence, *answer.values, *(each.score for each in answer.boxes))
        labels = (answer.index, *(each.index for each in answer.boxes))
        return all(map(math.isfinite, numbers)) and all(
            0 <= index < self._classes or (index == NOTHING and not answer.boxes) for index in labels
        )

    def stop(self) -> None:
        """End the process and give its memory back; a command under way raises WorkerDied. Safe to call twice."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)  # the worker reads the end of its requests and leaves by itself
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill()
        with self._turn:
            self._end.close()
            self._frames.close()

    def _ask(self, request: Load | Prove, wanted: type[_AnswerT], limit_s: float) -> _AnswerT:
        answer = self._exchange(lambda: request, limit_s)
        if isinstance(answer, wanted):
            return answer
        if isinstance(answer, Refused):
            raise _error_of(answer)
        raise self._lost(f"it answered {type(answer).__name__} to {type(request).__name__}")

    def _exchange(self, request: Callable[[], Load | Prove | Infer], limit_s: float) -> Answer:
        with self._turn:
            if self._end.fileno() < 0:
                raise WorkerDied("the worker was stopped")
            try:
                self._channel.send(request(), limit_s)
                return self._channel.receive(limit_s)
            except TimeoutError:
                raise self._lost(f"it did not answer within {limit_s:g} s") from None
            except (OSError, EOFError):
                raise self._lost("") from None
            except MalformedMessage as error:
                raise self._lost(str(error)) from error

    def _lost(self, reason: str) -> WorkerDied:
        """Make sure that the process is gone, and say how it went."""
        if reason:
            self._kill()
            return WorkerDied(f"the worker was ended: {reason}")
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return WorkerDied("the worker closed its connection")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return WorkerDied(f"the worker died: {how}")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Launcher:
    """Starts workers, always from the same thread.

    A worker dies when the *thread* that started it ends (PR_SET_PDEATHSIG), so that thread must live as long as the agent.
    """

    def __init__(self, board: Board, limits: WorkerLimits) -> None:
        self._board, self._limits = board, limits
        self._thread = ThreadPoolExecutor(1, "worker-launcher")
        self._turn = threading.Lock()
        self._started: WeakSet[Worker] = WeakSet()
        self._is_closed = False

    def start(self) -> Worker:
        """A fresh worker without a model. Raises WorkerDied where no process can be started, and after ``close``."""
        with self._turn:
            if self._is_closed:
                raise WorkerDied("no worker is started any more: the agent stops")
            try:
                worker = self._thread.submit(Worker, self._board, self._limits).result()
            except OSError as error:
                raise WorkerDied(f"no worker can be started: {error.strerror or error}") from error
            self._started.add(worker)
            return worker

    def close(self) -> None:
        """Stop every worker, those included that are loading just now. Safe to call twice."""
        with self._turn:
            self._is_closed = True
            remaining = list(self._started)
        for worker in remaining:
            worker.stop()
        self._thread.shutdown()


def _start(socket_fd: int, frames_fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "edge_agent.worker", str(socket_fd), str(frames_fd)],
        pass_fds=(socket_fd, frames_fd),
        env=worker_environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        process_group=0,
    )


def worker_environment(agents: Mapping[str, str]) -> dict[str, str]:
    """The little that a worker inherits: where Python and its libraries are; no home, no proxy, no credentials."""
    kept = {name: agents[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG") if name in agents}
    return kept | {
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _error_of(refused: Refused) -> ProofError:
    for kind in all_errors(ProofError):
        if kind.code == refused.code and issubclass(kind, ProofError):
            return kind(refused.reason)
    return ProofError(f"{refused.reason} [{refused.code}]")
