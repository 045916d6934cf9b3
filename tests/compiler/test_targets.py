"""Every runtime's files, made by its own tools and run by the runtime itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from fleet_protocol.errors import FleetError, ModelNotLoadable, WorkerDied
from fleet_protocol.manifest import Preprocessing
from model_compiler import images
from model_compiler.errors import ParityBroken, UnsupportedModel
from model_compiler.isolated import alone
from model_compiler.onnx_session import OnnxSession
from model_compiler.samples import CalibrationSet
from model_compiler.stages import calibrate, parity, quantize
from model_compiler.stages.normalise import FloatModel, normalise
from model_compiler.targets import openvino, target
from tests.compiler import networks, pictures

RUNTIMES = ("onnxruntime", "openvino", "litert", "tflite-runtime")


@dataclass(frozen=True)
class Material:
    """The fitted shapes network with its calibration images and what it answers on them."""

    model: FloatModel
    samples: CalibrationSet
    ranges: calibrate.Ranges
    expected: list[NDArray[np.float32]]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("targets") / "images"
    pictures.save_all(pictures.shape, range(1000, 1024), folder)
    model = normalise(networks.fitted_shapes(), networks.PREPROCESSING, networks.TASK, folder)
    samples = CalibrationSet(images.list_images(folder), networks.PREPROCESSING)
    ranges = calibrate.calibrate(
        model, quantize.activations(model), samples.pictures, networks.PREPROCESSING, 1, lambda _: None
    )
    session = OnnxSession(model.content)
    return Material(model, samples, ranges, [session.run([each])[0] for each in samples.tensors()])


def answers(material: Material, runtime: str, model: bytes, *, optimised: bool = True) -> list[NDArray[np.float32]]:
    session = target(runtime).open_session(model, threads=1, optimised=optimised)  # type: ignore[arg-type]
    return [session.run([each])[0] for each in material.samples.tensors()]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_a_float_variant_computes_what_the_normalised_model_computes(
    material: Material, runtime: str, precision: str, tolerance: float
) -> None:
    (candidate,) = target(runtime).candidates(material.model, precision, None, material.samples)  # type: ignore[arg-type]
    for optimised in (True, False):
        got = answers(material, runtime, candidate.model, optimised=optimised)
        assert np.abs(np.stack(got) - np.stack(material.expected)).max() < tolerance * 10


@pytest.mark.parametrize("runtime", ["openvino", "litert"])
def test_an_int8_variant_agrees_with_fp32_on_most_images_and_is_smaller(material: Material, runtime: str) -> None:
    made = target(runtime).candidates(material.model, "int8", material.ranges, material.samples)  # type: ignore[arg-type]
    (fp32,) = target(runtime).candidates(material.model, "fp32", None, material.samples)  # type: ignore[arg-type]
    wanted = [int(each.argmax()) for each in material.expected]
    for candidate in made:
        got = [int(each.argmax()) for each in answers(material, runtime, candidate.model)]
        assert np.mean(np.equal(got, wanted)) >= 0.85, candidate.method
    assert made[0].model != fp32.model
    if runtime == "litert":
        assert len(made[0].model) < len(fp32.model)
    else:
        assert [each.method for each in made[:2]] == ["nncf-performance", "nncf-mixed"]
        assert len(openvino.split(made[0].model)[1]) < len(openvino.split(fp32.model)[1])


def test_openvino_runs_the_quantized_graph_that_onnx_runtime_runs(material: Material) -> None:
    candidate = quantize.candidates(material.model, material.ranges)[0]
    converted = target("openvino").from_qdq(candidate.model)
    assert converted is not None
    ours = [int(each.argmax()) for each in answers(material, "onnxruntime", candidate.model)]
    theirs = [int(each.argmax()) for each in answers(material, "openvino", converted)]
    assert np.mean(np.equal(ours, theirs)) >= 0.9


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_is_its_parts_end_to_end(material: Material, runtime: str) -> None:
    (candidate,) = target(runtime).candidates(material.model, "fp32", None, material.samples)  # type: ignore[arg-type]
    parts = target(runtime).parts(candidate.model)  # type: ignore[arg-type]
    assert b"".join(content for _, content in parts) == candidate.model
    assert [name for name, _ in parts] == (["model", "weights"] if runtime == "openvino" else ["model"])


@pytest.mark.parametrize("runtime", ["openvino", "litert"])
def test_the_same_model_gives_the_same_bytes(material: Material, runtime: str) -> None:
    if runtime == "litert":
        from model_compiler.targets import litert

        litert._converted.cache_clear()
    for precision in ("fp32", "int8"):
        first, second = (
            target(runtime).candidates(material.model, precision, material.ranges, material.samples)  # type: ignore[arg-type]
            for _ in range(2)
        )
        assert [each.model for each in first] == [each.model for each in second]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("content", [b"", b"garbage" * 40, b"<net>" + b"garbage" * 40 + b"</net>"])
def test_what_is_no_model_is_refused_in_one_sentence(runtime: str, content: bytes) -> None:
    with pytest.raises(ModelNotLoadable) as caught:
        target(runtime).open_session(content, threads=1, optimised=True)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["openvino", "litert"])
def test_an_operator_that_a_converter_does_not_know_is_named(material: Material, runtime: str) -> None:
    strange = onnx.load_from_string(material.model.content)
    strange.graph.node[0].op_type = "Frobnicate"
    model = FloatModel(strange.SerializeToString(), material.model.input, material.model.outputs)
    with pytest.raises(UnsupportedModel, match="Frobnicate"):
        target(runtime).candidates(model, "fp32", None, material.samples)  # type: ignore[arg-type]


def test_a_converter_that_computes_something_else_is_caught(material: Material) -> None:
    spoiled = onnx.load_from_string(material.model.content)
    weight = next(each for each in spoiled.graph.initializer if len(each.dims) == 4)
    weight.raw_data = bytes(len(weight.raw_data))
    with pytest.raises(ParityBroken, match="converted for Other"):
        parity.check_conversion(
            material.model.content, OnnxSession(spoiled.SerializeToString()), material.samples, "Other"
        )


def test_litert_takes_pictures_interleaved_and_lays_planar_ones_out(material: Material) -> None:
    wanted = target("litert").preprocessing(networks.PREPROCESSING)
    assert isinstance(wanted, Preprocessing)
    assert (wanted.layout, wanted.input_shape) == ("nhwc", (1, 32, 32, 3))
    (candidate,) = target("litert").candidates(material.model, "fp32", None, material.samples)
    session = target("litert").open_session(candidate.model, threads=1, optimised=True)
    planar = next(material.samples.tensors())
    interleaved = np.ascontiguousarray(planar.transpose(0, 2, 3, 1))
    assert np.array_equal(session.run([planar])[0], session.run([interleaved])[0])


def _print_and_die() -> None:
    os.write(1, b"chatter of a tool")
    os._exit(3)


def _print_and_refuse() -> None:
    os.write(1, b"chatter of a tool")
    raise UnsupportedModel("no")


def test_a_tool_that_dies_in_its_process_is_an_error_here(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WorkerDied, match="print_and_die"):
        alone(_print_and_die)
    with pytest.raises(FleetError, match="no"):
        alone(_print_and_refuse)
    assert "chatter" not in capfd.readouterr().out


@pytest.fixture(autouse=True)
def no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Converters work in temporary directories; whatever happens, nothing stays."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    assert list(tmp_path.iterdir()) == []
