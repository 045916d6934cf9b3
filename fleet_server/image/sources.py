"""Where the overlay's parts come from: the installed distribution (or a wheel of it), the board's file, the templates."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fleet_protocol import board as boards
from fleet_protocol.board import Board
from fleet_protocol.errors import MalformedBoard, MalformedPackage, NotFound
from fleet_server.image.overlay import AgentFiles, Texts

PACKAGES: Final = ("edge_agent", "fleet_protocol", "firmware_configs")
"""What runs on a device. They are found by name and read as files: this program never imports the agent."""

RUNTIME_EXTRAS: Final = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "tflite"}
"""Extra of the distribution that brings a board's runtime."""

_MAX_BOARD_BYTES: Final = 65_536
_MAX_WHEEL_FILE: Final = 4_000_000
_DISTRIBUTION: Final = "edgefleet"
_SUFFIXES: Final = frozenset({".py", ".toml", ".md"})
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)([^;]*)(?:;\s*extra\s*==\s*[\"']([^\"']+)[\"'])?\s*")


def board_names() -> list[str]:
    """The boards of ``firmware_configs``, sorted."""
    entries = resources.files("firmware_configs").iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def read_board(name_or_path: str) -> tuple[Board, bytes]:
    """A board by its name in ``firmware_configs`` or by the path of its TOML; raises NotFound or MalformedBoard."""
    if name_or_path.endswith(".toml"):
        return read_board_file(Path(name_or_path))
    if name_or_path not in board_names():
        raise NotFound(
            f"there is no board {name_or_path[:80]}; `fleetctl board list` shows those that are known, or give a .toml file"
        )
    return _board((resources.files("firmware_configs") / f"{name_or_path}.toml").read_bytes(), name_or_path)


def read_board_file(path: Path) -> tuple[Board, bytes]:
    """The board that a file describes, and its bytes; raises NotFound or MalformedBoard."""
    try:
        with path.open("rb") as file:
            return _board(file.read(_MAX_BOARD_BYTES + 1), str(path))
    except OSError as error:
        raise NotFound(f"the board file {path} cannot be read: {error.strerror}") from error


def _board(content: bytes, where: str) -> tuple[Board, bytes]:
    if len(content) > _MAX_BOARD_BYTES:
        raise MalformedBoard(f"{where} has more than {_MAX_BOARD_BYTES} bytes, which no board needs")
    try:
        return boards.parse(content.decode()), content
    except UnicodeDecodeError as error:
        raise MalformedBoard(f"{where} is not UTF-8 text") from error


def texts() -> Texts:
    """The templates that lie beside this module."""
    here = resources.files("fleet_server.image")
    return Texts(
        launcher=(here / "edge-agent.sh").read_text("utf-8"),
        enrol_unit=(here / "edge-agent-enrol.service").read_text("utf-8"),
        run_unit=(here / "edge-agent.service").read_text("utf-8"),
        readme=(here / "overlay.md").read_text("utf-8"),
    )


def installed_agent(board: Board) -> AgentFiles:
    """The agent of this installation, with requirements pinned to what is installed here."""
    version = metadata.version(_DISTRIBUTION)
    files = {path: content for package in PACKAGES for path, content in _package_files(package)}
    return _agent(version, files, metadata.requires(_DISTRIBUTION) or [], board)


def wheel_agent(wheel: Path, board: Board) -> AgentFiles:
    """The agent in a wheel of edgefleet; raises MalformedPackage."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if _is_wanted(name)]
            (described,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            files = {name: _read(archive, name) for name in names}
            message = metadata.PathDistribution(zipfile.Path(archive, described.rpartition("/")[0] + "/")).metadata
    except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise MalformedPackage(f"{wheel.name} is not a wheel of edgefleet") from error
    if message["Name"] != _DISTRIBUTION or not any(name.startswith("edge_agent/") for name in files):
        raise MalformedPackage(f"{wheel.name} is not a wheel of edgefleet")
    return _agent(message["Version"], files, message.get_all("Requires-Dist") or [], board)


def requirements(declared: Iterable[str], extras: frozenset[str]) -> list[str]:
    """The lines of ``declared`` that belong to no extra or to one of ``extras``, pinned where a version is installed here."""
    lines = []
    for text in declared:
        match = _REQUIREMENT.fullmatch(text)
        if match is not None and (match[3] is None or match[3] in extras):
            lines.append(_pinned(match[1], match[2].strip()))
    return sorted(set(lines), key=str.lower)


def _agent(version: str, files: dict[str, bytes], declared: Iterable[str], board: Board) -> AgentFiles:
    extras = frozenset({"agent", RUNTIME_EXTRAS.get(board.runtime.name, "")})
    # The agent asks for its own version by the distribution's name.
    about = f"Metadata-Version: 2.1\nName: {_DISTRIBUTION}\nVersion: {version}\n"
    named = {**files, f"{_DISTRIBUTION}-{version}.dist-info/METADATA": about.encode()}
    return AgentFiles(version, named, requirements(declared, extras))


def _package_files(package: str) -> Iterable[tuple[str, bytes]]:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise NotFound(f"the package {package} is not installed here; give --agent-wheel")
    root = Path(next(iter(spec.submodule_search_locations)))
    for path in sorted(root.rglob("*")):
        name = f"{package}/{path.relative_to(root).as_posix()}"
        if path.is_file() and _is_wanted(name):
            yield name, path.read_bytes()


def _is_wanted(name: str) -> bool:
    return name.partition("/")[0] in PACKAGES and Path(name).suffix in _SUFFIXES and ".." not in name


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_WHEEL_FILE:
        raise MalformedPackage(f"{name} has more than {_MAX_WHEEL_FILE} bytes")
    return archive.read(name)


def _pinned(name: str, bounds: str) -> str:
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name}{bounds}"
