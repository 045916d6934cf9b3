"""Compiling without a recipe: what the command line leaves open is found out, or asked for by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from fleet_protocol.errors import AccuracyRefused
from fleet_protocol.imaging import preprocess
from model_compiler import guess, images, inputs, recipe
from model_compiler.cli import run
from model_compiler.guess import Frame
from model_compiler.images import Image, LabelledImage
from model_compiler.packages import open_package
from tests.compiler import networks, pictures

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, labelled pictures in one directory, the class names in the model's order."""
    path = tmp_path_factory.mktemp("one-line")
    labels = pictures.save_all(pictures.shape, range(150), path / "pictures")
    (path / "Shapes v2.onnx").write_bytes(networks.fitted_shapes().SerializeToString())
    rows = [f"{name},{pictures.SHAPES[label]},drawn\n" for name, label in labels.items()]
    (path / "labels.csv").write_text("file,label,origin\n" + "".join(rows))
    (path / "classes.txt").write_text("\n".join(pictures.SHAPES))
    return path


def words(bench: Path, out: Path, *more: str) -> list[str]:
    return [
        "compile", str(bench / "Shapes v2.onnx"), "--board", "raspberry-pi-5", "--size", "32x32",
        "--calibration", str(bench / "pictures"), "--labels", str(bench / "labels.csv"),
        "--classes", str(bench / "classes.txt"), "--max-drop", "2%", "--out", str(out), "--cache", str(out / "cache"), *more,
    ]  # fmt: skip


