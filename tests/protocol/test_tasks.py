"""What outputs mean, task by task: compiler and device read them with the same functions (SPEC 3.8)."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fleet_protocol import detect, embed, segment, tasks
from fleet_protocol import manifest as manifests
from fleet_protocol.errors import MalformedManifest
from fleet_protocol.manifest import Baked, Preprocessing, TensorSpec
from fleet_protocol.tasks import Anomaly, Classification, Detection, Embedding, Segmentation
from tests.protocol import samples

SQUARE = Preprocessing(
    width=100, height=100, color="bgr", layout="nchw", resize="letterbox", interpolation="bilinear", scale=1.0,
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
)  # fmt: skip
LABELS = ("cat", "dog")


def detector(decoder: str, **changes: object) -> Detection:
    return msgspec.structs.replace(Detection(labels=LABELS, decoder=decoder), **changes)  # type: ignore[arg-type]


def yolov8(*rows: tuple[float, ...]) -> list[NDArray[np.float32]]:
    return [np.array(rows, np.float32).T[None]]


def test_a_list_of_centres_and_sizes_becomes_corners_best_first() -> None:
    found = detect.detect(
        yolov8((50, 50, 20, 40, 0.1, 0.6), (20, 20, 10, 10, 0.9, 0.2)), detector("yolov8"), (100, 100)
    )
    assert found.classes.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert found.corners.tolist() == [pytest.approx([0.15, 0.15, 0.25, 0.25]), pytest.approx([0.4, 0.3, 0.6, 0.7])]


def test_objectness_multiplies_the_scores_of_a_list_with_objectness() -> None:
    rows = [np.array([[[50, 50, 20, 20, 0.5, 0.9, 0.1], [50, 50, 20, 20, 0.9, 0.1, 0.8]]], np.float32)]
    found = detect.detect(rows, detector("yolov5"), (100, 100))
    assert found.classes.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx([0.72, 0.45])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_grid_places_boxes_by_their_cell(layout: str) -> None:
    grid = np.full((1, 7, 4, 4), -20.0, np.float32)
    grid[0, 0] = 0.0
    grid[0, :, 1, 2] = [0.9, 0.0, 0.0, 0.0, np.log(0.25 / 0.75), 0.05, 0.8]
    given_ = [grid if layout == "nchw" else grid.transpose(0, 2, 3, 1)]
    found = detect.detect(given_, detector("fastestdet", layout=layout), (100, 100))
    assert found.classes.tolist() == [1]
    assert found.scores[0] == pytest.approx(0.9**0.6 * 0.8**0.4)
    assert found.corners[0].tolist() == pytest.approx([0.25, 0.125, 0.75, 0.375])


def test_decoded_boxes_are_taken_as_they_are_and_scores_activated() -> None:
    outputs = [np.array([[[0.1, 0.2, 0.3, 1.4]]], np.float32), np.array([[[0.0, 2.0]]], np.float32)]
    found = detect.detect(outputs, detector("boxes", activation="sigmoid"), (100, 100))
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert found.corners[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 1.0])


def test_only_overlapping_boxes_of_the_same_class_are_suppressed() -> None:
    found = detect.detect(
        yolov8((50, 50, 20, 20, 0.9, 0.0), (51, 50, 20, 20, 0.8, 0.0), (51, 50, 20, 20, 0.0, 0.7), (90, 90, 9, 9, 0.6, 0)),
        detector("yolov8"), (100, 100),
    )  # fmt: skip
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert len(detect.detect(yolov8(*[(9.0 * i, 5, 2, 2, 0.9, 0) for i in range(9)]),
                             detector("yolov8", max_boxes=3), (100, 100))) == 3  # fmt: skip


def test_values_that_are_no_numbers_are_no_boxes() -> None:
    found = detect.detect(
        yolov8((np.nan, 5, 2, 2, 0.9, 0), (5, 5, np.inf, 2, 0.9, 0), (5, 5, 2, 2, np.nan, np.nan), (5, 5, 2, 2, 0.5, 0)),
        detector("yolov8"), (100, 100),
    )  # fmt: skip
    assert len(found) == 1


@given(
    st.lists(
        st.tuples(*[st.floats(-50, 150, width=32)] * 4, *[st.floats(-2, 2, width=32)] * 2), min_size=1, max_size=30
    )
)
def test_what_is_left_is_in_order_inside_and_apart(rows: list[tuple[float, ...]]) -> None:
    wanted = detector("yolov8", max_boxes=8)
    found = detect.detect(yolov8(*rows), wanted, (100, 100))
    assert len(found) <= 8
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores >= wanted.score_threshold - 1e-6).all()
    assert ((found.corners >= 0) & (found.corners <= 1)).all()
    for place, box in enumerate(found.corners):
        same = found.classes[place + 1 :] == found.classes[place]
        assert (detect.iou(box, found.corners[place + 1 :][same]) <= wanted.iou_threshold + 1e-5).all()


def test_a_broken_model_that_answers_everywhere_stays_affordable() -> None:
    rows = np.random.default_rng(1).random((1, 6, 20_000)).astype(np.float32)
    assert len(detect.detect([rows * 100], detector("yolov8"), (100, 100))) <= 100


def test_boxes_are_given_in_the_frame_with_the_bars_taken_off() -> None:
    boxes = detect.Boxes(np.array([[0.5, 0.5, 1.0, 0.75]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    wide = detect.in_frame(boxes, SQUARE, 400, 200)  # 100 x 50 inside, bars of 25 above and below
    assert wide.corners[0].tolist() == pytest.approx([200, 100, 400, 200])
    stretched = detect.in_frame(boxes, msgspec.structs.replace(SQUARE, resize="stretch"), 400, 200)
    assert stretched.corners[0].tolist() == pytest.approx([200, 100, 400, 150])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_pixel_gets_its_best_class(layout: str) -> None:
    scores = np.zeros((1, 2, 2, 3), np.float32)
    scores[0, 1, 0, :] = 1.0
    task = Segmentation(labels=LABELS, layout=layout)  # type: ignore[arg-type]
    classes = segment.segment([scores if layout == "nchw" else scores.transpose(0, 2, 3, 1)], task)
    assert classes.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert segment.shares(classes, 3).tolist() == [0.5, 0.5, 0.0]


def test_classes_are_given_for_the_pixels_of_the_frame() -> None:
    classes = np.arange(100, dtype=np.int32).reshape(10, 10)
    frame = segment.in_frame(classes, SQUARE, 400, 200)
    assert frame.shape == (200, 400)
    assert (frame[0, 0], frame[199, 399]) == (classes[2, 0], classes[7, 9])
    whole = segment.in_frame(classes, msgspec.structs.replace(SQUARE, resize="stretch"), 20, 20)
    assert whole.tolist() == np.kron(classes, np.ones((2, 2), np.int32)).tolist()


def test_a_vector_has_length_one_and_likeness_is_the_angle() -> None:
    task = Embedding(labels=("face",))
    vector = embed.embed([np.array([[[3.0], [4.0]]], np.float32)], task)
    assert vector.tolist() == pytest.approx([0.6, 0.8])
    assert embed.embed([np.zeros((1, 2), np.float32)], task).tolist() == [0.0, 0.0]
    assert embed.similarity(vector, vector * 7) == pytest.approx(1.0)
    assert embed.similarity(vector, np.zeros(2)) == 0.0


def test_the_largest_value_above_the_threshold_is_an_anomaly() -> None:
    task = Anomaly(labels=("fine", "odd"), threshold=0.5)
    assert embed.judge([np.array([[0.1, 0.5]], np.float32)], task) == (0, 0.5)
    assert embed.judge([np.array([[0.1, 0.75]], np.float32)], task) == (1, 0.75)


@pytest.mark.parametrize(
    ("task", "shapes"),
    [
        (Classification(labels=LABELS, activation="none"), ((1, 3),)),
        (Classification(labels=("cat", "cat"), activation="none"), ((1, 2),)),
        (Classification(labels=(), activation="none"), ((1, 0),)),
        (detector("yolov8"), ((1, 7, 10),)),
        (detector("yolov8"), ((2, 6, 10),)),
        (detector("yolov5"), ((1, 10, 6),)),
        (detector("fastestdet"), ((1, 22, 22, 7),)),
        (detector("fastestdet", layout="nhwc"), ((1, 7, 22, 22),)),
        (detector("boxes"), ((1, 10, 4),)),
        (detector("boxes"), ((1, 10, 4), (1, 9, 2))),
        (detector("yolov8", score_threshold=1.5), ((1, 6, 10),)),
        (detector("yolov8", max_boxes=0), ((1, 6, 10),)),
        (Segmentation(labels=LABELS), ((1, 4, 4, 2),)),
        (Segmentation(labels=LABELS, layout="nhwc"), ((1, 2, 4, 4),)),
        (Anomaly(labels=("a", "b"), threshold=float("nan")), ((1, 1),)),
    ],
)
def test_outputs_that_cannot_be_read_as_the_task_are_objected_to(
    task: tasks.Postprocessing, shapes: tuple[tuple[int, ...], ...]
) -> None:
    assert tasks.objection(task, shapes)


def test_a_manifest_keeps_its_task_and_refuses_keys_of_another() -> None:
    outputs = (TensorSpec(name="boxes", dtype="float32", shape=(1, 6, 1)),)
    golden = manifests.payload_of([("model", b"m"), ("golden", bytes(2 * (3 * 16 + 6) * 4))])[0]
    made = samples.manifest(payload=golden, outputs=outputs, postprocessing=detector("yolov8"))
    assert manifests.parse(made.encode()) == made
    raw = json.loads(made.encode())
    raw["postprocessing"]["threshold"] = 0.5
    with pytest.raises(MalformedManifest, match="threshold"):
        manifests.parse(json.dumps(raw).encode())


def test_a_baked_manifest_takes_the_frame_itself() -> None:
    baked = msgspec.structs.replace(samples.manifest().preprocessing, baked=Baked(width=8, height=6))
    payload = manifests.payload_of([("model", b"m"), ("weights", b"w"), ("golden", bytes(2 * (8 * 6 * 3 + 2 * 4)))])[0]
    taken = (TensorSpec(name="frame", dtype="uint8", shape=(1, 6, 8, 3)),)
    made = samples.manifest(preprocessing=baked, payload=payload, inputs=taken)
    assert manifests.parse(made.encode()) == made
    with pytest.raises(MalformedManifest, match="pre-processing makes uint8"):
        manifests.parse(samples.manifest(preprocessing=baked).encode())
