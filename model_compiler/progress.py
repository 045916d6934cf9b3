"""Progress: one stream of events, three ways to show it on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TypeVar

import click

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Event:
    """``done`` of ``total`` steps of a stage are over; every stage ends with ``done == total``."""

    stage: str
    done: int
    total: int


Report = Callable[[Event], None]


def tracked(report: Report, stage: str, items: Iterable[Item], total: int) -> Iterator[Item]:
    """``items``, with an event before the first and after each of them."""
    report(Event(stage, 0, total))
    for done, item in enumerate(items, start=1):
        yield item
        report(Event(stage, done, total))


@contextlib.contextmanager
def shown(*, as_json: bool) -> Iterator[Report]:
    """Show events on stderr: NDJSON where asked for, bars on a terminal, a line every 10 % elsewhere."""
    if as_json:
        yield _print_json
    elif sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        yield _TenPercentLines()


def _print_json(event: Event) -> None:
    click.echo(json.dumps(asdict(event)), err=True)


class _TenPercentLines:
    """A pipe gets at most eleven lines per stage."""

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        tenth = 10 * event.done // max(1, event.total)
        if tenth > self._shown.get(event.stage, -1):
            self._shown[event.stage] = tenth
            click.echo(f"{event.stage}: {event.done}/{event.total}", err=True)


@contextlib.contextmanager
def _bars() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    name = TextColumn("{task.description:<10}")
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def report(event: Event) -> None:
            if event.stage not in tasks:
                tasks[event.stage] = progress.add_task(event.stage, total=event.total)
            progress.update(tasks[event.stage], completed=event.done, total=event.total)

        yield report
