"""``fleetctl board``: answers without a server, and names what is wrong with a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fleet_server.image import sources
from tests.server.ctl_fixtures import *  # noqa: F403 - fixtures
from tests.server.ctl_fixtures import Ctl

TEXT = sources.read_board("raspberry-pi-5")[1].decode()


def test_every_shipped_board_is_listed(ctl: Ctl) -> None:
    listed = ctl("board", "list", "--json").json
    assert [each["name"] for each in listed] == sources.board_names()
    assert "edge-tpu" in ctl("board", "list").out


def test_a_board_is_shown_key_by_key(ctl: Ctl) -> None:
    shown = ctl("board", "show", "jetson-orin-nano").out
    assert "hardware.accelerator   cuda" in shown
    assert "runtime.precisions   int8, fp32" in shown


def test_an_unknown_board_ends_with_three_and_says_where_to_look(ctl: Ctl) -> None:
    said = ctl("board", "show", "../secrets")
    assert said.code == 3
    assert "fleetctl board list" in said.err


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (TEXT.replace("cores = 4", "coors = 4").encode(), "coors"),
        (TEXT.replace("threads = 3", 'threads = "3"').encode(), "threads"),
        (b"\xff\xfe", "UTF-8"),
        (b"#" * 70_000, "65536 bytes"),
        (b"", "name"),
    ],
    ids=["misspelt key", "text for a number", "not text", "too long", "empty"],
)
def test_what_is_wrong_with_a_file_is_named(ctl: Ctl, tmp_path: Path, content: bytes, names: str) -> None:
    (tmp_path / "own.toml").write_bytes(content)
    said = ctl("board", "check", str(tmp_path / "own.toml"))
    assert said.code == 1
    assert said.err.startswith("error [malformed-board]:")
    assert names in said.err


def test_a_file_that_is_not_there_ends_with_three(ctl: Ctl, tmp_path: Path) -> None:
    assert ctl("board", "check", str(tmp_path / "none.toml")).code == 3
    assert ctl("board", "check", str(tmp_path)).code == 3


def test_listing_boards_loads_nothing_heavy() -> None:
    """The budget of 150 ms is kept by what is not imported."""
    code = (
        "import sys; sys.argv = ['fleetctl', 'board', 'list']\n"
        "from fleet_server.fleetctl.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'rich', 'numpy', 'sqlalchemy', 'urllib3', 'ssl', 'cryptography', 'fastapi'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
