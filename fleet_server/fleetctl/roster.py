"""A production run's list of devices, checked whole before anything is asked of a server (pure)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from fleet_protocol.errors import FleetError, InputTooLarge, MalformedInput
from fleet_protocol.identifiers import BoardName, DeviceId, device_id
from fleet_server.tags import check_tags

MAX_BYTES: Final = 1024**2
MAX_ROWS: Final = 1000
"""As many claims as the server makes in one transaction."""
COLUMNS: Final = ("device", "board", "tags")


class MalformedRoster(MalformedInput):
    code = "malformed-roster"


@dataclass(frozen=True, slots=True)
class Row:
    """One device: who it will be, its board, its tags."""

    device: DeviceId
    board: BoardName
    tags: dict[str, str] = field(default_factory=dict)


def parse(content: bytes, board_of: Callable[[str], BoardName]) -> tuple[Row, ...]:
    """The rows of a CSV with the columns device, board and, where wanted, tags (``site=berlin;line=2``).

    ``board_of``: the name of the board that a cell means; it raises a FleetError where there is none. Raises
    InputTooLarge, or MalformedRoster naming the first line that is wrong.
    """
    if len(content) > MAX_BYTES:
        raise InputTooLarge(f"a list of devices has at most {MAX_BYTES} bytes, got {len(content)}")
    lines: dict[DeviceId, int] = {}
    rows = []
    for line, cells in _cells(content):
        row = _row(line, cells, board_of)
        if row.device in lines:
            raise MalformedRoster(f"line {line}: {row.device} stands in line {lines[row.device]} already")
        lines[row.device] = line
        rows.append(row)
    if not 1 <= len(rows) <= MAX_ROWS:
        raise MalformedRoster(f"a list has 1 to {MAX_ROWS} devices below its heading, got {len(rows)}; split it")
    return tuple(rows)


def _cells(content: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows by column, each with the number of its line; empty lines are passed over."""
    try:
        # A byte order mark is what spreadsheets put there.
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        heading = [name.strip().lower() for name in next(reader, [])]
        if sorted(heading) not in (sorted(COLUMNS), sorted(COLUMNS[:2])):
            raise MalformedRoster(f"line 1: the heading is {','.join(COLUMNS)} (tags may be left out), got {heading}")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(heading):
                raise MalformedRoster(f"line {reader.line_num}: {len(heading)} columns wanted, got {len(cells)}")
            yield reader.line_num, dict(zip(heading, (cell.strip() for cell in cells), strict=True))
    except UnicodeDecodeError as error:
        raise MalformedRoster("the list is not UTF-8 text; save it as CSV UTF-8") from error
    except csv.Error as error:
        raise MalformedRoster(f"line {reader.line_num}: not CSV: {error}") from error


def _row(line: int, cells: dict[str, str], board_of: Callable[[str], BoardName]) -> Row:
    try:
        tags = _tags(cells.get("tags", ""))
        check_tags(tags)
        return Row(device_id(cells["device"]), board_of(cells["board"]), tags)
    except FleetError as error:
        raise MalformedRoster(f"line {line}: {error}") from error


def _tags(text: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or key in tags:
            raise MalformedInput(f"tags read site=berlin;line=2, each name once, got {text[:80]!r}")
        tags[key] = value
    return tags
