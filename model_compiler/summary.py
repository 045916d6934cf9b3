"""What was made and measured, as rows for programs and as a table for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypedDict

from fleet_protocol.package import ModelPackage, Variant
from model_compiler.report.record import Made, Record


class Row(TypedDict):
    """One variant of a package. Accuracy and drop are shares (0..1), latencies milliseconds on one thread where known."""

    variant: str
    digest: str
    method: str
    boards: list[str]
    metric: str
    accuracy: float
    drop: float
    samples: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    model_bytes: int
    resident_bytes: int | None
    verdict: str


def rows(contents: ModelPackage, record: Record | None) -> list[Row]:
    """One row per variant, in order of preference; timings are in the ``record``. What is in a package has passed its gate."""
    return [_row(each, record.variant(each.manifest.variant) if record else None) for each in contents.variants]


def _row(variant: Variant, made: Made | None) -> Row:
    manifest, measured, timing = variant.manifest, variant.manifest.measured, made.timing if made else None
    return Row(
        variant=manifest.variant,
        digest=variant.digest,
        method=manifest.provenance.toolchain.get("method", ""),
        boards=list(manifest.boards),
        metric=measured.metric,
        accuracy=measured.value,
        drop=round(measured.baseline - measured.value, 6),
        samples=measured.samples,
        latency_p50_ms=timing.p50_ms if timing else measured.latency_p50_ms,
        latency_p95_ms=timing.p95_ms if timing else measured.latency_p95_ms,
        model_bytes=measured.model_bytes,
        resident_bytes=timing.resident_bytes if timing else measured.resident_bytes,
        verdict="passed",
    )


def show(found: Sequence[Row]) -> None:
    """Print the table on stdout; a pipe gets it unwrapped, and 80 columns are enough."""
    from rich.console import Console
    from rich.table import Table

    table = Table("variant", "made by", *_NUMBERS, "verdict", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns[2 : 2 + len(_NUMBERS)]:
        column.justify = "right"
    for row in found:
        table.add_row(row["variant"], row["method"], *_numbers(row), row["verdict"])
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


_NUMBERS = ("top-1", "drop", "p50 ms", "p95 ms", "file MB", "RAM MB")


def _numbers(row: Row) -> tuple[str, ...]:
    return (
        f"{row['accuracy']:.4f}",
        f"{row['drop']:+.4f}",
        _number(row["latency_p50_ms"], 1.0, 2),
        _number(row["latency_p95_ms"], 1.0, 2),
        _number(row["model_bytes"], 1e6, 2),
        _number(row["resident_bytes"], 1e6, 0),
    )


def _number(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"
