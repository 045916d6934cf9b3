"""Several models in one package: together they answer what the rule says, on the runtime, quantized too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from fleet_protocol import golden
from fleet_protocol.imaging import preprocess
from fleet_protocol.tasks import Classification
from model_compiler import graph, images
from model_compiler.errors import MalformedRecipe, ParityBroken
from model_compiler.graph import Combination, Rule
from model_compiler.inputs import gather
from model_compiler.onnx_session import OnnxSession
from model_compiler.packages import open_package
from model_compiler.recipe import parse
from model_compiler.stages import ensemble, normalise
from model_compiler.stages.normalise import FloatModel
from tests.compiler import networks, pictures
from tests.compiler.workshop import Workshop

Capture = pytest.CaptureFixture[str]
THRESHOLD = 0.55


@pytest.fixture(scope="module")
def members() -> list[FloatModel]:
    task = Classification(labels=pictures.SHAPES, activation="softmax")
    made = [networks.fitted_shapes(range(20_000, 20_060), 3), networks.fitted_shapes(range(21_000, 21_600), 7)]
    return [normalise.normalise(each, networks.PREPROCESSING, task, Path("member.onnx")) for each in made]


@pytest.fixture(scope="module")
def tensors() -> list[NDArray[np.float32]]:
    return [preprocess(pictures.as_bgr(pictures.shape(seed)[0]), networks.PREPROCESSING) for seed in range(60)]


def whole(members: list[FloatModel], rule: Rule, tmp_path: Path) -> FloatModel:
    pictures.save_all(pictures.shape, range(8), tmp_path / "pictures")
    task = Classification(labels=pictures.SHAPES, activation="none")
    wanted = Combination(rule, "softmax", THRESHOLD if rule == "cascade" else 0.0)
    return ensemble.joined(members, wanted, networks.PREPROCESSING, task, images.list_images(tmp_path / "pictures"))


@pytest.mark.parametrize("rule", ["average", "vote", "cascade"])
def test_the_joined_graph_answers_what_the_rule_makes_of_the_members(
    members: list[FloatModel], tensors: list[NDArray[np.float32]], rule: Rule, tmp_path: Path
) -> None:
    joined = OnnxSession(graph.lazy(whole(members, rule, tmp_path).content))
    alone = [OnnxSession(each.content) for each in members]
    for tensor in tensors:
        expected = ensemble.answer([each.run([tensor])[0] for each in alone], Combination(rule, "softmax", THRESHOLD))
        assert np.abs(joined.run([tensor])[0] - expected).max() < 1e-5


def test_a_vote_follows_the_majority_and_ties_go_to_the_surer() -> None:
    sure, unsure = np.array([[9.0, 0.0, 0.0]]), np.array([[0.0, 0.1, 0.0]])
    wanted = Combination("vote", "softmax")
    assert ensemble.answer([sure, unsure], wanted).argmax() == 0
    assert ensemble.answer([sure, unsure, unsure], wanted).argmax() == 1


def test_a_cascade_computes_its_second_model_only_where_the_first_is_unsure(
    members: list[FloatModel], tensors: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    content = graph.lazy(whole(members, "cascade", tmp_path).content)
    model = onnx.load_from_string(content)
    (decided,) = (node for node in model.graph.node if node.op_type == "If")
    branches = {each.name: [node.op_type for node in each.g.node] for each in decided.attribute}
    assert branches["then_branch"].count("Conv") == 2
    assert branches["else_branch"] == ["Identity"]
    assert [node.op_type for node in model.graph.node].count("Conv") == 2
    first, tapped = OnnxSession(members[0].content), graph.asked(content)
    assert tapped is not None
    session = OnnxSession(tapped)
    asked = [bool(session.run([tensor])[-1].any()) for tensor in tensors]
    scores = [first.run([tensor])[0] for tensor in tensors]
    confidences = [float(ensemble.answer([each], Combination("average", "softmax")).max()) for each in scores]
    assert asked == [confidence < THRESHOLD for confidence in confidences]
    assert 0 < sum(asked) < len(asked)


def test_a_model_that_is_no_cascade_is_left_alone(members: list[FloatModel], tmp_path: Path) -> None:
    assert graph.lazy(members[0].content) == members[0].content
    averaged = whole(members, "average", tmp_path).content
    assert graph.lazy(averaged) == averaged
    assert graph.asked(averaged) is None


def test_a_graph_that_does_not_answer_as_the_rule_says_is_noticed(
    members: list[FloatModel], tensors: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    averaged, contents = whole(members, "average", tmp_path).content, [each.content for each in members]
    ensemble.check(averaged, contents, Combination("average", "softmax"), tensors)
    with pytest.raises(ParityBroken, match="'vote'"):
        ensemble.check(averaged, contents, Combination("vote", "softmax"), tensors)
    with pytest.raises(ParityBroken, match="'average'"):
        ensemble.check(averaged, [contents[0], contents[0]], Combination("average", "softmax"), tensors)


def ensemble_shop(shapes: Workshop, table: str) -> Workshop:
    (shapes.path / "a.onnx").write_bytes(networks.fitted_shapes(range(20_000, 20_060), 3).SerializeToString())
    (shapes.path / "b.onnx").write_bytes(networks.fitted_shapes(range(21_000, 21_600), 7).SerializeToString())
    shapes.replace('source = "model.onnx"\n', "")
    shapes.recipe.write_text(
        f'{shapes.recipe.read_text()}\n[postprocessing]\nactivation = "softmax"\n\n[ensemble]\n{table}\n'
    )
    shapes.replace("min_accuracy = 0.9", "min_accuracy = 0.5")
    return shapes


CASCADE = f'sources = ["a.onnx", "b.onnx"]\ncombine = "cascade"\nthreshold = {THRESHOLD}'


def test_a_cascade_is_compiled_measured_and_proved_as_a_whole(shapes: Workshop, capsys: Capture) -> None:
    shop = ensemble_shop(shapes, CASCADE)
    assert shop.compile("--json") == 0
    int8, fp32 = json.loads(capsys.readouterr().out)["variants"]
    (path,) = shop.out.iterdir()
    package = open_package(path)
    record = package.record(shop.path / "cache")
    assert record is not None
    for variant in (int8, fp32):
        manifest = package.manifest(variant["variant"])
        model = package.model(manifest)
        assert manifest.postprocessing.activation == "none"
        assert [node.op_type for node in onnx.load_from_string(model).graph.node].count("If") == 1
        frames = package.frames(manifest)
        session = OnnxSession(model)
        got = [session.run(inputs) for inputs, _ in frames]
        golden.compare(manifest.golden, manifest.outputs, [outputs for _, outputs in frames], got)
        made = record.variant(variant["variant"])
        assert made is not None
        assert made.share_second is not None
        assert 0 < made.share_second < 1
    quantized = onnx.load_from_string(package.model(package.manifest("ort-int8")))
    (decided,) = (node for node in quantized.graph.node if node.op_type == "If")
    inside = [node.op_type for attribute in decided.attribute for node in attribute.g.node]
    assert inside.count("QuantizeLinear") >= 2
    assert "QLinearConv" in fused(package.model(package.manifest("ort-int8")), shop.path / "fused.onnx")


def fused(model: bytes, path: Path) -> list[str]:
    """The operators that ONNX Runtime really runs in the branch; none of them may compute in float what was quantized."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (decided,) = (node for node in onnx.load(path).graph.node if node.op_type == "If")
    found = [node.op_type for attribute in decided.attribute for node in attribute.g.node]
    assert not {"Conv", "Gemm", "MatMul"} & set(found)
    return found


