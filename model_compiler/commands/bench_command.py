"""``model-compiler bench``: how fast a package's variants are on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from model_compiler.commands.options import json_option, package_argument
from model_compiler.packages import PackageFile, open_package
from model_compiler.stages import measure
from model_compiler.toolchain import machine


@click.command("bench")
@package_argument("file")
@click.option("--variant", "variants", multiple=True, help="Variant to time; may be repeated. By default all of them.")
@click.option(
    "--rounds", type=click.IntRange(1, 20), default=3, show_default=True, help="Times that each is measured, in turn."
)
@json_option("Result as JSON on stdout.")
def command(file: Path, *, variants: tuple[str, ...], rounds: int, as_json: bool) -> None:
    r"""Time the variants of FILE on this machine, on their golden frames, each on its own runtime and on one thread.

    Every round measures every variant in a fresh process; the best round counts, as whatever else the machine does only adds.

    \b
    Example:
      model-compiler bench textline-orientation-1.0.0.efpkg --rounds 5
    """
    package = open_package(file)
    names = [
        package.manifest(name).variant
        for name in variants or (each.manifest.variant for each in package.contents.variants)
    ]
    found = timed(package, names, rounds)
    if as_json:
        click.echo(json.dumps({"machine": machine(), "rounds": rounds, "variants": found}))
        return
    _show(found)
    click.echo(f"best of {rounds} rounds on {machine()}, one thread")


def timed(package: PackageFile, names: list[str], rounds: int) -> list[dict[str, Any]]:
    """The best round of each variant, interleaved so that a busy minute of the machine meets all of them."""
    manifests = {name: package.manifest(name) for name in names}
    models = {name: package.model(manifest) for name, manifest in manifests.items()}
    frames = {name: [inputs[0] for inputs, _ in package.frames(manifest)] for name, manifest in manifests.items()}
    rows: dict[str, list[measure.Timing]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            rows[name].append(measure.measure(manifests[name].runtime.name, models[name], frames[name]))
    best = {name: min(found, key=lambda each: each.p50_ms) for name, found in rows.items()}
    return [
        {
            "variant": name, "runtime": manifests[name].runtime.name, "p50_ms": each.p50_ms, "p95_ms": each.p95_ms,
            "frames_per_second": round(1000.0 / each.p50_ms, 1) if each.p50_ms else None, "resident_bytes": each.resident_bytes,
            "over_budget_on": [board for board, budget in manifests[name].golden.latency_budget_ms.items() if each.p95_ms > budget],
        }
        for name, each in best.items()
    ]  # fmt: skip


def _show(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("variant", "p50 ms", "p95 ms", "frames/s", "RAM MB", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for each in found:
        rate, memory = each["frames_per_second"], each["resident_bytes"] / 1e6
        table.add_row(
            each["variant"], f"{each['p50_ms']:.3f}", f"{each['p95_ms']:.3f}", f"{rate or 0:.0f}", f"{memory:.0f}"
        )
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
