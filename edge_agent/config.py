"""The agent's configuration: one TOML file, read once, frozen, unknown keys refused by name."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from fleet_protocol import board as boards
from fleet_protocol.errors import MalformedConfig, MalformedIdentifier
from fleet_protocol.identifiers import board_name, slot_name

MAX_SLOTS = 16

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A misspelt key must not silently become a default."""


class SourceConfig(_Table, frozen=True):
    """Where a slot's frames come from. ``fps``: frames per second offered; ``loop``: start again at the end."""

    kind: Literal["directory", "video"]
    path: str
    fps: _Positive = 5.0
    loop: bool = True


class SlotConfig(_Table, frozen=True):
    """One slot: a source, the model that an assignment names for it, a results file (relative to ``state_dir``)."""

    name: str
    source: SourceConfig
    results: str = "results.jsonl"


class BakeConfig(_Table, frozen=True):
    """How long a new model must prove itself before it is kept: seconds, frames at least, share of errors at most."""

    seconds: _Positive = 60.0
    min_frames: Annotated[int, msgspec.Meta(ge=0)] = 20
    max_error_share: _Share = 0.05


class HealthConfig(_Table, frozen=True):
    """``interval_s``: seconds between health reports; the board's own cadence where it is not given."""

    interval_s: _Positive | None = None


class DeliveryConfig(_Table, frozen=True):
    """Chunks asked for at a time (at first, at most), and seconds without one after which the server is told."""

    window: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    max_window: Annotated[int, msgspec.Meta(ge=1, le=64)] = 32
    stall_s: _Positive = 30.0


class AgentConfig(_Table, frozen=True):
    """Everything that the agent is told. Paths are absolute once :func:`load` has read them."""

    server: str
    board: str
    state_dir: str
    ca: str | None = None
    slots: tuple[SlotConfig, ...] = ()
    bake: BakeConfig = BakeConfig()
    health: HealthConfig = HealthConfig()
    delivery: DeliveryConfig = DeliveryConfig()

    @property
    def state(self) -> Path:
        """The folder that holds everything the agent keeps."""
        return Path(self.state_dir)


def parse(text: str) -> AgentConfig:
    """Parse the configuration; raises MalformedConfig naming the key that is wrong, missing or unknown."""
    try:
        config = msgspec.convert(tomllib.loads(text), AgentConfig, strict=True)
        for slot in config.slots:
            slot_name(slot.name)
    except tomllib.TOMLDecodeError as error:
        raise MalformedConfig(f"the configuration is not valid TOML: {error}") from error
    except (msgspec.ValidationError, MalformedIdentifier) as error:
        raise MalformedConfig(f"configuration: {error}") from error
    _check(config)
    return config


def load(path: Path) -> AgentConfig:
    """Read the file at ``path``; relative paths in it are relative to its folder. Raises MalformedConfig."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MalformedConfig(f"cannot read the configuration {path}: {error}") from error
    return _anchored(parse(text), path.resolve().parent)


def load_board(config: AgentConfig) -> boards.Board:
    """The board's profile: a path to a TOML file, or the name of one that came with the agent. Raises MalformedConfig."""
    try:
        if config.board.endswith(".toml"):
            return boards.parse(Path(config.board).read_text(encoding="utf-8"))
        name = board_name(config.board)
        return boards.parse(resources.files("firmware_configs").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, MalformedIdentifier) as error:
        raise MalformedConfig(f"there is no board profile {config.board!r}; see firmware_configs") from error


def _check(config: AgentConfig) -> None:
    server = urlsplit(config.server)
    if server.scheme != "https" or not server.hostname:
        raise MalformedConfig(f"server is an https URL like https://fleet.example:8443, got {config.server!r}")
    names = [slot.name for slot in config.slots]
    if len(set(names)) != len(names) or len(names) > MAX_SLOTS:
        raise MalformedConfig(f"slots: at most {MAX_SLOTS}, each name once, got {names}")
    if config.delivery.window > config.delivery.max_window:
        raise MalformedConfig("delivery.window is not above delivery.max_window")


def _anchored(config: AgentConfig, folder: Path) -> AgentConfig:
    def absolute(path: str) -> str:
        return str(folder / path)

    slots: list[Any] = [
        msgspec.structs.replace(slot, source=msgspec.structs.replace(slot.source, path=absolute(slot.source.path)))
        for slot in config.slots
    ]
    return msgspec.structs.replace(
        config,
        state_dir=absolute(config.state_dir),
        ca=None if config.ca is None else absolute(config.ca),
        board=absolute(config.board) if config.board.endswith(".toml") else config.board,
        slots=tuple(slots),
    )
