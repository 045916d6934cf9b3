"""Board profiles, found by name among the shipped ones or by path."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Final

from fleet_protocol import board as boards
from fleet_protocol.board import Board
from fleet_protocol.errors import MalformedBoard
from model_compiler.errors import UnknownBoard

MAX_BYTES: Final = 65_536


def shipped() -> list[str]:
    """Names of the boards that firmware_configs/ describes, sorted."""
    entries = resources.files("firmware_configs").iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def load(reference: str, beside: Path) -> tuple[Board, bytes]:
    """The board called ``reference`` and its file's bytes; a reference that ends in .toml is a path from ``beside``.

    Raises UnknownBoard or MalformedBoard.
    """
    content = _read_path(beside / reference) if reference.endswith(".toml") else _read_shipped(reference)
    if len(content) > MAX_BYTES:
        raise MalformedBoard(f"board {reference} has more than {MAX_BYTES} bytes")
    try:
        return boards.parse(content.decode()), content
    except UnicodeDecodeError as error:
        raise MalformedBoard(f"board {reference} is not UTF-8 text") from error


def _read_path(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnknownBoard(f"board file {path} cannot be read: {error.strerror}") from error


def _read_shipped(name: str) -> bytes:
    known = shipped()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        cure = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
        raise UnknownBoard(f"no board is called {name[:80]!r}; {cure}")
    return (resources.files("firmware_configs") / f"{name}.toml").read_bytes()
