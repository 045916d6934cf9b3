"""Stage 9: latency and memory, in a fresh process that holds nothing but the runtime and the model."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.board import RuntimeName
from fleet_protocol.errors import WorkerDied
from model_compiler.targets import Session, target

if TYPE_CHECKING:
    from numpy.typing import NDArray

WARM_UP_RUNS: Final = 5
RUNS: Final = 200
MIN_RUNS: Final = 20
BUDGET_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Timing:
    """One thread on one CPU of this machine: p50 and p95 of a run (ms); resident memory of the whole process (bytes)."""

    p50_ms: float
    p95_ms: float
    resident_bytes: int


def measure(runtime: RuntimeName, model: bytes, frames: Sequence[NDArray[Any]]) -> Timing:
    """Run ``frames`` in turn, 200 times or for 3 seconds, in a process of its own; raises WorkerDied or ModelNotLoadable."""
    # "spawn": a fork would inherit this process's memory and be measured with it.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            with _interrupts_held():
                answer = pool.submit(_measure_here, runtime, model, list(frames))
            return answer.result()
        except BrokenProcessPool as error:
            raise WorkerDied(
                f"the process that measured {runtime} died; this machine may be short of memory"
            ) from error


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C: it goes to the whole group, and the parent alone answers it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _measure_here(runtime: RuntimeName, model: bytes, frames: list[NDArray[Any]]) -> Timing:
    import numpy as np
    import psutil

    if hasattr(os, "sched_setaffinity"):  # Linux has it, macOS does not
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    session = target(runtime).open_session(model, threads=1, optimised=True)
    for number in range(WARM_UP_RUNS):
        session.run([frames[number % len(frames)]])
    taken_ms = _timed(session, frames)
    p50, p95 = np.percentile(taken_ms, [50, 95])
    return Timing(round(float(p50), 3), round(float(p95), 3), psutil.Process().memory_info().rss)


def _timed(session: Session, frames: list[NDArray[Any]]) -> list[float]:
    taken_ms: list[float] = []
    end = time.perf_counter() + BUDGET_S
    while len(taken_ms) < RUNS and (len(taken_ms) < MIN_RUNS or time.perf_counter() < end):
        start = time.perf_counter()
        session.run([frames[len(taken_ms) % len(frames)]])
        taken_ms.append(1000.0 * (time.perf_counter() - start))
    return taken_ms
