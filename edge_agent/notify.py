"""Telling the service manager that the agent is ready and alive (sd_notify), where there is one."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send ``state`` (``READY=1``, ``WATCHDOG=1``, ``STOPPING=1``) to ``NOTIFY_SOCKET``; nothing without it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint:
        endpoint.sendto(state.encode("ascii"), name)
