"""``model-compiler inspect``: what a package promises."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from fleet_protocol import package
from fleet_protocol.package import ModelPackage
from model_compiler import summary


@click.command("inspect")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Every manifest in full, as JSON.")
def command(file: Path, *, as_json: bool) -> None:
    r"""Check FILE and show its variants, in the order in which devices prefer them.

    \b
    Example:
      model-compiler inspect textline-orientation-1.0.0.efpkg
    """
    with file.open("rb") as stream:
        contents = package.read(stream)
    if as_json:
        click.echo(json.dumps(_as_json(contents)))
        return
    click.echo(f"{contents.model} {contents.version}")
    summary.show(summary.rows(contents))
    for each in contents.variants:
        wanted = each.manifest.runtime
        click.echo(
            f"{each.manifest.variant}: for {', '.join(each.manifest.boards)} with {wanted.name} >= {wanted.min_version}, "
            f"{each.manifest.golden.frames} golden frames, tolerance {each.manifest.golden.atol:g}, manifest {each.digest}"
        )


def _as_json(contents: ModelPackage) -> dict[str, object]:
    variants = [{"digest": each.digest, "manifest": msgspec.to_builtins(each.manifest)} for each in contents.variants]
    return {"model": contents.model, "version": contents.version, "variants": variants}
