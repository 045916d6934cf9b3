"""Whatever is wrong with the inputs: a stable code, one sentence that names the cure, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_compiler.cli import run
from model_compiler.stages import parity
from tests.compiler.workshop import Workshop

Capture = pytest.CaptureFixture[str]


def change_model(shapes: Workshop, change: Callable[[onnx.ModelProto], object]) -> None:
    path = shapes.path / "model.onnx"
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


def test_a_truncated_model(shapes: Workshop, capsys: Capture) -> None:
    path = shapes.path / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1000])
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-model")
    assert "model.onnx" in sentence
    assert "export or copy it again" in sentence


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(100), b"just text, no model\n" * 50])
def test_a_file_that_is_not_onnx(shapes: Workshop, capsys: Capture, content: bytes) -> None:
    (shapes.path / "model.onnx").write_bytes(content)
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-model")
    assert "not an ONNX model" in sentence


def test_a_missing_model(shapes: Workshop, capsys: Capture) -> None:
    (shapes.path / "model.onnx").unlink()
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-model")
    assert "cannot be read" in sentence


def test_weights_that_are_nan(shapes: Workshop, capsys: Capture) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        values = numpy_helper.to_array(weight).copy()
        values.flat[3] = np.nan
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))

    change_model(shapes, spoil)
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-model")
    assert "NaN" in sentence


def test_weights_that_are_infinite(shapes: Workshop, capsys: Capture) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        weight = next(each for each in model.graph.initializer if len(each.dims) == 4)
        values = numpy_helper.to_array(weight).copy()
        values.flat[3] = np.inf
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))

    change_model(shapes, spoil)
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-model")
    assert "is infinite" in sentence


def test_a_small_file_that_unpacks_to_gigabytes(shapes: Workshop, capsys: Capture) -> None:
    def swell(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.initializer.append(numpy_helper.from_array(np.array([1 << 16, 1 << 16], np.int64), "sides"))
        graph.node.append(helper.make_node("ConstantOfShape", ["sides"], ["desert"], name="swell"))
        graph.node.append(helper.make_node("ReduceMean", ["desert"], ["grain"], keepdims=0))
        scores = graph.output[0].name
        for node in graph.node:
            node.output[:] = ["before" if each == scores else each for each in node.output]
        graph.node.append(helper.make_node("Add", ["before", "grain"], [scores]))

    change_model(shapes, swell)
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "unsupported-model")
    assert "layer 'swell' (ConstantOfShape)" in sentence


def test_a_model_over_the_boards_memory(shapes: Workshop, capsys: Capture) -> None:
    shapes.write_board("tiny", "onnxruntime")
    board = shapes.path / "tiny.toml"
    board.write_text(board.read_text().replace("worker_memory_mib = 1024", "worker_memory_mib = 16"))
    shapes.replace('"generic-x86_64", "raspberry-pi-5"', '"tiny.toml"')
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "unsupported-model")
    assert "16 MiB that the board tiny allows" in sentence


def test_a_conversion_that_is_not_equal_is_refused_by_the_whole_compilation(
    shapes: Workshop, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "parity-broken")
    assert "differs from the source" in sentence


def test_two_inputs(shapes: Workshop, capsys: Capture) -> None:
    change_model(
        shapes, lambda model: model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1]))
    )
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "unsupported-model")
    assert "2 inputs ('image', 'mask')" in sentence


def test_an_input_that_the_preprocessing_does_not_make(shapes: Workshop, capsys: Capture) -> None:
    shapes.replace("width = 32", "width = 48")
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "unsupported-model")
    assert "[1, 3, 32, 48]" in sentence


def test_more_classes_than_the_model_has(shapes: Workshop, capsys: Capture) -> None:
    shapes.replace('"square"]', '"square", "circle"]')
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "unsupported-model")
    assert "4 labels need as many scores" in sentence


def test_an_operator_that_no_runtime_knows(shapes: Workshop, capsys: Capture) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        model.graph.node[-1].op_type = "Gemmm"
        model.graph.node[-1].domain = "org.example"
        model.opset_import.append(helper.make_opsetid("org.example", 1))

    change_model(shapes, spoil)
    code, name, sentence = shapes.refuse(capsys)
    assert code == 1
    assert name in {"model-not-loadable", "unsupported-model"}
    assert "model" in sentence


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "inside/../../secret.bin", "link.bin"])
def test_weights_from_outside_the_models_directory(shapes: Workshop, capsys: Capture, location: str) -> None:
    (shapes.path.parent / "secret.bin").write_bytes(bytes(4096))
    (shapes.path / "link.bin").symlink_to("../secret.bin")
    externalise(shapes, location)
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-model")
    assert "outside its own directory" in sentence


def test_weights_that_are_missing(shapes: Workshop, capsys: Capture) -> None:
    externalise(shapes, "weights.bin")
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-model")
    assert "weights.bin" in sentence
    assert "missing" in sentence


def test_weights_that_are_cut(shapes: Workshop, capsys: Capture) -> None:
    externalise(shapes, "weights.bin")
    (shapes.path / "weights.bin").write_bytes(bytes(10))
    code, name, _ = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-model")


def externalise(shapes: Workshop, location: str) -> None:
    def move(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.append(onnx.StringStringEntryProto(key="location", value=location))

    change_model(shapes, move)


def test_images_without_a_label(shapes: Workshop, capsys: Capture) -> None:
    shapes.write_labels({"00000.png": "up"})
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-dataset")
    assert "89 of 90 evaluation images have no label, the first '00001.png'" in sentence


def test_labels_without_an_image(shapes: Workshop, capsys: Capture) -> None:
    (shapes.path / "evaluation" / "00007.png").unlink()
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-dataset")
    assert "1 labels name no evaluation image, the first '00007.png'" in sentence


def test_an_empty_calibration_directory(shapes: Workshop, capsys: Capture) -> None:
    for path in (shapes.path / "calibration").iterdir():
        path.unlink()
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-dataset")
    assert "it has 0" in sentence


@pytest.mark.parametrize("folder", ["calibration", "evaluation"])
@pytest.mark.parametrize("content", [b"", b"no image at all"], ids=["empty", "text"])
def test_a_corrupt_image(shapes: Workshop, capsys: Capture, folder: str, content: bytes) -> None:
    victim = sorted((shapes.path / folder).iterdir())[11]
    victim.write_bytes(content)
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-dataset")
    assert victim.name in sentence
    assert "replace or remove it" in sentence


def test_a_truncated_image(shapes: Workshop, capsys: Capture) -> None:
    victim = sorted((shapes.path / "evaluation").iterdir())[11]
    victim.write_bytes(victim.read_bytes()[:-200])
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-dataset")
    assert victim.name in sentence


def test_fewer_evaluation_images_than_golden_frames(shapes: Workshop, capsys: Capture) -> None:
    shapes.replace("frames = 8", "frames = 64")
    for path in sorted((shapes.path / "evaluation").iterdir())[10:]:
        path.unlink()
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-dataset")
    assert "64 golden frames" in sentence


def test_a_board_that_nobody_described(shapes: Workshop, capsys: Capture) -> None:
    shapes.replace("raspberry-pi-5", "rasberry-pi-5")
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (3, "unknown-board")
    assert "did you mean raspberry-pi-5?" in sentence


def test_a_board_file_that_is_malformed(shapes: Workshop, capsys: Capture) -> None:
    (shapes.path / "mine.toml").write_text('name = "mine"\n')
    shapes.replace("raspberry-pi-5", "mine.toml")
    code, name, _ = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-board")


def test_an_unknown_key_in_the_recipe(shapes: Workshop, capsys: Capture) -> None:
    shapes.replace("max_drop", "max_dorp")
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-recipe")
    assert "unknown key gate.max_dorp; did you mean gate.max_drop?" in sentence


def test_a_recipe_that_is_missing(shapes: Workshop, capsys: Capture) -> None:
    shapes.recipe.unlink()
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "malformed-recipe")
    assert "cannot be read" in sentence


def test_a_variant_that_no_board_runs(shapes: Workshop, capsys: Capture) -> None:
    shapes.replace('["fp32", "int8"]', '["fp32", "fp16"]')
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "unwanted-variant")
    assert "fp16" in sentence


def test_a_gate_that_no_variant_passes(shapes: Workshop, capsys: Capture) -> None:
    shapes.replace("min_accuracy = 0.9", "min_accuracy = 1.0")
    flipped = {path.name: "up" for path in (shapes.path / "evaluation").iterdir()}
    shapes.write_labels(flipped)
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (6, "accuracy-refused")
    assert "ort-fp32 reaches 0.3" in sentence
    assert "where at least 1.0000 is wanted" in sentence


def test_int8_that_loses_too_much_is_refused_though_fp32_is_good(shapes: Workshop, capsys: Capture) -> None:
    """Calibrated on black images, whose ranges say nothing about the real ones."""
    import cv2

    for path in (shapes.path / "calibration").iterdir():
        cv2.imwrite(str(path), np.zeros((32, 40, 3), np.uint8))
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (6, "accuracy-refused")
    assert "ort-int8 reaches" in sentence
    assert "ort-fp32" not in sentence
    assert "where at most 0.0200 is allowed" in sentence


def test_a_model_that_answers_the_same_to_everything(shapes: Workshop, capsys: Capture) -> None:
    def silence(model: onnx.ModelProto) -> None:
        for weight in model.graph.initializer:
            if weight.name in {"w3", "b3"}:
                weight.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(weight)), weight.name))

    change_model(shapes, silence)
    shapes.replace("min_accuracy = 0.9", "min_accuracy = 0.0")
    code, name, sentence = shapes.refuse(capsys)
    assert (code, name) == (1, "indecisive-model")
    assert "train further" in sentence


def test_an_output_directory_that_does_not_exist(shapes: Workshop, capsys: Capture) -> None:
    assert (
        run(["compile", str(shapes.recipe), "--out", str(shapes.path / "absent"), "--cache", str(shapes.path / "c")])
        == 1
    )
    printed = capsys.readouterr()
    assert printed.err.startswith("error [cannot-write]: ")
    assert printed.err.count("\n") == 1


def test_an_evaluation_of_a_variant_that_is_not_there(compiled: Workshop, capsys: Capture) -> None:
    (file,) = compiled.out.iterdir()
    arguments = ["--images", str(compiled.path / "evaluation"), "--labels", str(compiled.path / "labels.csv")]
    assert run(["eval", str(file), *arguments, "--variant", "ov-int8"]) == 3
    assert capsys.readouterr().err == (
        "error [not-found]: the package has no variant 'ov-int8'; it has ort-int8, ort-fp32\n"
    )


def test_a_package_that_was_cut(compiled: Workshop, tmp_path: Path, capsys: Capture) -> None:
    (file,) = compiled.out.iterdir()
    path = tmp_path / "cut.efpkg"
    path.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert run(["inspect", str(path)]) == 1
    assert capsys.readouterr().err.startswith("error [malformed-package]: ")
