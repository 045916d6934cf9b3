"""A directory with everything that a compilation needs, ready to be spoiled by a test."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_compiler import boards, cli

RECIPE = """\
model = "{model}"
version = "1.0.0"
slot = "camera"
counter = 1
source = "model.onnx"
boards = ["generic-x86_64", "raspberry-pi-5"]
variants = ["fp32", "int8"]

[data]
calibration = "calibration"
evaluation = "evaluation"
labels = "labels.csv"

[classes]
names = [{classes}]

[preprocessing]
{preprocessing}

[gate]
max_drop = 0.02
min_accuracy = 0.9

[golden]
frames = 8
"""


@dataclass(frozen=True)
class Workshop:
    """``path`` holds recipe.toml and all that it names; packages go to ``out``, which begins empty."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def out(self) -> Path:
        return self.path / "out"

    def copy_to(self, path: Path) -> Workshop:
        shutil.copytree(self.path, path)
        return Workshop(path)

    def replace(self, old: str, new: str) -> None:
        """Change the recipe; ``old`` must be there."""
        text = self.recipe.read_text()
        assert old in text
        self.recipe.write_text(text.replace(old, new))

    def write_board(self, name: str, runtime: str, precisions: str = '"int8", "fp16", "fp32"') -> None:
        """A board file beside the recipe: the generic one with another runtime."""
        _, content = boards.load("generic-x86_64", Path())
        text = content.decode().replace("generic-x86_64", name).replace('"onnxruntime"', f'"{runtime}"')
        (self.path / f"{name}.toml").write_text(text.replace('"int8", "fp32"', precisions).replace('"1.17"', '"1.0"'))

    def write_labels(self, labels: dict[str, str]) -> None:
        with (self.path / "labels.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("file", "label"), *labels.items()])

    def compile(self, *more: str, cache: str = "cache") -> int:
        """Run the command line in this process; its exit code."""
        return cli.run(["compile", str(self.recipe), "--out", str(self.out), "--cache", str(self.path / cache), *more])

    def refuse(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
        """Run the command line, expect a refusal that writes nothing; exit code, error code, sentence."""
        code = self.compile()
        printed = capsys.readouterr()
        assert printed.out == ""
        assert list(self.out.iterdir()) == []
        said = [line for line in printed.err.splitlines() if line.startswith("error ")]
        assert len(said) == 1, printed.err
        matched = re.fullmatch(r"error \[([a-z-]+)\]: (.+)", said[0])
        assert matched, said
        assert printed.err.endswith(f"{said[0]}\n")
        return code, matched[1], matched[2]


def make(path: Path, *, model: str, classes: tuple[str, ...], preprocessing: str, labels: dict[str, int]) -> Workshop:
    """Write recipe and labels beside the images and the model that are already in ``path``."""
    workshop = Workshop(path)
    workshop.out.mkdir()
    names = ", ".join(f'"{name}"' for name in classes)
    workshop.recipe.write_text(RECIPE.format(model=model, classes=names, preprocessing=preprocessing))
    workshop.write_labels({name: classes[label] for name, label in labels.items()})
    return workshop
