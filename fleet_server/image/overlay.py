"""What a board needs on its card, as entries of a tar (pure): same input, same bytes, on any machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from string import Template
from typing import Final

from fleet_protocol.board import Board
from fleet_protocol.claim import Claim
from fleet_protocol.errors import MalformedBoard, MalformedConfig
from fleet_protocol.identifiers import slot_name

CONFIG: Final = "etc/edge-agent/config.toml"
UNITS: Final = "etc/systemd/system"
STATE_DIR: Final = "/var/lib/edge-agent"
LAUNCHER: Final = "edge-agent"
_PUBLIC, _PROGRAM, _SECRET = 0o644, 0o755, 0o600


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, a folder (``content`` None) or a symbolic link (``link`` set). ``path`` is relative to the card's root."""

    path: str
    mode: int
    content: bytes | None = field(default=None, repr=False)
    link: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """A source of frames for one slot of the agent's configuration."""

    name: str
    kind: str
    path: str
    fps: float


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """The agent as it is installed: version, files by their path below ``lib``, pinned requirements."""

    version: str
    files: Mapping[str, bytes]
    requirements: Sequence[str]


@dataclass(frozen=True, slots=True)
class Texts:
    """Files that come with edgefleet and are filled in per board."""

    launcher: str
    enrol_unit: str
    run_unit: str
    readme: str


def overlay_entries(
    *,
    board: Board,
    board_toml: bytes,
    server: str,
    ca_pem: bytes,
    claim: Claim | None,
    slots: Sequence[Slot],
    agent: AgentFiles,
    texts: Texts,
) -> list[Entry]:
    """All entries, sorted by path, folders before what they hold. Raises MalformedBoard for a boot mount that is no path."""
    boot = _boot(board)
    values = {
        "title": board.title,
        "boot": f"/{boot}",
        "version": agent.version,
        "python": board.image.python,
        "glibc": board.image.glibc,
        "architecture": board.hardware.architecture,
    }
    entries = [
        *_agent(agent, texts),
        Entry("opt/edge-agent/README.md", _PUBLIC, _filled(texts.readme, values)),
        Entry("etc/edge-agent", 0o755),
        Entry("etc/edge-agent/board.toml", _PUBLIC, board_toml),
        Entry("etc/edge-agent/ca.pem", _PUBLIC, ca_pem),
        Entry(CONFIG, _PUBLIC, agent_config(server, slots).encode()),
        *_unit("edge-agent-enrol.service", _filled(texts.enrol_unit, values)),
        *_unit("edge-agent.service", _filled(texts.run_unit, values)),
    ]
    if claim is not None:
        entries.append(Entry(f"{boot}/edgefleet", 0o700))
        entries.append(Entry(f"{boot}/edgefleet/claim", _SECRET, f"{claim}\n".encode()))
    return sorted(entries, key=lambda entry: entry.path)


def agent_config(server: str, slots: Sequence[Slot]) -> str:
    """The agent's ``config.toml``; raises MalformedIdentifier for a slot's name."""
    lines = [
        f"server = {_quoted(server)}",
        'board = "/etc/edge-agent/board.toml"',
        f"state_dir = {_quoted(STATE_DIR)}",
        'ca = "/etc/edge-agent/ca.pem"',
    ]
    for slot in slots:
        source = f"kind = {_quoted(slot.kind)}, path = {_quoted(slot.path)}, fps = {float(slot.fps)}"
        lines += ["", "[[slots]]", f"name = {_quoted(slot_name(slot.name))}", f"source = {{ {source} }}"]
        lines += [f"results = {_quoted(slot.name + '.jsonl')}"]
    return "\n".join(lines) + "\n"


def parse_slot(text: str) -> Slot:
    """``textline=directory:/srv/frames:5`` (frames per second last, 5 by default); raises MalformedConfig."""
    name, separator, source = text.partition("=")
    kind, _, rest = source.partition(":")
    path, _, fps = rest.partition(":")
    try:
        rate = float(fps or 5)
    except ValueError:
        rate = 0.0
    if not separator or kind not in {"directory", "video"} or not path.startswith("/") or not 0 < rate <= 1000:
        raise MalformedConfig(f"a slot reads NAME=directory:/path:FPS or NAME=video:/path:FPS, got {text[:120]!r}")
    return Slot(name, kind, path, rate)


def _agent(agent: AgentFiles, texts: Texts) -> list[Entry]:
    root = f"opt/edge-agent/{agent.version}"
    return [
        Entry("opt/edge-agent", 0o755),
        Entry(root, 0o755),
        Entry("opt/edge-agent/current", 0o777, link=agent.version),
        Entry(f"{root}/{LAUNCHER}", _PROGRAM, texts.launcher.encode()),
        Entry(f"{root}/requirements.txt", _PUBLIC, "".join(f"{line}\n" for line in agent.requirements).encode()),
        *(Entry(f"{root}/lib/{path}", _PUBLIC, content) for path, content in agent.files.items()),
    ]


def _unit(name: str, content: bytes) -> list[Entry]:
    return [
        Entry(f"{UNITS}/{name}", _PUBLIC, content),
        Entry(f"{UNITS}/multi-user.target.wants/{name}", 0o777, link=f"../{name}"),
    ]


def _boot(board: Board) -> str:
    # The board's file decides where a secret is written: it may not lead out of the card.
    path = PurePosixPath(board.image.boot_mount)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise MalformedBoard(f"image.boot_mount is an absolute path below /, got {board.image.boot_mount!r}")
    return str(path.relative_to("/"))


def _filled(template: str, values: Mapping[str, str]) -> bytes:
    return Template(template).substitute(values).encode()


def _quoted(text: str) -> str:
    return json.dumps(text)  # a JSON string is also a TOML string
