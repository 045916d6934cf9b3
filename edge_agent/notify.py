"""Telling the service manager that the agent is ready and alive (sd_notify), where there is one."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Final

LONGEST_STEP_S: Final = 600.0
"""No step of the loop takes longer: loading (120 s) and proving (60 s) a model, verifying 2 GiB on a slow card."""


def notify(state: str) -> None:
    """Send ``state`` (``READY=1``, ``WATCHDOG=1``, ``STOPPING=1``) to ``NOTIFY_SOCKET``; nothing without it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint:
        endpoint.sendto(state.encode("ascii"), name)


class Watchdog:
    """Speaks for the loop, whose single steps may take longer than the service manager's interval.

    It falls silent, and the agent is started anew, when a step has not ended after ``LONGEST_STEP_S``.
    """

    def __init__(self) -> None:
        self._period_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
        self._fed_s = time.monotonic()

    def feed(self) -> None:
        """A step of the loop has ended."""
        self._fed_s = time.monotonic()

    def run(self, stopping: threading.Event) -> None:
        """The body of a thread; returns at once where the service manager does not watch."""
        while self._period_s and not stopping.wait(self._period_s):
            if time.monotonic() - self._fed_s < LONGEST_STEP_S:
                notify("WATCHDOG=1")
