"""The search on a real network: what it asks of it, when it stops, what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fleet_protocol.errors import AccuracyRefused
from fleet_protocol.tasks import Classification
from model_compiler import images, metrics
from model_compiler.metrics.paired import compare
from model_compiler.progress import Event
from model_compiler.recipe import Gate
from model_compiler.samples import CalibrationSet
from model_compiler.search import contest
from model_compiler.search.bench import Bench
from model_compiler.search.journal import Journal
from model_compiler.search.layers import noise_by_layer
from model_compiler.stages import calibrate, normalise, quantize
from model_compiler.stages.evaluate import Answers
from model_compiler.stages.gate import Trial, check, choose
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.quantize import Candidate, Scheme
from tests.compiler import networks, pictures
from tests.compiler.workshop import Workshop

TASK = Classification(labels=pictures.SHAPES, activation="none")
SOME = Answers(np.zeros(1, np.int32), np.zeros(1, np.float32))


def silent(_: Event) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def model(pristine: Workshop) -> FloatModel:
    loaded = onnx.load(pristine.path / "model.onnx")
    return normalise.normalise(loaded, networks.PREPROCESSING, TASK, Path("model.onnx"))


@pytest.fixture(scope="module")
def samples(pristine: Workshop) -> CalibrationSet:
    return CalibrationSet(images.list_images(pristine.path / "calibration"), networks.PREPROCESSING)


@pytest.fixture(scope="module")
def ranges(model: FloatModel, samples: CalibrationSet) -> calibrate.Ranges:
    return calibrate.calibrate(model, quantize.activations(model), samples.pictures, networks.PREPROCESSING, 2, silent)


@pytest.fixture
def bench(model: FloatModel, ranges: calibrate.Ranges, samples: CalibrationSet) -> Bench:
    return Bench(model, ranges, samples, metrics.metric_of(TASK, networks.PREPROCESSING), Journal(), 2)


def search(model: FloatModel, bench: Bench, measure: Callable[[Candidate], Answers | None]) -> contest.Found:
    return contest.search(contest.landscape(model), bench, {}, measure, lambda _: False, silent)


def test_excluded_layers_compute_in_float_and_the_others_in_integers(model: FloatModel, bench: Bench) -> None:
    first = next(iter(quantize.layers(model)))
    for scheme, weights in ((Scheme(), 3), (Scheme(excluded=(first,)), 2)):
        graph = onnx.load_from_string(bench.build(scheme).model).graph
        assert (
            sum(each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1 for each in graph.initializer) == weights
        )


def test_all_layers_in_float_are_free_of_noise(model: FloatModel, bench: Bench) -> None:
    everything = tuple(node.name for node in onnx.load_from_string(model.content).graph.node)
    assert bench.noise(Scheme(excluded=everything)) < 1e-9 < bench.noise(Scheme())


def test_multiplications_are_counted_as_the_shapes_say(model: FloatModel) -> None:
    convolution, depthwise, head = quantize.layers(model).values()
    assert convolution == 32 * 32 * networks.CHANNELS * 3 * 9
    assert depthwise == 16 * 16 * networks.CHANNELS * 9
    assert head == networks.FEATURES * len(pictures.SHAPES)


def test_the_noise_does_not_depend_on_the_number_of_threads(
    model: FloatModel, ranges: calibrate.Ranges, samples: CalibrationSet
) -> None:
    metric = metrics.metric_of(TASK, networks.PREPROCESSING)
    one, many = (Bench(model, ranges, samples, metric, Journal(), jobs).noise(Scheme()) for jobs in (1, 4))
    assert one == many


def test_every_method_of_a_search_has_a_name_of_its_own(model: FloatModel, bench: Bench) -> None:
    seen: list[str] = []

    def measure(candidate: Candidate) -> Answers:
        seen.append(candidate.method)
        return SOME

    found = search(model, bench, measure)
    assert found.is_complete
    assert len(seen) == len(set(seen)) == len(found.tried) >= 3
    assert {effect.layer for effect in found.effects} == set(quantize.layers(model))


def test_ctrl_c_keeps_the_best_so_far(model: FloatModel, bench: Bench) -> None:
    def measure(candidate: Candidate) -> Answers:
        if measured:
            raise KeyboardInterrupt
        measured.append(candidate.method)
        return SOME

    measured: list[str] = []
    found = search(model, bench, measure)
    assert list(found.tried) == measured
    assert not found.is_complete


def test_ctrl_c_before_there_is_anything_ends_the_compilation(model: FloatModel, bench: Bench) -> None:
    def measure(_: Candidate) -> Answers:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(model, bench, measure)


def test_what_was_measured_before_is_not_measured_again(
    model: FloatModel, ranges: calibrate.Ranges, samples: CalibrationSet, tmp_path: Path
) -> None:
    metric = metrics.metric_of(TASK, networks.PREPROCESSING)
    path = tmp_path / "search.jsonl"
    Journal(path).keep(Scheme("p99.9"), 0.125)
    assert Bench(model, ranges, samples, metric, Journal(path), 1).noise(Scheme("p99.9")) == 0.125


def test_least_error_clips_where_the_histogram_says_that_it_pays() -> None:
    """A million values in the middle and one far out: cutting the far one off costs least."""
    counts = np.zeros((2, calibrate.BINS), np.int64)
    counts[:, : calibrate.BINS // 8] = 4000
    counts[0, -1] = 1
    counts[1, :] = 4000
    found = calibrate.Ranges(("far", "even"), np.zeros(2), np.array([8.0, 8.0]), counts).least_error((1.0, 0.9999))
    assert found["far"][1] < 1.1
    assert found["even"][1] == pytest.approx(8.0, abs=0.01)


def test_noise_gathers_from_layer_to_layer(model: FloatModel, bench: Bench, samples: CalibrationSet) -> None:
    found = noise_by_layer(model, bench.build(Scheme()).model, samples)
    assert set(found) == set(quantize.layers(model))
    assert all(15 < each < 80 for each in found.values()), found
    everything = tuple(node.name for node in onnx.load_from_string(model.content).graph.node)
    silent_layers = noise_by_layer(model, bench.build(Scheme(excluded=everything)).model, samples)
    assert all(each > 100 for each in silent_layers.values()), silent_layers


def test_a_collapsed_class_is_refused_by_name() -> None:
    def trial(method: str, accuracy: float, collapsed: tuple[str, ...]) -> Trial:
        found = compare(np.ones(4), np.ones(4), 0.0)
        return Trial("ort-int8", method, accuracy, 1.0, found, 0.0, collapsed)

    broken, whole = trial("a", 0.99, ("bicycle",)), trial("b", 0.97, ())
    assert choose([broken, whole], Gate(max_drop=0.05)).method == "b"
    with pytest.raises(AccuracyRefused, match="gives up bicycle"):
        check([broken], 0.99, Gate(max_drop=0.05), 100)


@pytest.mark.parametrize(("confidence", "is_refused"), [(0.5, False), (0.95, True)])
def test_a_gate_may_ask_for_proof(confidence: float, is_refused: bool) -> None:
    variant = np.ones(100)
    variant[0] = 0.0
    seen: Any = Trial("ort-int8", "a", 0.99, 0.99, compare(np.ones(100), variant, 0.01))
    gate = Gate(max_drop=0.015, confidence=confidence)
    if is_refused:
        with pytest.raises(AccuracyRefused, match="prove only"):
            check([seen], 1.0, gate, 100)
    else:
        check([seen], 1.0, gate, 100)
