"""A founded fleet, opened; and a real Mosquitto with mutual TLS where a test asks for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fleet_server.app import open_fleet
from fleet_server.ceremony import Founding, found_fleet
from fleet_server.config import ServerConfig
from fleet_server.fleet import Fleet
from tests.server.kit import NOW, SteppedClock


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Founding:
    """One ceremony for all tests; each works on a copy."""
    root = tmp_path_factory.mktemp("founding")
    config = ServerConfig(fleet="acme", hosts=("localhost",), listen="127.0.0.1:0", broker_port=0)
    return found_fleet(root / "state", root / "offline", config, NOW)


@pytest.fixture
def founding(founded: Founding, tmp_path: Path) -> Founding:
    """A server's state of its own, never opened before."""
    shutil.copytree(founded.state, tmp_path / "state")
    return replace(founded, state=tmp_path / "state")


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def fleet(founding: Founding, clock: SteppedClock) -> Iterator[Fleet]:
    """An open fleet without broker or web server; its time stands still until ``clock`` is moved."""
    opened = open_fleet(founding.state, clock)
    yield opened
    opened.close()
