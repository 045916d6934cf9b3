"""The tables of SPEC.md, made from the code that they describe. ``make docs`` writes them, a test compares them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from fleet_protocol import envelope, messages, metadata_bundle, package, strict_json, topics
from fleet_protocol.board import Board
from fleet_protocol.errors import FleetError
from fleet_protocol.states import NEXT
from fleet_protocol.telemetry import DEVICE_METRICS, SLOT_METRICS, Metric

_BLOCK: Final = re.compile(r"(<!-- table: (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str) -> str:
    """``text`` with every ``<!-- table: NAME -->`` block filled from the code."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_TABLES[block['name']]()}\n{block[3]}", text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def states() -> str:
    """One row per state: what may follow it."""
    return _table(
        ("state", "may be followed by"),
        (
            (f"`{state}`", ", ".join(f"`{after}`" for after in sorted(NEXT[state])) or "nothing: terminal")
            for state in NEXT
        ),
    )


def topic_names() -> str:
    """One row per topic: pattern, who writes, quality of service, retained, meaning."""
    rows = [
        (
            f"`{topic.filter}`",
            "device" if topic.up else "server",
            str(topic.qos),
            "yes" if topic.retain else "no",
            topic.meaning,
        )
        for topic in topics.DEVICE_TOPICS
    ]
    rows.append((f"`{topics.METADATA}`", "server", "1", "yes", "All TUF metadata and keys/director.json (4.4)."))
    rows.append((f"`{topics.PREFIX}/meta/manifest/<sha256>`", "server", "1", "yes", "The bytes of one manifest (4.4)."))
    rows.append((f"`{topics.PREFIX}/blob/<sha256>/<index>`", "server", "1", "yes", "One chunk of a blob (7.2)."))
    return _table(("topic", "writer", "QoS", "retained", "meaning"), rows)


def metrics() -> str:
    """One row per metric of a health report and of its slots."""

    def rows(kind: str, group: Sequence[Metric]) -> Iterable[Sequence[str]]:
        return ((kind, f"`{metric.name}`", metric.unit, metric.meaning) for metric in group)

    return _table(("of", "name", "unit", "meaning"), (*rows("device", DEVICE_METRICS), *rows("slot", SLOT_METRICS)))


def board_keys() -> str:
    """One row per key of a board file: what it may be, what it means."""

    def rows(table: type[msgspec.Struct], prefix: str = "") -> Iterable[Sequence[str]]:
        for key, annotated in get_type_hints(table, include_extras=True).items():
            if isinstance(annotated, type):
                yield from rows(annotated, f"{key}.")
            else:
                kind, meta = get_args(annotated)
                yield f"`{prefix}{key}`", _kind(kind), meta.description

    return _table(("key", "value", "meaning"), rows(Board))


def _kind(kind: Any) -> str:
    """A TOML type for people: the values that it may have, or what it is."""
    if get_origin(kind) is tuple:
        return f"list of {_kind(get_args(kind)[0])}"
    names = {str: "text", int: "whole number", float: "number"}
    return names[kind] if kind in names else ", ".join(f"`{value}`" for value in get_args(kind))


def errors() -> str:
    """One row per error code of the contract: code, class, the family that it belongs to."""

    def rows(root: type[FleetError]) -> Iterable[Sequence[str]]:
        for child in root.__subclasses__():
            if child.__module__ == FleetError.__module__:
                yield f"`{child.code}`", child.__name__, root.__name__
                yield from rows(child)

    return _table(("code", "error", "family"), rows(FleetError))


def limits() -> str:
    """One row per limit on what comes from outside."""
    rows = (
        ("JSON document", f"{strict_json.MAX_BYTES} bytes", "1.3"),
        ("MQTT message from a device", f"{messages.MAX_BYTES} bytes", "10.1"),
        ("metadata bundle, packed", f"{metadata_bundle.MAX_PACKED_BYTES} bytes", "4.4"),
        ("metadata bundle, unpacked", f"{metadata_bundle.MAX_UNPACKED_BYTES} bytes", "4.4"),
        ("variants in a package", str(package.MAX_VARIANTS), "4.1"),
        ("chunk message", f"{envelope.HEADER_BYTES} + {envelope.MESSAGE_BYTES} bytes", "7.2"),
    )
    return _table(("what", "at most", "clause"), rows)


_TABLES: Final = {
    "states": states,
    "topics": topic_names,
    "metrics": metrics,
    "errors": errors,
    "limits": limits,
    "boards": board_keys,
}
