"""The recipe refuses what it does not know, and says what was meant."""

from __future__ import annotations

import pytest

from fleet_protocol.tasks import Classification
from model_compiler.errors import MalformedRecipe
from model_compiler.recipe import parse
from tests.compiler.conftest import SHAPES_PREPROCESSING
from tests.compiler.workshop import RECIPE

TEXT = RECIPE.format(model="shapes", classes='"up", "down"', preprocessing=SHAPES_PREPROCESSING)


def test_a_recipe_is_read_with_its_defaults() -> None:
    recipe = parse(TEXT)
    assert recipe.variants == ("fp32", "int8")
    assert recipe.postprocessing.of(("up", "down")) == Classification(labels=("up", "down"), activation="none")
    assert parse(TEXT.replace("[golden]\nframes = 8\n", "")).golden.frames == 8
    assert parse(TEXT.replace("min_accuracy = 0.9\n", "")).gate.min_accuracy == 0.0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('model = "shapes"', 'model = "Shapes"', "model name"),
        ('version = "1.0.0"', 'version = "1-0"', "model version"),
        ('slot = "camera"', 'slot = "../camera"', "slot name"),
        ("counter = 1", "counter = 0", "counter grows with every release"),
        ("counter = 1", "counter = true", r"\$\.counter"),
        ('slot = "camera"\n', "", "slot"),
        ('source = "model.onnx"', 'sauce = "model.onnx"', r"unknown key sauce; did you mean source\?"),
        ("width = 32", "widht = 32", r"preprocessing\.widht; did you mean preprocessing\.width\?"),
        ("width = 32", "width = 0", "width"),
        ("width = 32", "width = 8193", "width"),
        ("std = [0.25, 0.25, 0.25]", "std = [0.25, 0.0, 0.25]", "no std is zero"),
        ("mean = [0.4, 0.4, 0.4]", "mean = [0.4]", "3 values for rgb"),
        ('color = "rgb"', 'color = "yuv"', "yuv"),
        ('"fp32", "int8"', '"fp32", "int4"', "int4"),
        ('"fp32", "int8"', '"fp32", "fp32"', "variants names at least one of its kind, each once"),
        ('["fp32", "int8"]', "[]", "variants names at least one"),
        ('"generic-x86_64", "raspberry-pi-5"', "", "boards names at least one"),
        ("max_drop = 0.02", "max_drop = 1.5", "between 0 and 1"),
        ("max_drop = 0.02", "max_drop = nan", "between 0 and 1"),
        ("frames = 8", "frames = 65", "1 to 64"),
        ("frames = 8", "frames = 0", "1 to 64"),
        ('names = ["up", "down"]', "", "classes.names or as classes.file"),
        ('names = ["up", "down"]', 'names = ["up", "down"]\nfile = "classes.txt"', "classes.names or as classes.file"),
        ("[gate]", "[gate", "not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_name_of_its_key(old: str, new: str, said: str) -> None:
    assert old in TEXT
    with pytest.raises(MalformedRecipe, match=said):
        parse(TEXT.replace(old, new))
