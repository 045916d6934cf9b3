"""HTML and SVG as values: everything that is text is escaped, so that no file name or label can become a tag."""

from __future__ import annotations

from html import escape
from typing import Final

_VOID: Final = frozenset({"br", "img", "meta"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(element: str, /, *children: str | Markup, **attributes: str | float) -> Markup:
    """An element. Underscores in attribute names are dashes; a trailing one is dropped (``class_``)."""
    written = "".join(f' {_attribute(key)}="{escape(_text(value))}"' for key, value in attributes.items())
    if element in _VOID:
        return Markup(f"<{element}{written}>")
    return Markup(f"<{element}{written}>{join(*children)}</{element}>")


def join(*children: str | Markup) -> Markup:
    """Children one after the other, text escaped."""
    return Markup("".join(each if isinstance(each, Markup) else escape(each) for each in children))


def table(head: list[str], rows: list[list[str | Markup]], *, numbers_from: int) -> Markup:
    """A table in a frame that scrolls on narrow screens; columns from ``numbers_from`` on are numbers."""
    header = tag("tr", *(tag("th", each, **_kind(place, numbers_from)) for place, each in enumerate(head)))
    body = [
        tag("tr", *(tag("td", each, **_kind(place, numbers_from)) for place, each in enumerate(row))) for row in rows
    ]
    return tag("div", tag("table", tag("thead", header), tag("tbody", *body)), class_="wide")


def _kind(place: int, numbers_from: int) -> dict[str, str]:
    return {"class_": "number"} if place >= numbers_from else {}


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _text(value: str | float) -> str:
    return (
        value
        if isinstance(value, str)
        else f"{value:g}"
        if isinstance(value, int)
        else f"{value:.2f}".rstrip("0").rstrip(".")
    )
