"""What compiler and device share: pre-processing, golden frames, the reading of scores."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fleet_protocol import golden
from fleet_protocol.classify import classify
from fleet_protocol.errors import GoldenFramesDiffer, MalformedInput, MalformedManifest
from fleet_protocol.imaging import LETTERBOX_GRAY, letterbox_size, preprocess
from fleet_protocol.manifest import Golden, Preprocessing, TensorSpec
from fleet_protocol.tasks import Classification


def wanted(**changes: object) -> Preprocessing:
    gray = changes.get("color") == "gray"
    fields = {
        "width": 24, "height": 16, "color": "bgr", "layout": "nchw", "resize": "stretch", "interpolation": "bilinear",
        "scale": 1 / 255, "mean": (0.5,) if gray else (0.4, 0.5, 0.6), "std": (0.2,) if gray else (0.2, 0.3, 0.25),
    }  # fmt: skip
    return Preprocessing(**{**fields, **changes})  # type: ignore[arg-type]


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("color", "layout"), list(product(["rgb", "bgr", "gray"], ["nchw", "nhwc"])))
def test_preprocessing_is_the_formula_of_the_spec(color: str, layout: str) -> None:
    rules = wanted(color=color, layout=layout)
    frame = noise(33, 47)
    resized = cv2.resize(frame, (24, 16), interpolation=cv2.INTER_LINEAR)
    reordered = {
        "bgr": resized,
        "rgb": resized[:, :, ::-1],
        "gray": cv2.cvtColor(resized, cv2.COLOR_BGR2GRAY)[..., None],
    }
    expected = (reordered[color] * rules.scale - np.array(rules.mean)) / np.array(rules.std)
    tensor = preprocess(frame, rules)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_array_equal(
        tensor[0], (expected if layout == "nhwc" else expected.transpose(2, 0, 1)).astype(np.float32)
    )


def test_a_frame_of_the_right_size_is_not_resampled() -> None:
    frame = noise(16, 24)
    identity = wanted(scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    np.testing.assert_array_equal(preprocess(frame, identity)[0].transpose(1, 2, 0), frame)


@pytest.mark.parametrize(
    ("height", "width", "inside"), [(10, 30, (slice(4, 12), slice(0, 24))), (32, 16, (slice(0, 16), slice(8, 16)))]
)
def test_a_letterbox_keeps_the_aspect_centres_and_pads_with_gray(
    height: int, width: int, inside: tuple[slice, slice]
) -> None:
    rules = wanted(resize="letterbox", scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), layout="nhwc")
    picture = preprocess(np.full((height, width, 3), 200, np.uint8), rules)[0]
    mask = np.zeros((16, 24), bool)
    mask[inside] = True
    assert (picture[mask] == 200).all()
    assert (picture[~mask] == LETTERBOX_GRAY).all()


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_a_letterboxed_picture_fits_and_touches_two_edges(width: int, height: int) -> None:
    rules = wanted(resize="letterbox")
    inner = letterbox_size(width, height, rules)
    assert 1 <= inner[0] <= 24
    assert 1 <= inner[1] <= 16
    assert inner[0] == 24 or inner[1] == 16


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_8_bit_bgr_frame_is_refused(frame: NDArray[np.uint8]) -> None:
    with pytest.raises(MalformedInput, match="8-bit BGR"):
        preprocess(frame, wanted())


# --- golden frames ------------------------------------------------------------------------------------------------
INPUTS = (TensorSpec(name="x", dtype="float32", shape=(1, 2, 3)),)
OUTPUTS = (
    TensorSpec(name="scores", dtype="float32", shape=(1, 4)),
    TensorSpec(name="count", dtype="int64", shape=(1,)),
)


@dataclass
class Replayed:
    """Three frames of which the runtime gave exactly what was expected, until a test changes one."""

    frames: list[golden.Frame]
    got: list[list[NDArray[np.generic]]]

    def judge(
        self, *, atol: float = 0.1, max_outliers: float = 0.0, decisive: tuple[bool, ...] = (True, True, True)
    ) -> float:
        rules = Golden(
            frames=3, atol=atol, rtol=0.0, max_outliers=max_outliers, decisive=decisive, latency_budget_ms={}
        )
        return golden.compare(rules, OUTPUTS, [outputs for _, outputs in self.frames], self.got)


@pytest.fixture
def replayed() -> Replayed:
    random = np.random.default_rng(5)
    frames = [
        (
            [random.standard_normal((1, 2, 3)).astype(np.float32)],
            [np.array([[0.0, 1.0, 0.5, 0.1]], np.float32), np.array([number], np.int64)],
        )
        for number in range(3)
    ]
    return Replayed(frames, [[tensor.copy() for tensor in outputs] for _, outputs in frames])


def test_golden_frames_survive_packing(replayed: Replayed) -> None:
    content = golden.pack(replayed.frames)
    unpacked = golden.unpack(content, INPUTS, OUTPUTS, 3)
    for before, after in zip(replayed.frames, unpacked, strict=True):
        for left, right in zip((*before[0], *before[1]), (*after[0], *after[1]), strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype
            assert not right.flags.writeable


@pytest.mark.parametrize("wrong", [-1, 1])
def test_golden_frames_of_a_wrong_length_are_refused(replayed: Replayed, wrong: int) -> None:
    content = golden.pack(replayed.frames)
    with pytest.raises(MalformedManifest):
        golden.unpack(content[:wrong] if wrong < 0 else content + b"\0", INPUTS, OUTPUTS, 3)


def test_equal_outputs_agree(replayed: Replayed) -> None:
    assert replayed.judge(atol=0.0) == 0.0


def test_a_difference_within_tolerance_is_reported_and_accepted(replayed: Replayed) -> None:
    replayed.got[1][0][0, 3] += 0.09
    assert replayed.judge() == pytest.approx(0.09)


def test_a_difference_beyond_tolerance_is_refused(replayed: Replayed) -> None:
    replayed.got[1][0][0, 3] += 0.11
    with pytest.raises(GoldenFramesDiffer, match="out of tolerance"):
        replayed.judge()
    assert replayed.judge(max_outliers=1 / 15) == pytest.approx(0.11)


def test_a_changed_top1_is_refused_where_the_frame_is_decisive(replayed: Replayed) -> None:
    replayed.got[2][0][0, 2] += 0.6
    with pytest.raises(GoldenFramesDiffer, match="frame 2: class 1 is expected, this device says 2"):
        replayed.judge(atol=1.0)
    assert replayed.judge(atol=1.0, decisive=(True, True, False)) == pytest.approx(0.6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(replayed: Replayed, value: float) -> None:
    replayed.got[0][0][0, 0] = value
    with pytest.raises(GoldenFramesDiffer, match="not finite"):
        replayed.judge(atol=1e9, max_outliers=0.9, decisive=(False, False, False))


@pytest.mark.parametrize("spoil", ["missing frame", "missing output", "shape", "type"])
def test_outputs_of_another_shape_are_refused(replayed: Replayed, spoil: str) -> None:
    if spoil == "missing frame":
        replayed.got.pop()
    elif spoil == "missing output":
        replayed.got[0].pop()
    else:
        scores = replayed.got[0][0]
        replayed.got[0][0] = scores[:, :3] if spoil == "shape" else scores.astype(np.float64)
    with pytest.raises(GoldenFramesDiffer):
        replayed.judge()


# --- scores -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("activation", "confidence"),
    [("none", 2.0), ("softmax", np.exp(2) / np.exp([0.5, 2.0, -1.0]).sum()), ("sigmoid", 1 / (1 + np.exp(-2)))],
)
def test_scores_are_read_as_class_and_confidence(activation: str, confidence: float) -> None:
    rules = Classification(labels=("a", "b", "c"), activation=activation)  # type: ignore[arg-type]
    assert classify(np.array([[0.5, 2.0, -1.0]], np.float32), rules) == (1, pytest.approx(confidence))


def test_huge_scores_do_not_overflow() -> None:
    for activation in ("softmax", "sigmoid"):
        rules = Classification(labels=("a", "b"), activation=activation)  # type: ignore[arg-type]
        assert classify(np.array([[-3e38, 3e38]], np.float32), rules) == (1, pytest.approx(1.0))
