"""Models that come as TensorFlow Lite or OpenVINO IR are what they were, once they are ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from fleet_protocol import package
from model_compiler.errors import MalformedModel, MissingExtra, ParityBroken, UnsupportedModel
from model_compiler.onnx_session import OnnxSession
from model_compiler.samples import CalibrationSet
from model_compiler.sources import imported, kind_of
from model_compiler.stages import load
from model_compiler.stages.normalise import FloatModel, normalise
from model_compiler.targets import litert, openvino
from tests.compiler import networks
from tests.compiler.workshop import Workshop

NOTHING = CalibrationSet((), networks.PREPROCESSING)


@pytest.fixture(scope="module")
def model() -> FloatModel:
    return normalise(
        networks.fitted_shapes(range(20_000, 20_200)), networks.PREPROCESSING, networks.TASK, Path("m.onnx")
    )


@pytest.fixture(scope="module")
def tflite(model: FloatModel) -> bytes:
    return litert.candidates(model, "fp32", None, NOTHING)[0].model


@pytest.fixture(scope="module")
def ir(model: FloatModel) -> tuple[bytes, bytes]:
    return openvino.split(openvino.candidates(model, "fp16", None, NOTHING)[0].model)


def test_a_file_is_known_by_its_first_bytes(model: FloatModel, tflite: bytes, ir: tuple[bytes, bytes]) -> None:
    assert kind_of(model.content) == "onnx"
    assert kind_of(tflite) == "tflite"
    assert kind_of(ir[0]) == "openvino"
    assert kind_of(b"PK\x03\x04 archive") == "torch"
    assert kind_of(b"") == "onnx"


def test_openvino_ir_with_half_weights_computes_the_same_in_onnx(
    model: FloatModel, ir: tuple[bytes, bytes], tmp_path: Path
) -> None:
    (tmp_path / "m.xml").write_bytes(ir[0])
    (tmp_path / "m.bin").write_bytes(ir[1])
    source = load.read(tmp_path / "m.xml")
    frame = np.random.default_rng(1).random((1, 3, 32, 32), np.float32)
    (got,) = OnnxSession(load.load(source).SerializeToString()).run([frame])
    (expected,) = openvino.OpenVinoSession(ir[0] + ir[1]).run([frame])
    assert np.abs(got - expected).max() < 1e-4
    (tmp_path / "m.bin").write_bytes(ir[1][:-1] + b"x")
    assert load.read(tmp_path / "m.xml").digest != source.digest


def test_weights_that_lie_nowhere_are_missed_by_name(ir: tuple[bytes, bytes], tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_bytes(ir[0])
    with pytest.raises(MalformedModel, match=r"m\.bin cannot be read"):
        load.read(tmp_path / "m.xml")


def test_a_tflite_file_compiles_into_a_package(shapes: Workshop, tflite: bytes) -> None:
    (shapes.path / "model.tflite").write_bytes(tflite)
    shapes.replace('source = "model.onnx"', 'source = "model.tflite"')
    shapes.replace('layout = "nchw"', 'layout = "nhwc"')
    shapes.write_board("b-tfl", "litert")
    shapes.replace('"raspberry-pi-5"', '"b-tfl.toml"')
    shapes.replace('["fp32", "int8"]', '["fp32"]')
    assert shapes.compile() == 0
    (path,) = shapes.out.glob("*.efpkg")
    with path.open("rb") as stream:
        variants = [each.manifest for each in package.read(stream).variants]
    assert [(each.variant, each.inputs[0].shape) for each in variants] == [
        ("ort-fp32", (1, 32, 32, 3)), ("tfl-fp32", (1, 32, 32, 3)),
    ]  # fmt: skip
    assert all(each.measured.value >= 0.9 for each in variants)


@pytest.mark.parametrize("name", ["m.tflite", "m.xml"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_file_is_refused_with_the_cure(
    name: str, share: float, tflite: bytes, ir: tuple[bytes, bytes], tmp_path: Path
) -> None:
    content = tflite if name == "m.tflite" else ir[0]
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    (tmp_path / "m.bin").write_bytes(ir[1])
    with pytest.raises((MalformedModel, UnsupportedModel), match=name):
        load.load(load.read(tmp_path / name))


def test_a_quantized_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="one float32 picture is needed"):
        imported._from_openvino(*openvino.split(_takes_bytes()))


def _takes_bytes() -> bytes:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], "bytes",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return openvino._converted(made.SerializeToString(), is_halved=False)


def test_a_program_of_pytorch_without_pytorch_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises((MissingExtra, UnsupportedModel), match=r"install edgefleet\[torch\]|m\.pt2.* cannot export it"):
        load.load(load.read(tmp_path / "m.pt2"))


def test_an_import_that_computes_something_else_is_caught(model: FloatModel) -> None:
    spoiled = onnx.load_from_string(model.content)
    weight = next(each for each in spoiled.graph.initializer if len(each.dims) == 4)
    weight.raw_data = bytes(len(weight.raw_data))
    with pytest.raises(ParityBroken, match="brought from OpenVINO IR to ONNX"):
        imported._compare(Path("m.xml"), "OpenVINO IR", OnnxSession(model.content), spoiled)


def test_outputs_come_in_the_order_of_the_source(model: FloatModel) -> None:
    def with_outputs(*names: str) -> onnx.ModelProto:
        copy = onnx.load_from_string(model.content)
        known = {each.name: each for each in (*copy.graph.value_info, *copy.graph.output)}
        del copy.graph.output[:]
        copy.graph.output.extend([known[name] for name in names])
        return copy

    first = onnx.load_from_string(model.content).graph.node[0].output[0]
    last = model.outputs[0].name
    swapped = with_outputs(first, last)
    imported._compare(Path("m"), "a test", OnnxSession(with_outputs(last, first).SerializeToString()), swapped)
    assert [each.name for each in swapped.graph.output] == [last, first]
