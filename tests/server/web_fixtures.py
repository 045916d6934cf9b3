"""Fixtures of the web tests: a fleet founded at the true time (TLS looks at the true clock), served by a real server."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fleet_server.app import open_fleet
from fleet_server.ceremony import Founding, found_fleet
from fleet_server.config import ServerConfig
from fleet_server.fleet import Fleet
from tests.server.kit import SteppedClock
from tests.server.web_kit import WebServer, served


@pytest.fixture(scope="session")
def web_founded(tmp_path_factory: pytest.TempPathFactory) -> Founding:
    """One ceremony for all web tests."""
    root = tmp_path_factory.mktemp("web-founding")
    config = ServerConfig(fleet="acme", hosts=("localhost",), listen="127.0.0.1:0", broker_port=0)
    return found_fleet(root / "state", root / "offline", config, time.time())


@pytest.fixture
def web_founding(web_founded: Founding, tmp_path: Path) -> Founding:
    """A server's state of its own."""
    shutil.copytree(web_founded.state, tmp_path / "state")
    return replace(web_founded, state=tmp_path / "state")


@pytest.fixture
def web_clock() -> SteppedClock:
    return SteppedClock(time.time())


@pytest.fixture
def web_fleet(web_founding: Founding, web_clock: SteppedClock) -> Iterator[Fleet]:
    """An open fleet whose time stands still until ``web_clock`` is moved."""
    opened = open_fleet(web_founding.state, web_clock)
    yield opened
    opened.close()


@pytest.fixture
def web(web_fleet: Fleet, web_founding: Founding) -> Iterator[WebServer]:
    """That fleet behind HTTPS."""
    with served(web_fleet, web_founding.admin_token) as server:
        yield server
