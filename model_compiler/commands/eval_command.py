"""``model-compiler eval``: a packaged variant on images that the compilation may not have seen."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fleet_protocol.manifest import Manifest
from model_compiler import images, inputs, labels, progress
from model_compiler.images import LabelledImage
from model_compiler.packages import open_package
from model_compiler.parallel import default_jobs
from model_compiler.stages import evaluate
from model_compiler.targets import target


@click.command("eval")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--images", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory of images."
)
@click.option(
    "--labels", "table", required=True, type=click.Path(dir_okay=False, path_type=Path), help="CSV file,label."
)
@click.option("--variant", help="Variant to run; by default the most preferred.")
@click.option("--json", "as_json", is_flag=True, help="Result as JSON on stdout, progress as NDJSON on stderr.")
def command(file: Path, folder: Path, table: Path, variant: str | None, *, as_json: bool) -> None:
    r"""Run a variant of the package FILE on labelled images, on its own runtime, and say its accuracy.

    \b
    Example:
      model-compiler eval textline-1.0.0.efpkg --images new/ --labels new.csv --variant ort-int8
    """
    found = open_package(file)
    manifest = found.manifest(variant)
    samples = labels.match(inputs.read_labels(table), images.list_images(folder), manifest.postprocessing.labels)
    accuracy = _accuracy(manifest, found.model(manifest), samples, as_json=as_json)
    recorded = manifest.measured.value
    if as_json:
        measured = {"variant": manifest.variant, "metric": evaluate.METRIC, "value": accuracy, "samples": len(samples)}
        click.echo(json.dumps({**measured, "recorded": recorded}))
        return
    click.echo(
        f"{manifest.variant}: {evaluate.METRIC} {accuracy:.4f} on {len(samples)} images "
        f"({recorded:.4f} on {manifest.measured.samples} when it was compiled)"
    )


def _accuracy(manifest: Manifest, model: bytes, samples: tuple[LabelledImage, ...], *, as_json: bool) -> float:
    session = target(manifest.runtime.name).open_session(model, threads=1, optimised=True)
    with progress.shown(as_json=as_json) as report:
        answers = evaluate.evaluate({"": session}, samples, manifest.preprocessing, default_jobs(), report)
    return answers[""].accuracy([sample.label for sample in samples])