def test_one_line_gives_a_package_for_the_board(bench: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(words(bench, tmp_path)) == 0
    manifest = open_package(tmp_path / "shapes-v2-1.0.0.efpkg").manifest(None)
    assert manifest.boards == ("raspberry-pi-5",)
    assert manifest.postprocessing.labels == pictures.SHAPES
    assert (manifest.preprocessing.scale, manifest.preprocessing.color) == (pytest.approx(1 / 255), "rgb")
    assert manifest.measured.samples == 120
    assert manifest.measured.value > 0.9
    assert "note: pre-processing 'imagenet' was chosen" in capsys.readouterr().err


def test_the_same_words_about_the_same_files_are_answered_from_the_cache(
    bench: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(words(bench, tmp_path, "--json")) == 0
    capsys.readouterr()
    assert run(words(bench, tmp_path, "--json")) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["cached"] is True
    assert printed.err == ""
    (kept,) = (tmp_path / "cache").glob("*.draft.json")
    kept.write_bytes(b"{")
    assert run(words(bench, tmp_path, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["cached"] is True


def test_the_recipe_that_the_words_mean_can_be_kept_and_gives_the_same_package(bench: Path, tmp_path: Path) -> None:
    kept, again = tmp_path / "kept", tmp_path / "again"
    kept.mkdir(), again.mkdir()
    assert run(words(bench, kept, "--save-recipe", str(tmp_path / "recipe.toml"))) == 0
    assert recipe.parse((tmp_path / "recipe.toml").read_text()).gate.max_drop == 0.02
    assert run(["compile", str(tmp_path / "recipe.toml"), "--out", str(again), "--cache", str(again / "cache")]) == 0
    first, second = (folder / "shapes-v2-1.0.0.efpkg" for folder in (kept, again))
    assert first.read_bytes() == second.read_bytes()


def test_classes_in_another_order_than_the_outputs_are_noticed(bench: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "classes.txt").write_text("\n".join((*pictures.SHAPES[1:], pictures.SHAPES[0])))
    arguments = words(bench, tmp_path)
    arguments[arguments.index("--classes") + 1] = str(tmp_path / "classes.txt")
    assert run(arguments) == 6
    said = capsys.readouterr().err
    assert "error [accuracy-refused]: with none of the usual pre-processings" in said
    assert "--classes" in said
    assert not list(tmp_path.glob("*.efpkg"))


def test_labels_that_are_numbers_are_the_outputs(bench: Path, tmp_path: Path) -> None:
    names = {name: str(index) for index, name in enumerate(pictures.SHAPES)}
    rows = [line.split(",") for line in (bench / "labels.csv").read_text().splitlines()[1:]]
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{row[0]},{names[row[1]]}\n" for row in rows))
    arguments = words(bench, tmp_path, "--preprocessing", "imagenet")
    place = arguments.index("--classes")
    del arguments[place : place + 2]
    arguments[arguments.index("--labels") + 1] = str(tmp_path / "labels.csv")
    assert run(arguments) == 0
    manifest = open_package(tmp_path / "shapes-v2-1.0.0.efpkg").manifest("ort-fp32")
    assert manifest.postprocessing.labels == ("0", "1", "2")


@pytest.mark.parametrize("missing", ["--board", "--calibration", "--labels"])
def test_a_word_that_is_missing_is_asked_for(bench: Path, tmp_path: Path, capsys: Capture, missing: str) -> None:
    arguments = words(bench, tmp_path)
    place = arguments.index(missing)
    del arguments[place : place + 2]
    assert run(arguments) == 2
    assert missing in capsys.readouterr().err


def test_a_model_of_any_size_needs_the_size(bench: Path, tmp_path: Path, capsys: Capture) -> None:
    model = onnx.load(bench / "Shapes v2.onnx")
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.Clear()
    (tmp_path / "free.onnx").write_bytes(model.SerializeToString())
    arguments = words(bench, tmp_path)
    arguments[1] = str(tmp_path / "free.onnx")
    place = arguments.index("--size")
    del arguments[place : place + 2]
    assert run(arguments) == 1
    assert "say which with --size WIDTHxHEIGHT" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--max-drop", "150%"), ("--max-drop", "little"), ("--size", "big")])
def test_a_number_that_is_none_is_refused(bench: Path, tmp_path: Path, option: str, value: str) -> None:
    assert run([*words(bench, tmp_path), option, value]) == 2


def test_several_recipes_give_several_packages(bench: Path, tmp_path: Path, capsys: Capture) -> None:
    for version in ("1.0.0", "1.1.0"):
        saved = str(tmp_path / f"{version}.toml")
        assert run(words(bench, tmp_path, "--version", version, "--save-recipe", saved)) == 0
    capsys.readouterr()
    recipes = [str(tmp_path / "1.0.0.toml"), str(tmp_path / "1.1.0.toml")]
    assert run(["compile", *recipes, "--out", str(tmp_path), "--cache", str(tmp_path / "cache"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["packages"]
    assert [Path(each["package"]).name for each in found] == ["shapes-v2-1.0.0.efpkg", "shapes-v2-1.1.0.efpkg"]
    assert all(each["cached"] for each in found)
    assert run(["compile", recipes[0], recipes[0], "--out", str(tmp_path)]) == 2
    assert run(["compile", *recipes, "--out", str(tmp_path / "one.efpkg")]) == 2


def test_a_split_is_disjoint_and_spreads_the_classes() -> None:
    everything = [LabelledImage(Image(f"{i:04d}.png", Path()), label=i % 7) for i in range(1000)]
    seen, unseen = inputs.split(everything)
    assert len(seen) == 200
    assert not {each.image.name for each in seen} & {each.image.name for each in unseen}
    assert len(seen) + len(unseen) == 1000
    assert {each.label for each in seen} == set(range(7))


def test_a_split_calibrates_with_300_images_at_most() -> None:
    everything = [LabelledImage(Image(f"{i:05d}.png", Path()), label=0) for i in range(9000)]
    assert len(inputs.split(everything)[0]) == 300


@pytest.mark.parametrize("truth", guess.NAMES)
def test_the_preprocessing_that_a_model_wants_is_found(bench: Path, truth: str) -> None:
    """The model is one that answers rightly only where its input has the mean and the order of colours it was made for."""
    frame = Frame(8, 8, 3, "nchw")
    wanted = guess.usual(truth, frame)
    folder = bench / "pictures"
    samples = [
        LabelledImage(Image(each.name, each), index % 3) for index, each in enumerate(sorted(folder.iterdir())[:30])
    ]
    answers = {}
    for each in samples:
        answers[preprocess(images.decode(each.image), wanted).tobytes()] = each.label

    def model(tensor: np.ndarray) -> np.ndarray:
        return np.eye(3)[answers[tensor.tobytes()]] if tensor.tobytes() in answers else np.array([0.0, 0.0, 0.0])

    assert guess.find(model, samples, frame)[0].wanted == wanted


def test_a_model_that_knows_nothing_is_refused(bench: Path) -> None:
    folder = bench / "pictures"
    samples = [
        LabelledImage(Image(each.name, each), index % 3) for index, each in enumerate(sorted(folder.iterdir())[:30])
    ]
    with pytest.raises(AccuracyRefused, match="better than chance"):
        guess.find(lambda _: np.zeros(3), samples, Frame(8, 8, 3, "nchw"))
