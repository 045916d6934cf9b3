"""What a worker gives up before it sees a model. Linux only; every call is to the process itself."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38


def isolate() -> None:
    """Die with the agent, leave no core, be unreadable to other processes of this user, write no file."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _limit(resource.RLIMIT_CORE, 0)
    # SPEC 5.5 made impossible to break: whatever a runtime tries, no byte of this process reaches a regular file.
    _limit(resource.RLIMIT_FSIZE, 0)


def limit_memory(memory_mib: int) -> None:
    """Bound private writable memory; an allocation beyond it fails, which the loader reports as a sentence.

    RLIMIT_DATA and not RLIMIT_AS: mapped libraries and reserved thread arenas do not count.
    """
    _limit(resource.RLIMIT_DATA, memory_mib * 1024**2)


def _limit(what: int, wanted: int) -> None:
    _, hard = resource.getrlimit(what)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(what, (most, most))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
