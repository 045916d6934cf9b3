"""What ``fleetctl`` prints: tables for people, JSON for programs; answers on standard output, progress on standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import click

from fleet_protocol.errors import MalformedInput

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(s|min|h|d)?")
_UNIT_S: Final = {None: 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def json_option(command: CommandT) -> CommandT:
    """Adds ``--json``, passed as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def reason_option(command: CommandT) -> CommandT:
    """Adds ``--reason``."""
    return click.option("--reason", default="", metavar="TEXT", help="Why; it stands in the audit.")(command)


def yes_option(command: CommandT) -> CommandT:
    """Adds ``--yes``."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if ``yes`` or a person at a terminal agrees; without a terminal it is a usage error."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this cannot be taken back; give --yes where nobody can be asked")
    click.confirm(question, abort=True, err=True)


def emit(value: Any) -> None:
    """Print ``value`` as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print aligned columns; ``empty`` (on standard error) where there is no row."""
    texts = [[_cell(value) for value in row] for row in rows]
    if not texts:
        click.echo(empty, err=True)
        return
    widths = [max(len(row[column]) for row in [list(headings), *texts]) for column in range(len(headings))]
    for row in [[heading.upper() for heading in headings], *texts]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def pairs(values: Iterable[tuple[str, object]]) -> None:
    """Print ``name  value`` lines, names aligned."""
    texts = [(name, _cell(value)) for name, value in values]
    width = max(len(name) for name, _ in texts)
    for name, text in texts:
        click.echo(f"{name.ljust(width)}  {text}".rstrip())


def note(text: str) -> None:
    """Say something to the person, on standard error."""
    click.echo(text, err=True)


def duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``15min``, ``24h`` or ``7d``; raises MalformedInput."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise MalformedInput(f"a duration reads 90s, 15min, 24h or 7d, got {text[:40]!r}")
    return float(match[1]) * _UNIT_S[match[2]]


def moment(at: float | None) -> str:
    """Local date and time to the second; a dash for never."""
    from datetime import datetime

    return "-" if at is None else datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def model_text(model: dict[str, Any] | None) -> str:
    """``model version digest``; a dash for none."""
    if model is None:
        return "-"
    return " ".join(part for part in (model["model"], model["version"], model["manifest_sha256"][:12]) if part)


class Meter:
    """Bytes sent so far, on standard error: a moving line at a terminal, nothing on a pipe but the end."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._shown = title, max(total, 1), -1

    def __call__(self, done: int) -> None:
        """Show ``done`` bytes; redrawn once per percent."""
        percent = 100 * done // self._total
        if percent == self._shown:
            return
        self._shown = percent
        if sys.stderr.isatty():
            click.echo(f"\r{self._title} {percent:3d} %", err=True, nl=percent == 100)
        elif percent == 100:
            click.echo(f"{self._title} {self._total} bytes", err=True)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
