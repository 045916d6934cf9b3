"""``model-compiler compile``: recipes, or models and a few words, in; packages out."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fleet_protocol import package
from model_compiler import cache, drafting, inputs, orders, progress, summary
from model_compiler.commands.options import Share, Size, cache_option, json_option
from model_compiler.drafting import Wish
from model_compiler.files import check_writable, written_whole
from model_compiler.guess import NAMES
from model_compiler.orders import Order, Outcome
from model_compiler.parallel import default_jobs
from model_compiler.report import documents

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("compile")
@click.argument("sources", nargs=-1, required=True, type=_FILE)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Directory, or file ending in .efpkg.",
    show_default=True,
)
@click.option(
    "--report", "with_report", is_flag=True, help="Write the HTML page, JSON record and SBOM beside the package."
)
@json_option("Result as JSON on stdout, progress as NDJSON on stderr.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Images worked on at once; changes nothing in the result.")
@cache_option
@click.option("--dask", "scheduler", metavar="ADDRESS", help="Compile on the workers of this Dask scheduler.")
@click.option("--board", "boards", multiple=True, help="Without a recipe: a board to compile for; may be repeated.")
@click.option("--calibration", type=_FOLDER, help="Without a recipe: directory of images like those of the field.")
@click.option("--labels", type=_FILE, help="Without a recipe: CSV file,label for the images.")
@click.option("--evaluation", type=_FOLDER, help="Labelled images; by default four fifths of --calibration.")
@click.option("--classes", type=_FILE, help="Class names in the order of the outputs; by default the labels, sorted.")
@click.option(
    "--max-drop", type=Share(), default="1%", show_default=True, help="Most that a variant may lose against fp32."
)
@click.option("--preprocessing", type=click.Choice(NAMES), help="By default the one that the model answers best with.")
@click.option("--size", type=Size(), help="Input size, where the model leaves it open.")
@click.option("--name", help="Model name; by default from the file's.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the package.")
@click.option("--slot", default="camera", show_default=True, help="Slot of the devices that the model is for.")
@click.option(
    "--counter", type=click.IntRange(1), default=1, show_default=True, help="Grows with every release of a slot."
)
@click.option(
    "--save-recipe", type=_FILE, help="Write the recipe that these words mean, to be edited and compiled again."
)
def command(
    sources: tuple[Path, ...], out: Path, *, as_json: bool, with_report: bool, jobs: int | None, cache_dir: Path | None,
    scheduler: str | None, save_recipe: Path | None, **words: Any,
) -> None:  # fmt: skip
    r"""Compile SOURCES, recipes (.toml) or model files, into model packages <model>-<version>.efpkg.

    Every variant is measured on its own runtime and has to pass the gate; otherwise nothing is written (exit code 6).
    The same inputs are compiled once: afterwards the package comes from the cache.

    \b
    Example:
      model-compiler compile recipe.toml --out packages/ --report
      model-compiler compile model.onnx --board raspberry-pi-5 \
          --calibration pictures/ --labels labels.csv --max-drop 1%
    """
    wanted: list[Path | Wish] = [each if each.suffix == ".toml" else _wish(each, words) for each in sources]
    if save_recipe:
        wanted = [_saved(save_recipe, wanted)]
    if out.suffix == ".efpkg" and len(wanted) > 1:
        raise click.UsageError("several sources give several packages; let --out be a directory")
    _check(out, wanted)
    kept = cache_dir or cache.default_directory()
    ordered = [Order(each, kept, jobs or default_jobs()) for each in wanted]
    with progress.shown(as_json=as_json) as report:
        outcomes = orders.fulfil_on_farm(ordered, scheduler) if scheduler else orders.fulfil_all(ordered, report)
        results = [(_written(out, each, with_report=with_report), each) for each in outcomes]
    _show(results, as_json=as_json)


def destination(out: Path, model: str, version: str) -> Path:
    """The package's path: ``out`` itself where it names a package file, else ``<model>-<version>.efpkg`` in it."""
    if out.suffix == ".efpkg" and not out.is_dir():
        return out
    return out / f"{model}-{version}.efpkg"


def _wish(model: Path, words: dict[str, Any]) -> Wish:
    missing = [f"--{option.rstrip('s') if option == 'boards' else option}" for option in _NEEDED if not words[option]]
    if missing:
        raise click.UsageError(f"{model} is no recipe (.toml); to compile a model give also {', '.join(missing)}")
    return Wish(model=model, **words)


_NEEDED = ("boards", "calibration", "labels")


def _saved(path: Path, wanted: Sequence[Path | Wish]) -> Path:
    wishes = [each for each in wanted if isinstance(each, Wish)]
    if len(wishes) != 1:
        raise click.UsageError("--save-recipe writes the recipe of exactly one model file")
    check_writable(path)
    drafted = drafting.draft(wishes[0], path.parent)
    with written_whole(path) as stream:
        stream.write(drafted.text.encode())
    for note in drafted.notes:
        click.echo(f"note: {note}", err=True)
    return path


def _check(out: Path, wanted: Sequence[Path | Wish]) -> None:
    """Refuse now what could not be written after minutes of work, or would be written twice."""
    paths = [destination(out, *_identity(each)) for each in wanted]
    for path in paths:
        check_writable(path)
    if len(set(paths)) != len(paths):
        raise click.UsageError(
            "two of the sources have the same model and version; one package would replace the other"
        )


def _identity(source: Path | Wish) -> tuple[str, str]:
    if isinstance(source, Wish):
        return source.name or drafting.name_of(source.model), source.version
    found = inputs.read_recipe(source)
    return found.model, found.version


def _written(out: Path, outcome: Outcome, *, with_report: bool) -> Path:
    record = outcome.finished.record
    path = destination(out, record.model, record.version)
    with written_whole(path) as stream:
        stream.write(outcome.finished.package)
    if with_report:
        for name, content in documents.all_of(record):
            with written_whole(path.with_suffix(name)) as stream:
                stream.write(content)
    if outcome.objection:
        click.echo(f"note: the result was not cached: {outcome.objection}", err=True)
    return path


def _show(results: Sequence[tuple[Path, Outcome]], *, as_json: bool) -> None:
    described = [_described(*each) for each in results]
    if as_json:
        click.echo(json.dumps(described[0] if len(described) == 1 else {"packages": described}))
        return
    for (path, outcome), each in zip(results, described, strict=True):
        for note in outcome.finished.record.notes:
            click.echo(f"note: {note}", err=True)
        summary.show(each["variants"])
        size = len(outcome.finished.package) / 1e6
        click.echo(f"{path} ({size:.1f} MB{', from the cache' if outcome.is_cached else ''})")


def _described(path: Path, outcome: Outcome) -> dict[str, Any]:
    finished = outcome.finished
    rows = summary.rows(package.read(io.BytesIO(finished.package)), finished.record)
    return {"package": str(path), "cached": outcome.is_cached, "variants": rows}
