"""What was made and measured, as rows for programs and as a table for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypedDict

from fleet_protocol.package import ModelPackage, Variant


class Row(TypedDict):
    """One variant of a package. Accuracy and drop are shares (0..1), latencies milliseconds on one thread."""

    variant: str
    digest: str
    method: str
    boards: list[str]
    metric: str
    accuracy: float
    drop: float
    samples: int
    latency_p50_ms: float
    latency_p95_ms: float
    model_bytes: int
    resident_bytes: int
    verdict: str


def rows(contents: ModelPackage) -> list[Row]:
    """One row per variant, in order of preference. Whatever is in a package has passed its gate."""
    return [_row(each) for each in contents.variants]


def _row(variant: Variant) -> Row:
    manifest, measured = variant.manifest, variant.manifest.measured
    return Row(
        variant=manifest.variant,
        digest=variant.digest,
        method=manifest.provenance.toolchain.get("method", ""),
        boards=list(manifest.boards),
        metric=measured.metric,
        accuracy=measured.value,
        drop=round(measured.baseline - measured.value, 6),
        samples=measured.samples,
        latency_p50_ms=measured.latency_p50_ms,
        latency_p95_ms=measured.latency_p95_ms,
        model_bytes=measured.model_bytes,
        resident_bytes=measured.resident_bytes,
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
        f"{row['latency_p50_ms']:.2f}",
        f"{row['latency_p95_ms']:.2f}",
        f"{row['model_bytes'] / 1e6:.2f}",
        f"{row['resident_bytes'] / 1e6:.0f}",
    )
