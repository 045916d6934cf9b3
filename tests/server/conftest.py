"""A founded fleet, opened; and a real Mosquitto with mutual TLS where a test asks for it."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fleet_server.app import open_fleet
from fleet_server.ceremony import Founding, found_fleet
from fleet_server.config import ServerConfig
from fleet_server.fleet import Fleet
from fleet_server.running import Background
from tests.server.kit import NOW, DeviceKit, SteppedClock, enrol
from tests.server.wire import Wire, wire_of


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


@pytest.fixture(scope="session")
def founded_now(tmp_path_factory: pytest.TempPathFactory) -> Founding:
    """A ceremony in real time: a real broker checks certificates against the real clock."""
    root = tmp_path_factory.mktemp("founding-now")
    config = ServerConfig(fleet="acme", hosts=("localhost",), listen="127.0.0.1:0", broker_port=0)
    return found_fleet(root / "state", root / "offline", config, time.time())


@dataclass(slots=True)
class Live:
    """An open fleet with its broker and threads, in real time; ``connect`` gives devices a connection."""

    fleet: Fleet
    founding: Founding
    background: Background
    directory: Path
    wires: list[Wire]

    def enrol(self, name: str) -> DeviceKit:
        return enrol(self.fleet, name)

    def connect(self, device: DeviceKit, *, client_id: str | None = None) -> Wire:
        layout, port = self.fleet.layout, self.fleet.config.broker_port
        wire = wire_of(device, port, layout.ca_certificate, self.directory / "identities", client_id=client_id)
        self.wires.append(wire)
        return wire


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def live(founded_now: Founding, tmp_path: Path) -> Iterator[Live]:
    """A real Mosquitto with mutual TLS, ingest, publisher and rollouts; no HTTPS."""
    shutil.copytree(founded_now.state, tmp_path / "state")
    founding = replace(founded_now, state=tmp_path / "state")
    fleet = open_fleet(founding.state, time.time, broker_port=free_port())
    background = Background(fleet)
    running = Live(fleet, founding, background, tmp_path, [])
    try:
        background.start()
        yield running
    finally:
        for wire in running.wires:
            wire.close()
        background.stop()
        fleet.close()
