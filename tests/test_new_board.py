"""Adding a board is adding one file (SPEC 2.2): all programs take it as it lies there, and nothing else is touched."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from edge_agent import config as agent_config
from fleet_protocol import board as boards
from fleet_server.image import sources
from model_compiler import boards as compiler_boards
from model_compiler.stages.plan import plan
from tests.server.ctl_fixtures import *  # noqa: F403 - fixtures
from tests.server.ctl_fixtures import Ctl
from tests.server.web_fixtures import *  # noqa: F403 - fixtures
from tests.server.web_kit import WebServer


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A board that nobody has heard of, in a folder of its own."""
    text = sources.read_board("generic-aarch64")[1].decode()
    path = tmp_path / "boards" / "gate-box.toml"
    path.parent.mkdir()
    path.write_text(text.replace('"generic-aarch64"', '"gate-box"').replace("memory_mib = 2048", "memory_mib = 3072"))
    return path


def test_fleetctl_takes_it(ctl: Ctl, own: Path) -> None:
    assert ctl("board", "check", str(own)).code == 0
    assert ctl("board", "show", str(own), "--json").json["hardware"]["memory_mib"] == 3072


def test_the_compiler_builds_for_it(own: Path) -> None:
    board, content = compiler_boards.load("boards/gate-box.toml", own.parents[1])
    assert content == own.read_bytes()
    assert [[each.name for each in build.boards] for build in plan(["int8"], [board])] == [["gate-box"]]


def test_the_agent_starts_on_it(own: Path) -> None:
    config = own.parents[1] / "config.toml"
    config.write_text('server = "https://fleet.example:8443"\nboard = "boards/gate-box.toml"\nstate_dir = "state"\n')
    assert agent_config.load_board(agent_config.load(config)).name == "gate-box"


def test_a_card_is_made_for_it_and_a_device_of_it_enrols(admin: Ctl, web: WebServer, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.tar"
    made = admin("image", "overlay", "--board", str(own), "--new-claim", "cam-1", "--out", str(out), "--json")
    assert made.json["board"] == "gate-box", made.err
    with tarfile.open(out) as archive:
        member = archive.extractfile("etc/edge-agent/board.toml")
        assert member is not None
        assert boards.parse(member.read().decode()).name == "gate-box"
    assert [each["board"] for each in web.ask("GET", "/v1/claims").json] == ["gate-box"]
