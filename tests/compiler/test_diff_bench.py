"""Two packages side by side, and a package on this machine's clock."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fleet_protocol.errors import MalformedPackage
from model_compiler.cli import run
from model_compiler.report import weights
from model_compiler.report.weights import Weighted
from tests.compiler.workshop import Workshop

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def retrained(compiled: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The same with one kernel changed a little, fp32 only, as version 1.1.0."""
    shop = compiled.copy_to(tmp_path_factory.mktemp("diff") / "retrained")
    for each in shop.out.iterdir():
        each.unlink()
    model = onnx.load(shop.path / "model.onnx")
    (kernel,) = (each for each in model.graph.initializer if each.name == "w2")
    kernel.CopyFrom(numpy_helper.from_array(np.float32(1.01) * numpy_helper.to_array(kernel), "w2"))
    (shop.path / "model.onnx").write_bytes(model.SerializeToString())
    shop.replace('variants = ["fp32", "int8"]', 'variants = ["fp32"]')
    shop.replace('version = "1.0.0"', 'version = "1.1.0"')
    assert shop.compile() == 0
    return shop


def package_of(shop: Workshop) -> str:
    (path,) = shop.out.iterdir()
    return str(path)


def test_diff_names_the_layer_whose_weights_changed(compiled: Workshop, retrained: Workshop, capsys: Capture) -> None:
    kept = ["--cache", str(retrained.path / "cache")]
    assert run(["diff", package_of(compiled), package_of(retrained), "--json", *kept]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["same_file"], found["added"], found["removed"]) == (False, [], ["ort-int8"])
    fp32 = found["variants"]["ort-fp32"]
    assert fp32["same_model"] is False
    assert fp32["layers"]["weights"] == [name for name in fp32["layers"]["weights"] if name.startswith("Conv")]
    assert len(fp32["layers"]["weights"]) == 1
    assert fp32["layers"]["same"] == 2
    was, now = fp32["numbers"]["source"]
    assert was != now
    assert all(each > 0 for each in fp32["numbers"]["p50 ms"])


def test_diff_tells_people_only_what_changed(compiled: Workshop, retrained: Workshop, capsys: Capture) -> None:
    assert run(["diff", package_of(compiled), package_of(retrained)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("shapes 1.0.0 -> shapes 1.1.0\n")
    assert "removed ort-int8" in shown
    assert "other weights: 1 (Conv_" in shown
    assert "calibration set" not in shown


def test_diff_of_a_package_with_itself_is_nothing(compiled: Workshop, capsys: Capture) -> None:
    assert run(["diff", package_of(compiled), package_of(compiled)]) == 0
    assert "the same file, to the byte" in capsys.readouterr().out


def weighted(sha256: str, *, is_integer: bool = False) -> Weighted:
    return Weighted("Conv", is_integer, 4, sha256)


def test_layers_are_added_removed_requantized_or_retrained() -> None:
    before = {"a": weighted("1"), "b": weighted("1"), "c": weighted("1"), "d": weighted("1")}
    after = {"b": weighted("1"), "c": weighted("2"), "d": weighted("3", is_integer=True), "e": weighted("1")}
    found = weights.difference(before, after)
    assert (found.added, found.removed) == (("e",), ("a",))
    assert (found.precision, found.weights, found.same) == (("d",), ("c",), 1)


def test_a_model_that_is_no_onnx_file_has_no_layers_to_compare() -> None:
    with pytest.raises(MalformedPackage):
        weights.layers(b"TFL3 and so on")


def test_bench_times_every_variant_on_this_machine(compiled: Workshop, capsys: Capture) -> None:
    assert run(["bench", package_of(compiled), "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["variant"] for each in found["variants"]] == ["ort-int8", "ort-fp32"]
    for each in found["variants"]:
        assert 0 < each["p50_ms"] <= each["p95_ms"]
        assert each["resident_bytes"] > 10_000_000
        assert each["over_budget_on"] == []


def test_bench_shows_people_a_table(compiled: Workshop, capsys: Capture) -> None:
    assert run(["bench", package_of(compiled), "--rounds", "1", "--variant", "ort-fp32"]) == 0
    shown = capsys.readouterr().out
    assert "ort-fp32" in shown
    assert "ort-int8" not in shown
    assert "best of 1 rounds on " in shown


def test_a_variant_that_is_not_there_is_named(compiled: Workshop, tmp_path: Path, capsys: Capture) -> None:
    assert run(["bench", package_of(compiled), "--variant", "ov-int4"]) == 3
    assert "it has ort-int8, ort-fp32" in capsys.readouterr().err
