"""``model-compiler inspect``: what a package promises."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from fleet_protocol.package import ModelPackage
from model_compiler import summary
from model_compiler.commands.options import cache_option, json_option, package_argument
from model_compiler.packages import open_package


@click.command("inspect")
@package_argument("file")
@json_option("Every manifest in full, as JSON.")
@cache_option
def command(file: Path, *, as_json: bool, cache_dir: Path | None) -> None:
    r"""Check FILE and show its variants, in the order in which devices prefer them.

    Timings are no part of a package; they are shown where it was compiled on this machine.

    \b
    Example:
      model-compiler inspect textline-orientation-1.0.0.efpkg
    """
    found = open_package(file)
    contents = found.contents
    if as_json:
        click.echo(json.dumps(_as_json(contents)))
        return
    click.echo(f"{contents.model} {contents.version}")
    summary.show(summary.rows(contents, found.record(cache_dir)))
    for each in contents.variants:
        wanted = each.manifest.runtime
        click.echo(
            f"{each.manifest.variant}: for {', '.join(each.manifest.boards)} with {wanted.name} >= {wanted.min_version}, "
            f"{each.manifest.golden.frames} golden frames, tolerance {each.manifest.golden.atol:g}, manifest {each.digest}"
        )


def _as_json(contents: ModelPackage) -> dict[str, object]:
    variants = [{"digest": each.digest, "manifest": msgspec.to_builtins(each.manifest)} for each in contents.variants]
    return {"model": contents.model, "version": contents.version, "variants": variants}
