"""``model-compiler compile``: recipe in, package out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click

from fleet_protocol import package
from fleet_protocol.errors import DiskFull
from fleet_protocol.identifiers import Digest
from model_compiler import cache, inputs, pipeline, progress, summary, toolchain
from model_compiler.cache import Finished, PackageCache
from model_compiler.errors import CannotWrite
from model_compiler.files import check_writable, written_whole
from model_compiler.inputs import Inputs
from model_compiler.parallel import default_jobs
from model_compiler.recipe import Recipe


@click.command("compile")
@click.argument("recipe", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Directory, or file ending in .efpkg.",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Result as JSON on stdout, progress as NDJSON on stderr.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Images worked on at once; changes nothing in the result.")
@click.option(
    "--cache", "cache_dir", type=click.Path(file_okay=False, path_type=Path), help="Where finished packages are kept."
)
def command(recipe: Path, out: Path, *, as_json: bool, jobs: int | None, cache_dir: Path | None) -> None:
    r"""Compile RECIPE into a model package <model>-<version>.efpkg.

    Every variant is measured on its own runtime and has to pass the recipe's gate; otherwise nothing is written (exit code 6).
    The same inputs are compiled once: afterwards the package comes from the cache.

    \b
    Example:
      model-compiler compile recipe.toml --out packages/
    """
    gathered = inputs.gather(recipe)
    path = destination(out, gathered.recipe)
    check_writable(path)
    store = PackageCache(cache_dir or cache.default_directory())
    key = cache.key_of(gathered, toolchain.fingerprint())
    known = store.find(key)
    finished = known or _compile(gathered, jobs or default_jobs(), as_json=as_json)
    with written_whole(path) as stream:
        stream.write(finished.package)
    if known is None:
        _keep(store, key, finished)
    _show(path, finished, is_cached=known is not None, as_json=as_json)


def destination(out: Path, recipe: Recipe) -> Path:
    """The package's path: ``out`` itself where it names a package file, else ``<model>-<version>.efpkg`` in it."""
    if out.suffix == ".efpkg" and not out.is_dir():
        return out
    return out / f"{recipe.model}-{recipe.version}.efpkg"


def _compile(gathered: Inputs, jobs: int, *, as_json: bool) -> Finished:
    with progress.shown(as_json=as_json) as report:
        compiled = pipeline.compile_inputs(gathered, jobs, report)
    return Finished(compiled.package, compiled.record)


def _keep(store: PackageCache, key: Digest, finished: Finished) -> None:
    try:
        store.keep(key, finished)
    except (CannotWrite, DiskFull) as error:
        # The package is written; a lost cache entry costs time only.
        click.echo(f"note: the result was not cached: {error}", err=True)


def _show(path: Path, finished: Finished, *, is_cached: bool, as_json: bool) -> None:
    rows = summary.rows(package.read(io.BytesIO(finished.package)), finished.record)
    if as_json:
        click.echo(json.dumps({"package": str(path), "cached": is_cached, "variants": rows}))
        return
    summary.show(rows)
    click.echo(f"{path} ({len(finished.package) / 1e6:.1f} MB{', from the cache' if is_cached else ''})")
