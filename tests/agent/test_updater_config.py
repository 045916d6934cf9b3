"""The agent's configuration, its program and its status."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.cli import main
from edge_agent.config import AgentConfig, load, load_board, parse
from edge_agent.files import held, is_held, write_durably
from fleet_protocol.errors import Conflict, MalformedBoard, MalformedConfig
from tests.agent.tuf_world import Device, World

SMALLEST = 'server = "https://fleet.example:8443"\nboard = "generic-x86_64"\nstate_dir = "state"\n'
SLOT = '[[slots]]\nname = "textline"\nsource = {kind = "directory", path = "frames"}\n'


def test_the_smallest_configuration_has_working_defaults() -> None:
    config = parse(SMALLEST)
    assert (config.bake.seconds, config.bake.min_frames, config.bake.max_error_share) == (60.0, 20, 0.05)
    assert (config.delivery.window, config.delivery.max_window, config.delivery.stall_s) == (4, 32, 30.0)
    assert (config.slots, config.health.interval_s, config.ca) == ((), None, None)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (SMALLEST + 'brokr = "x"\n', "brokr"),
        (SMALLEST + "[bake]\nsecnds = 3\n", "secnds"),
        (SMALLEST + SLOT + "fps = 5.0\n", "fps"),
        (SMALLEST.replace("state_dir", "statedir"), "statedir"),
        ('board = "x"\nstate_dir = "y"\n', "server"),
        (SMALLEST + "[bake]\nseconds = 0\n", "bake.seconds"),
        (SMALLEST + "[bake]\nmax_error_share = 1.5\n", "bake.max_error_share"),
        (SMALLEST + "[delivery]\nwindow = 9\nmax_window = 8\n", "delivery.window"),
        (SMALLEST + SLOT + SLOT, "textline"),
        (SMALLEST + SLOT.replace("textline", "../x"), "slot name"),
        (SMALLEST + SLOT.replace("directory", "camera"), "kind"),
        (SMALLEST.replace("https", "http"), "https"),
        ("server = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, names: str) -> None:
    with pytest.raises(MalformedConfig, match=names):
        parse(text)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(SMALLEST.replace("generic-x86_64", "own.toml") + SLOT)
    config = load(tmp_path / "config.toml")
    assert config.state == tmp_path / "state"
    assert (config.slots[0].source.path, config.board) == (str(tmp_path / "frames"), str(tmp_path / "own.toml"))


@pytest.mark.parametrize("path", sorted(resources.files("firmware_configs").iterdir(), key=str))
def test_every_board_that_comes_with_the_agent_can_be_named(path: Path) -> None:
    if path.name.endswith(".toml"):
        name = path.name.removesuffix(".toml")
        assert load_board(parse(SMALLEST.replace("generic-x86_64", name))).name == name


@pytest.mark.parametrize("board", ["no-such-board", "../secrets", "missing.toml"])
def test_a_board_that_is_not_there_is_named(board: str) -> None:
    with pytest.raises(MalformedConfig, match="no board profile"):
        load_board(parse(SMALLEST.replace("generic-x86_64", board)))


def test_a_board_file_that_is_not_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("name = 3")
    config = AgentConfig(server="https://x", board=str(tmp_path / "own.toml"), state_dir="s")
    with pytest.raises(MalformedBoard):
        load_board(config)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_durably(path, b"old")
    path.parent.joinpath(".kept.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"


def test_two_agents_never_share_a_state_folder(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "lock"
    assert not is_held(lock)
    with held(lock):
        assert is_held(lock)
        with pytest.raises(Conflict, match="another edge-agent"), held(lock):
            pass
    assert not is_held(lock)


# --- the program ------------------------------------------------------------------------------------------------------
@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(SMALLEST + SLOT)
    return path


def test_help_has_examples_and_version_is_data() -> None:
    for command in ("enrol", "run", "status"):
        shown = CliRunner().invoke(main, [command, "--help"])
        assert (shown.exit_code, "Example:" in shown.stdout) == (0, True)
    assert CliRunner().invoke(main, ["version"]).stdout.strip().count(".") == 2
    assert CliRunner().invoke(main, ["no-such-command"]).exit_code == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from edge_agent.cli import main; main(['--help'], standalone_mode=False); "
        "print([name for name in ('numpy', 'tuf', 'paho', 'cv2', 'cryptography', 'psutil') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.rstrip().endswith("[]")


def test_a_device_that_is_not_enrolled_says_so(config: Path) -> None:
    shown = CliRunner().invoke(main, ["status", "--config", str(config)])
    run = CliRunner().invoke(main, ["run", "--config", str(config)])
    assert shown.stdout.startswith("not enrolled, agent not running, seq 0")
    assert run.exit_code == 3
    assert run.stderr.startswith("error [not-enrolled]: ")


def test_an_unknown_key_is_one_line_on_stderr(config: Path) -> None:
    config.write_text(SMALLEST + "bord = 1\n")
    result = CliRunner().invoke(main, ["status", "--config", str(config)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error [malformed-config]: ")
    assert "bord" in result.stderr


def test_status_tells_served_desired_and_the_last_error(config: Path, tmp_path: Path) -> None:
    world = World()
    first = world.release("1.0.0")
    world.assign(first)
    device = Device(world, tmp_path / "state").start().run(12)
    world.assign(world.release("2.0.0", floor=9))
    device.run(3)
    with held(tmp_path / "state" / "lock"):
        shown = json.loads(CliRunner().invoke(main, ["status", "--config", str(config), "--json"]).stdout)
    people = CliRunner().invoke(main, ["status", "--config", str(config)]).stdout
    (slot,) = shown["slots"]
    assert (shown["is_running"], shown["assignment_seq"], shown["last_refusal"]) == (True, 2, None)
    assert (slot["served"], slot["committed"], slot["state"]) == (first.digest, first.digest, "REJECTED")
    assert slot["desired"] != first.digest
    assert slot["error"]["code"] == "below-security-floor"
    assert f"serves {first.digest[:12]}" in people
    assert "last error [below-security-floor]" in people
