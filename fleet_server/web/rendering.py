"""HTML from views: the template environment, its few filters, and the SVG bar of a wave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from fleet_server.services.explanations import named, short, span
from fleet_server.services.views import WaveView

FRAGMENT_HEADER: Final = "x-fragment"
"""Sent by a live page: only the page's inside is rendered, without head and navigation."""
TEMPLATES: Final = Path(__file__).parent / "templates"
STATIC: Final = Path(__file__).parent / "static"
_BAR: Final = 1000.0
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: what it counts, and its place in thousandths of the width."""

    kind: str
    label: str
    count: int
    x: float
    width: float


@cache
def environment() -> Environment:
    """Templates with escaping always on; an unknown name is an error, not an empty string."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        span=span, short=short, named=named, moment=moment, number=number, size=size, segments=segments, terms=terms
    )
    return env


def page(request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> HTMLResponse:
    """Render a page, or its inside where a live page asks for it."""
    layout = "fragment.html" if FRAGMENT_HEADER in request.headers else "layout.html"
    html = environment().get_template(template).render(layout=layout, **values)
    return HTMLResponse(html, status_code=status)


def refusal_page(request: Request, status: int, code: str, sentence: str) -> HTMLResponse:
    """A page that says what was refused and why."""
    return page(request, "refusal.html", {"code": code, "sentence": sentence}, status)


def moment(at: float | None) -> str:
    """``2026-11-22 21:04 UTC``; an en dash for never."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def number(value: float | None, digits: int = 1) -> str:
    """A measured number with ``digits`` decimals; an en dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def size(value: float | None) -> str:
    """Bytes for people, in binary units."""
    if value is None:
        return "–"
    power = next((power for power in range(len(_UNITS) - 1) if abs(value) < 1024 ** (power + 1)), len(_UNITS) - 1)
    return f"{value / 1024**power:.{1 if power else 0}f} {_UNITS[power]}"


def terms(policy: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A rollout's policy for people: names without underscores, durations and shares in words; waves are shown elsewhere."""
    told = []
    for key, value in policy.items():
        if key.endswith("_threshold"):
            told.append((key.replace("_", " "), f"{value:.0%}" if value == round(value, 2) else f"{value:.2%}"))
        elif key.endswith("_s") and isinstance(value, int | float):
            told.append((key[:-2].replace("_", " "), span(value)))
        elif isinstance(value, bool):
            told.append((key.replace("_", " "), "yes" if value else "no"))
        elif isinstance(value, int):
            told.append((key.replace("_", " "), str(value)))
    return told


def segments(wave: WaveView) -> tuple[Segment, ...]:
    """The wave as a bar over its members: serving, on their way, failed, timed out; the rest is not yet assigned."""
    parts = (
        ("ok", "serving", wave.confirmed),
        ("run", "on their way", wave.in_flight),
        ("bad", "failed", wave.failed),
        ("late", "timed out", wave.timed_out),
    )
    whole = max(wave.members, wave.assigned, 1)
    placed, x = [], 0.0
    for kind, label, count in parts:
        width = _BAR * count / whole
        if count:
            placed.append(Segment(kind, label, count, x, width))
        x += width
    return tuple(placed)