@pytest.mark.parametrize("rule", ["average", "vote"])
def test_an_ensemble_is_compiled_like_one_model(shapes: Workshop, capsys: Capture, rule: str) -> None:
    shop = ensemble_shop(shapes, f'sources = ["a.onnx", "b.onnx", "model.onnx"]\ncombine = "{rule}"')
    assert shop.compile("--json") == 0
    rows = json.loads(capsys.readouterr().out)["variants"]
    assert [row["variant"] for row in rows] == ["ort-int8", "ort-fp32"]
    assert all(row["accuracy"] > 0.9 for row in rows)


def test_every_member_changes_the_digest_of_the_source(shapes: Workshop) -> None:
    shop = ensemble_shop(shapes, CASCADE)
    before = gather(shop.recipe).source.digest
    (shop.path / "b.onnx").write_bytes(networks.fitted_shapes(range(21_000, 21_600), 8).SerializeToString())
    assert gather(shop.recipe).source.digest != before


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('sources = ["a.onnx"]\ncombine = "average"', "2 to 8 models"),
        ('sources = ["a.onnx", "b.onnx"]\ncombine = "cascade"', "threshold between 0 and 1"),
        ('sources = ["a.onnx", "b.onnx", "c.onnx"]\ncombine = "cascade"\nthreshold = 0.5', "has two sources"),
        ('sources = ["a.onnx", "b.onnx"]\ncombine = "vote"\nthreshold = 0.5', "only a cascade"),
        ('sources = ["a.onnx", "b.onnx"]\ncombine = "stack"', "combine"),
    ],
)
def test_an_ensemble_that_makes_no_sense_is_refused(shapes: Workshop, table: str, said: str) -> None:
    with pytest.raises(MalformedRecipe, match=said):
        parse(ensemble_shop(shapes, table).recipe.read_text())


def test_a_model_and_an_ensemble_at_once_are_refused(shapes: Workshop) -> None:
    text = ensemble_shop(shapes, CASCADE).recipe.read_text()
    with pytest.raises(MalformedRecipe, match="either as source"):
        parse(text.replace("counter = 1", 'counter = 1\nsource = "a.onnx"'))
