"""The overlay for a board's card: deterministic, complete, and hardened."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_agent import config as agent_config
from fleet_protocol import board as boards
from fleet_protocol.claim import Claim
from fleet_protocol.errors import MalformedBoard, MalformedConfig, MalformedPackage, NotFound
from fleet_server.image import archive, sources
from fleet_server.image.overlay import AgentFiles, Entry, Slot, overlay_entries, parse_slot

CLAIM = Claim("0123456789ab", b"s" * 32, b"c" * 16, b"r" * 16)
SLOT = Slot("textline", "directory", "/srv/frames", 5.0)


def entries(board: str = "raspberry-pi-5", claim: Claim | None = CLAIM, agent: AgentFiles | None = None) -> list[Entry]:
    profile, toml = sources.read_board(board)
    return overlay_entries(
        board=profile, board_toml=toml, server="https://fleet.example:8443", ca_pem=b"PEM", claim=claim, slots=[SLOT],
        agent=agent or sources.installed_agent(profile), texts=sources.texts(),
    )  # fmt: skip


def by_path(found: list[Entry]) -> Mapping[str, Entry]:
    return {entry.path: entry for entry in found}


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The overlay as it lies on a card."""
    root = tmp_path_factory.mktemp("card")
    tar = root / "overlay.tar"
    archive.save_tar(tar, entries())
    with tarfile.open(tar) as opened:
        opened.extractall(root / "root", filter="tar")
    return root / "root"


def test_the_same_input_gives_the_same_bytes() -> None:
    agent = sources.installed_agent(sources.read_board("raspberry-pi-5")[0])
    shuffled = AgentFiles(agent.version, dict(reversed(agent.files.items())), agent.requirements)
    first, second = io.BytesIO(), io.BytesIO()
    archive.write_tar(first, entries(agent=agent))
    archive.write_tar(second, entries(agent=shuffled))
    assert hashlib.sha256(first.getvalue()).digest() == hashlib.sha256(second.getvalue()).digest()


def test_every_file_belongs_to_root_and_is_dated_alike() -> None:
    stream = io.BytesIO()
    archive.write_tar(stream, entries())
    stream.seek(0)
    with tarfile.open(fileobj=stream) as opened:
        members = opened.getmembers()
    assert {(member.uid, member.gid, member.uname, member.mtime) for member in members} == {
        (0, 0, "root", 1_577_836_800)
    }
    assert [member.name for member in members] == sorted(member.name for member in members)


@pytest.mark.parametrize("name", sources.board_names())
def test_every_board_gets_an_overlay(name: str) -> None:
    found = by_path(entries(name))
    profile = sources.read_board(name)[0]
    assert boards.parse((found["etc/edge-agent/board.toml"].content or b"").decode()) == profile
    assert f"{profile.image.boot_mount.strip('/')}/edgefleet/claim" in found


def test_only_its_owner_reads_the_claim_and_the_tar_that_holds_it(tmp_path: Path) -> None:
    found = by_path(entries())
    assert found["boot/firmware/edgefleet/claim"].mode == 0o600
    assert found["boot/firmware/edgefleet"].mode == 0o700
    assert Claim.parse((found["boot/firmware/edgefleet/claim"].content or b"").decode()) == CLAIM
    archive.save_tar(tmp_path / "overlay.tar", entries())
    assert (tmp_path / "overlay.tar").stat().st_mode & 0o777 == 0o600


def test_no_claim_means_no_claim_file() -> None:
    assert not any("claim" in path for path in by_path(entries(claim=None)) if not path.startswith("opt/"))


def test_folders_of_the_system_are_left_alone() -> None:
    """A tar entry for /etc would change its mode on the card."""
    folders = {entry.path for entry in entries() if entry.content is None and not entry.link}
    assert folders == {
        "opt/edge-agent", f"opt/edge-agent/{sources.metadata.version('edgefleet')}", "etc/edge-agent",
        "boot/firmware/edgefleet",
    }  # fmt: skip


def test_the_agent_reads_its_configuration_and_board(card: Path) -> None:
    config = agent_config.parse((card / "etc/edge-agent/config.toml").read_text())
    assert config.server == "https://fleet.example:8443"
    assert config.state_dir == "/var/lib/edge-agent"
    assert config.slots[0].source.path == "/srv/frames"
    assert boards.parse((card / "etc/edge-agent/board.toml").read_text()).name == "raspberry-pi-5"


