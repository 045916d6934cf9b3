"""Fixtures and settings that every suite shares."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Tests of Ctrl-C need the ordinary SIGINT; whoever starts the suite in the background hands down an ignored one."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
