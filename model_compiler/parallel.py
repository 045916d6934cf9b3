"""Work on many images at once, with answers in the order of the questions and a bounded number in flight."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def default_jobs() -> int:
    """As many as this process may use CPUs, at most 16."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cpus)


def in_order(work: Callable[[Question], Answer], questions: Iterable[Question], jobs: int) -> Iterator[Answer]:
    """``work`` applied by ``jobs`` threads; the answers do not depend on ``jobs``, nor does their order.

    At most ``3 * jobs`` answers wait at any time, so memory does not grow with the number of questions.
    """
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="compile")
    waiting: deque[Future[Answer]] = deque()
    try:
        for question in questions:
            waiting.append(pool.submit(work, question))
            if len(waiting) >= 3 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After a refusal or Ctrl-C only the answers that are being worked on are waited for.
        pool.shutdown(cancel_futures=True)
