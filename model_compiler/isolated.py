"""Work in a process of its own: its memory, its threads, its chatter and its crash are not this process's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, ParamSpec, TypeVar

from fleet_protocol.errors import WorkerDied

Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")
_STREAMS: Final = (1, 2)


def alone(work: Callable[Arguments, Answer], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
    """``work(...)`` in a fresh process on one CPU, silent; raises what ``work`` raises, WorkerDied where the process dies.

    One CPU always: some tools give other bytes on other numbers of CPUs.
    """
    # "spawn": a fork would inherit this process's memory and threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_settle) as pool:
        try:
            with _interrupts_held():
                answer = pool.submit(work, *args, **kwargs)
            return answer.result()
        except BrokenProcessPool as error:
            raise WorkerDied(
                f"the process for {work.__name__.strip('_')} died; this machine may be short of memory"
            ) from error


def _settle() -> None:
    if hasattr(os, "sched_setaffinity"):  # Linux has it, macOS does not
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # Quantizers of others print bars and tables; stdout is data here, and progress is told by one voice only.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in _STREAMS:
        os.dup2(nowhere, stream)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C: it goes to the whole group, and the parent alone answers it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
