"""The report's charts as SVG, made of numbers only. Colours and type come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from model_compiler.report.markup import Markup, tag

WIDTH: Final = 760.0
_HEIGHT: Final = 380.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 24.0, 18.0, 46.0
_LARGEST_RADIUS: Final = 15.0
_BAR: Final = 20.0
_LETTER: Final = 7.0
"""Width of a letter of a name, in pixels: rather too much."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model file: ``p50_ms`` and ``accuracy`` place it, ``model_bytes`` is its area, ``kind`` its colour (0..7)."""

    name: str
    p50_ms: float
    accuracy: float
    model_bytes: int
    kind: int
    is_packaged: bool


@dataclass(frozen=True, slots=True)
class _Axis:
    """A range of values on a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in both latency and accuracy, fastest first."""
    front: list[Point] = []
    for each in sorted(points, key=lambda point: (point.p50_ms, -point.accuracy)):
        if not front or each.accuracy > front[-1].accuracy:
            front.append(each)
    return front


def scatter(points: Sequence[Point], baseline: float, gate: float) -> Markup:
    """Accuracy over latency, area for size; lines for the baseline and the least accuracy that passes."""
    times = [point.p50_ms for point in points]
    values = [baseline, gate, *(point.accuracy for point in points)]
    across = _Axis(0.0, 1.12 * max(times), _LEFT, WIDTH - _RIGHT)
    low, high = min(values), max(values)
    room = max(0.01, 0.12 * (high - low))
    up = _Axis(low - room, high + room, _HEIGHT - _BOTTOM, _TOP)
    largest = max(point.model_bytes for point in points)
    front = " ".join(f"{across.at(each.p50_ms):.1f},{up.at(each.accuracy):.1f}" for each in pareto(points))
    return tag(
        "svg",
        *_grid(across, up),
        *_level(up, baseline, "fp32", "baseline"),
        *_level(up, gate, "gate", "gate"),
        tag("polyline", points=front, class_="front"),
        *(_circle(each, across, up, largest) for each in sorted(points, key=lambda point: -point.model_bytes)),
        *_names(points, across, up, largest),
        viewBox=f"0 0 {WIDTH:g} {_HEIGHT:g}",
        role="img",
        aria_label="Accuracy over latency of every variant and of the candidates that were timed",
    )


def bars(rows: Sequence[tuple[str, float, str, bool]], label: str) -> Markup:
    """Horizontal bars: name, value, what is written beside it, whether it stands out. Negative values go to the left."""
    low, high = min(0.0, *(row[1] for row in rows)), max(0.0, *(row[1] for row in rows))
    across = _Axis(low, high if high > low else low + 1.0, 250.0, WIDTH - 90.0)
    height = _BAR * len(rows) + 8
    drawn = [part for place, row in enumerate(rows) for part in _bar(row, 4 + _BAR * place, across)]
    zero = across.at(0.0)
    axis = tag("line", x1=zero, x2=zero, y1=0.0, y2=height, class_="axis")
    return tag("svg", *drawn, axis, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=label)


def _bar(row: tuple[str, float, str, bool], top: float, across: _Axis) -> list[Markup]:
    name, value, written, stands_out = row
    start, end = sorted((across.at(0.0), across.at(value)))
    return [
        tag("text", _short(name, 34), x=242.0, y=top + 14, text_anchor="end"),
        tag(
            "rect", tag("title", f"{name}: {written}"), x=start, y=top + 3, width=max(1.0, end - start), height=_BAR - 6,
            rx=2, class_="bar out" if stands_out else "bar",
        ),
        tag("text", written, x=end + 6, y=top + 14, class_="quiet"),
    ]  # fmt: skip


def _grid(across: _Axis, up: _Axis) -> list[Markup]:
    drawn = []
    for value in _ticks(up.low, up.high, 5):
        y = up.at(value)
        drawn.append(tag("line", x1=across.start, x2=across.end, y1=y, y2=y, class_="grid"))
        drawn.append(tag("text", f"{value:.3f}", x=across.start - 8, y=y + 4, text_anchor="end", class_="quiet"))
    for value in _ticks(across.low, across.high, 7):
        x = across.at(value)
        drawn.append(tag("text", f"{value:g}", x=x, y=up.start + 18, text_anchor="middle", class_="quiet"))
    drawn.append(tag("line", x1=across.start, x2=across.end, y1=up.start, y2=up.start, class_="axis"))
    middle = (across.start + across.end) / 2
    drawn.append(
        tag("text", "p50 latency, ms, one thread", x=middle, y=up.start + 38, text_anchor="middle", class_="quiet")
    )
    return drawn


def _level(up: _Axis, value: float, name: str, kind: str) -> list[Markup]:
    y = up.at(value)
    return [
        tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_=kind),
        tag("text", name, x=_LEFT + 4, y=y - 4, class_="quiet"),
    ]


def _radius(point: Point, largest: int) -> float:
    return max(3.5, _LARGEST_RADIUS * math.sqrt(point.model_bytes / largest))


def _circle(point: Point, across: _Axis, up: _Axis, largest: int) -> Markup:
    told = f"{point.name}: {point.accuracy:.4f}, {point.p50_ms:.2f} ms, {point.model_bytes / 1e6:.2f} MB"
    return tag(
        "circle", tag("title", told), cx=across.at(point.p50_ms), cy=up.at(point.accuracy), r=_radius(point, largest),
        class_=f"dot kind{point.kind}" + (" packaged" if point.is_packaged else ""),
    )  # fmt: skip


def _names(points: Sequence[Point], across: _Axis, up: _Axis, largest: int) -> list[Markup]:
    """Names of the packaged points, each at the first place around its point that nothing else takes."""
    packaged = [point for point in points if point.is_packaged]
    taken = [_square(each, across, up, largest) for each in packaged]
    drawn: list[Markup] = []
    for each in packaged:
        places = list(_places(each, across, up, largest))
        x, y, anchor, box = next((place for place in places if _is_free(place[3], taken)), places[0])
        taken.append(box)
        drawn.append(tag("text", each.name, x=x, y=y, class_="name", text_anchor=anchor))
    return drawn


_Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def _square(point: Point, across: _Axis, up: _Axis, largest: int) -> _Box:
    x, y, reach = across.at(point.p50_ms), up.at(point.accuracy), _radius(point, largest)
    return x - reach, y - reach, x + reach, y + reach


def _places(point: Point, across: _Axis, up: _Axis, largest: int) -> Iterator[tuple[float, float, str, _Box]]:
    """Where a name may stand: right, left, above, below its point, then further and further below."""
    left, top, right, bottom = _square(point, across, up, largest)
    middle, line, width = (left + right) / 2, (top + bottom) / 2 + 4, _LETTER * len(point.name)
    yield right + 5, line, "start", (right + 5, line - 11, right + 5 + width, line + 3)
    yield left - 5, line, "end", (left - 5 - width, line - 11, left - 5, line + 3)
    for y in (top - 6, *(bottom + 13 + 14 * step for step in range(6))):
        yield middle, y, "middle", (middle - width / 2, y - 11, middle + width / 2, y + 3)


def _is_free(box: _Box, taken: Sequence[_Box]) -> bool:
    is_inside = box[0] >= _LEFT and box[2] <= WIDTH
    return is_inside and not any(
        box[0] < r and left < box[2] and box[1] < b and top < box[3] for left, top, r, b in taken
    )


def _ticks(low: float, high: float, count: int) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(each for each in (1, 2, 5, 10) if each * step * count >= high - low)
    return [step * each for each in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"