def test_the_packed_agent_starts_from_the_card(card: Path) -> None:
    """The launcher runs the packed code, not the one that is installed here."""
    launcher = card / "opt/edge-agent/current/edge-agent"
    environment = {"EDGE_PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([launcher, "version"], env=environment, capture_output=True, text=True, check=True)
    assert sources.metadata.version("edgefleet") in done.stdout
    code = "import edge_agent, sys; print(edge_agent.__file__)"
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(card / "opt/edge-agent/current/lib")},
    )  # fmt: skip
    assert shown.stdout.startswith(str(card))


def test_the_board_gets_the_packages_of_its_runtime_and_none_of_the_servers() -> None:
    profile, _ = sources.read_board("raspberry-pi-5")
    lines = sources.installed_agent(profile).requirements
    names = {line.partition("==")[0].lower() for line in lines}
    assert {"paho-mqtt", "onnxruntime", "cryptography", "numpy"} <= names
    assert not {"fastapi", "sqlalchemy", "openvino", "pytest"} & names
    assert all("==" in line for line in lines if not line.startswith(("openvino", "ai-edge-litert")))


def test_a_wheel_is_packed_instead_of_the_installation(tmp_path: Path) -> None:
    import zipfile

    wheel = tmp_path / "edgefleet-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("edge_agent/__init__.py", "")
        made.writestr("fleet_server/secret.py", "")
        made.writestr(
            "edgefleet-9.9.9.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: edgefleet\nVersion: 9.9.9\nRequires-Dist: not-installed-here>=3\n",
        )
    profile, _ = sources.read_board("raspberry-pi-5")
    agent = sources.wheel_agent(wheel, profile)
    assert agent.version == "9.9.9"
    assert set(agent.files) == {"edge_agent/__init__.py", "edgefleet-9.9.9.dist-info/METADATA"}
    assert agent.requirements == ["not-installed-here>=3"]


def test_what_is_no_wheel_of_edgefleet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"not a zip")
    profile, _ = sources.read_board("raspberry-pi-5")
    with pytest.raises(MalformedPackage):
        sources.wheel_agent(tmp_path / "x.whl", profile)


@pytest.mark.parametrize("name", ["no-such-board", "./missing.toml"])
def test_an_unknown_board_is_not_found(name: str) -> None:
    with pytest.raises(NotFound):
        sources.read_board(name)


@pytest.mark.parametrize("mount", ["boot", "/boot/../../etc", "/"])
def test_a_boot_mount_that_leads_off_the_card_is_refused(mount: str, tmp_path: Path) -> None:
    text = sources.read_board("raspberry-pi-5")[1].decode().replace("/boot/firmware", mount)
    (tmp_path / "board.toml").write_text(text)
    with pytest.raises(MalformedBoard):
        entries(board=str(tmp_path / "board.toml"))


@pytest.mark.parametrize(
    "text", ["textline", "a=camera:/dev/video0", "a=directory:frames", "a=video:/x:0", "a=video:/x:fast"]
)
def test_a_slot_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(MalformedConfig):
        parse_slot(text)


def test_a_slot_reads_name_kind_path_and_rate() -> None:
    assert parse_slot("textline=video:/srv/clip.mp4:12.5") == Slot("textline", "video", "/srv/clip.mp4", 12.5)
    assert parse_slot("a=directory:/srv").fps == 5


def test_both_units_are_enabled_and_systemd_accepts_them(card: Path) -> None:
    units = card / "etc/systemd/system"
    for name in ("edge-agent.service", "edge-agent-enrol.service"):
        assert (units / "multi-user.target.wants" / name).resolve() == units / name
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed here")
    launcher = str(card / "opt/edge-agent/current/edge-agent")
    for unit in units.glob("*.service"):
        # verify insists on executables that exist: on this machine the launcher lies below the card's root.
        unit.write_text(unit.read_text().replace("/opt/edge-agent/current/edge-agent", launcher))
        done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
        assert unit.name not in done.stderr, done.stderr
        assert done.returncode == 0, done.stderr
