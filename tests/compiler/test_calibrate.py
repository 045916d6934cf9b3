"""Ranges from bounded memory are the ranges of the values themselves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol.imaging import preprocess
from model_compiler import images
from model_compiler.errors import MalformedModel
from model_compiler.onnx_session import OnnxSession
from model_compiler.stages import calibrate, normalise, quantize
from model_compiler.stages.calibrate import BINS, Ranges
from model_compiler.stages.normalise import FloatModel
from tests.compiler import networks
from tests.compiler.workshop import Workshop


@pytest.fixture(scope="module")
def model(pristine: Workshop) -> FloatModel:
    path = pristine.path / "model.onnx"
    return normalise.normalise(onnx.load(path), networks.PREPROCESSING, networks.TASK, path)


def ranges(pristine: Workshop, model: FloatModel, jobs: int) -> Ranges:
    names = quantize.activations(model)
    pictures = images.list_images(pristine.path / "calibration")
    return calibrate.calibrate(model, names, pictures, networks.PREPROCESSING, jobs, lambda _: None)


def test_min_max_of_the_input_and_the_scores_are_exact(pristine: Workshop, model: FloatModel) -> None:
    found = ranges(pristine, model, 1).clipped(1.0)
    pictures = images.list_images(pristine.path / "calibration")
    tensors = [preprocess(images.decode(each), networks.PREPROCESSING) for each in pictures]
    session = OnnxSession(model.content, optimised=False)
    scores = [session.run([tensor])[0] for tensor in tensors]
    assert found[model.input.name] == (np.min(tensors), np.max(tensors))
    assert found[model.outputs[0].name] == (np.min(scores), np.max(scores))


def test_percentiles_are_those_of_all_values_to_one_bin(pristine: Workshop, model: FloatModel) -> None:
    found = ranges(pristine, model, 1)
    pictures = images.list_images(pristine.path / "calibration")
    values = np.concatenate([preprocess(images.decode(each), networks.PREPROCESSING).ravel() for each in pictures])
    low, high = found.clipped(0.999)[model.input.name]
    width = float(values.max() - values.min()) / BINS
    assert low == pytest.approx(np.quantile(values, 0.001), abs=1.01 * width)
    assert high == pytest.approx(np.quantile(values, 0.999), abs=1.01 * width)


def test_the_number_of_threads_changes_nothing(pristine: Workshop, model: FloatModel) -> None:
    one, many = ranges(pristine, model, 1), ranges(pristine, model, 4)
    assert one.names == many.names
    for first, second in ((one.low, many.low), (one.high, many.high), (one.counts, many.counts)):
        np.testing.assert_array_equal(first, second)


def test_clipping_cuts_rare_values_off_both_ends() -> None:
    counts = np.full((1, BINS), 100, np.int64)
    counts[0, :10] = counts[0, -20:] = 1
    low, high = Ranges(("x",), np.array([-8.0]), np.array([BINS - 8.0]), counts).clipped(0.9999)["x"]
    assert (low, high) == (2.0, BINS - 28.0)  # both cut at 20 of 201,830 values: 10 bins of one below, 20 above


@given(st.dictionaries(st.integers(0, BINS - 1), st.integers(1, 10**9), min_size=1), st.floats(0.51, 1.0))
def test_clipping_keeps_the_promised_share_of_the_values(filled: dict[int, int], share: float) -> None:
    table = np.zeros((1, BINS), np.int64)
    table[0, list(filled)] = list(filled.values())
    low, high = Ranges(("x",), np.array([0.0]), np.array([float(BINS)]), table).clipped(share)["x"]
    assert 0.0 <= low <= high <= BINS
    outside = (1.0 - share) * table.sum() * (1 + 1e-9)
    assert table[0, : int(low)].sum() <= outside
    assert table[0, int(high) :].sum() <= outside


def test_an_activation_that_never_changes_has_a_range_too() -> None:
    counts = np.zeros((1, BINS), np.int64)
    counts[0, 0] = 500
    constant = Ranges(("x",), np.array([2.5]), np.array([2.5]), counts)
    assert constant.clipped(0.9999) == {"x": (2.5, 2.5)}


def test_a_model_that_overflows_on_real_images_is_refused(pristine: Workshop, model: FloatModel) -> None:
    hot = onnx.load_from_string(model.content)
    weight = next(each for each in hot.graph.initializer if len(each.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(weight.dims), 3e38, np.float32), weight.name))
    spoiled = FloatModel(hot.SerializeToString(), model.input, model.outputs)
    with pytest.raises(MalformedModel, match="NaN or infinity"):
        ranges(pristine, spoiled, 2)
