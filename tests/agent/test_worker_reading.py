"""A worker's answer for each task that a manifest may declare, and what the agent makes of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_agent.inference.results import Result, ResultLog
from edge_agent.inference.tally import Tally
from edge_agent.worker.reading import read
from edge_agent.worker.wire import NOTHING, Box
from fleet_protocol.manifest import Manifest
from fleet_protocol.tasks import Anomaly, Detection, Embedding, Postprocessing, Segmentation
from tests.protocol import samples

LABELS = ("cat", "dog")


def manifest(task: Postprocessing) -> Manifest:
    made = samples.manifest(postprocessing=task)
    return msgspec.structs.replace(
        made, preprocessing=msgspec.structs.replace(made.preprocessing, width=100, height=100, resize="letterbox")
    )


def test_a_detectors_boxes_are_in_pixels_of_the_frame_best_first() -> None:
    rows = np.array([[[50, 50, 20, 20, 0.2, 0.8], [25, 50, 10, 10, 0.9, 0.1]]], np.float32).transpose(0, 2, 1)
    answer = read([rows], manifest(Detection(labels=LABELS, decoder="yolov8")), 400, 200)
    assert (answer.index, answer.confidence) == (0, pytest.approx(0.9))
    assert [each.index for each in answer.boxes] == [0, 1]
    box = answer.boxes[1]
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((160, 60, 240, 140))


def test_a_detector_that_sees_nothing_says_so() -> None:
    rows = np.zeros((1, 6, 3), np.float32)
    answer = read([rows], manifest(Detection(labels=LABELS, decoder="yolov8")), 400, 200)
    assert (answer.index, answer.confidence, answer.boxes) == (NOTHING, 0.0, ())


def test_a_segmenter_tells_the_share_of_every_label() -> None:
    scores = np.zeros((1, 2, 4, 4), np.float32)
    scores[0, 1, :3] = 1.0
    answer = read([scores], manifest(Segmentation(labels=LABELS)), 8, 8)
    assert (answer.index, answer.confidence, answer.values) == (1, 0.75, (0.25, 0.75))


def test_an_anomaly_and_a_vector_are_told_as_such() -> None:
    scores = np.array([[0.2, 0.9]], np.float32)
    strange = read([scores], manifest(Anomaly(labels=("fine", "odd"), threshold=0.5)), 8, 8)
    assert (strange.index, strange.confidence) == (1, pytest.approx(0.9))
    vector = read([np.array([[3.0, 4.0]], np.float32)], manifest(Embedding(labels=("face",))), 8, 8)
    assert (vector.index, vector.values) == (0, pytest.approx((0.6, 0.8)))


def test_frames_without_an_object_count_as_frames_of_no_class() -> None:
    tally = Tally()
    tally.count(2.0, 1)
    tally.count(2.0, NOTHING)
    assert (tally.frames, tally.predictions) == (2, [0, 1])


def test_boxes_are_written_with_the_result_and_left_out_where_there_are_none(tmp_path: Path) -> None:
    plain = Result(
        at=1.0, frame=1, source="camera", label="", index=NOTHING, confidence=0.0, latency_ms=1.0, model="m",
        version="1.0.0", manifest="0" * 64,
    )  # fmt: skip
    found = msgspec.structs.replace(plain, label="cat", index=0, boxes=(Box(0, 0.9, 1.0, 2.0, 3.0, 4.0),))
    log = ResultLog(tmp_path / "results.jsonl")
    log.append(plain)
    log.append(found)
    first, second = (tmp_path / "results.jsonl").read_bytes().splitlines()
    assert b"boxes" not in first
    assert msgspec.json.decode(second, type=Result) == found
