"""How answers are judged: each task's metric on answers whose worth is known, and the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fleet_protocol.detect import Boxes
from fleet_protocol.manifest import Preprocessing
from fleet_protocol.tasks import Anomaly, Classification, Detection, Embedding, Segmentation
from model_compiler import metrics
from model_compiler.errors import MalformedRecipe
from model_compiler.metrics.boxes import Map50, matched
from model_compiler.metrics.noise import decibel, relative_error

WANTED = Preprocessing(
    width=20, height=10, color="rgb", layout="nchw", resize="stretch", interpolation="area",
    scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3,
)  # fmt: skip
CLASSES = Classification(labels=("a", "b", "c", "d", "e", "f"), activation="none")
OBJECTS = Detection(labels=("cat", "dog"), decoder="boxes", score_threshold=0.5)


def scores(*values: float) -> list[NDArray[Any]]:
    return [np.array([values], np.float32)]


def boxes(*rows: tuple[int, float, tuple[float, float, float, float]]) -> Boxes:
    corners = np.array([row[2] for row in rows], np.float32).reshape(-1, 4)
    return Boxes(corners, np.array([row[1] for row in rows], np.float32), np.array([row[0] for row in rows], np.int32))


LEFT, RIGHT = (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)


def test_top1_and_top5_count_where_the_right_class_stands() -> None:
    read = metrics.metric_of(CLASSES, WANTED).read(scores(1, 6, 5, 4, 3, 2))
    assert read.tolist() == [1, 2, 3, 4, 5]
    for name, right in (("top-1", [1.0, 0.0, 0.0]), ("top-5", [1.0, 1.0, 0.0])):
        metric = metrics.metric_of(CLASSES, WANTED, name)
        assert metric.credits([read] * 3, [1, 5, 0]).tolist() == right
        assert metric.score([read] * 3, [1, 5, 0]) == pytest.approx(np.mean(right))


def test_of_equal_scores_the_lower_class_is_on_top_as_on_the_device() -> None:
    assert metrics.metric_of(CLASSES, WANTED).read(scores(0, 7, 7, 7, 7, 7))[0] == 1


def test_macro_recall_weighs_rare_classes_like_common_ones() -> None:
    metric = metrics.metric_of(CLASSES, WANTED, "macro-recall")
    answers = [metric.read(scores(1, 0, 0, 0, 0, 0))] * 10
    assert metric.score(answers, [0] * 9 + [1]) == pytest.approx(0.5)


def test_losing_the_lead_is_further_away_than_keeping_it() -> None:
    metric: Any = metrics.metric_of(CLASSES, WANTED)
    sure = scores(9, 1, 1, 1, 1, 1)
    near, flipped = scores(8, 1, 1, 1, 1, 1), scores(1, 9, 1, 1, 1, 1)
    assert metric.distance(sure, sure) == 0.0
    assert metric.distance(sure, near) < metric.distance(sure, flipped)


def test_probabilities_are_compared_as_the_logits_that_they_come_from() -> None:
    """0.9999 and 0.99 are a hundredth apart as probabilities, and a world apart as leads."""
    metric: Any = metrics.metric_of(Classification(labels=("a", "b"), activation="none"), WANTED)
    assert metric.distance(scores(0.9999, 0.0001), scores(0.99, 0.01)) > 0.2
    assert metric.distance(scores(0.6, 0.4), scores(0.61, 0.39)) < 0.01


def test_average_precision_of_the_truth_itself_is_one() -> None:
    truth = [boxes((0, 1.0, LEFT), (1, 1.0, RIGHT)), boxes((1, 1.0, LEFT))]
    for name in ("mAP50", "mAP50-95"):
        assert metrics.metric_of(OBJECTS, WANTED, name).score(truth, truth) == pytest.approx(1.0)


def test_average_precision_falls_with_a_missed_class_a_wrong_place_and_a_false_box_above() -> None:
    metric = metrics.metric_of(OBJECTS, WANTED)
    truth = [boxes((0, 1.0, LEFT), (1, 1.0, RIGHT))]
    assert metric.score([boxes((0, 0.9, LEFT))], truth) == pytest.approx(0.5)
    assert metric.score([boxes((0, 0.9, LEFT), (1, 0.9, LEFT))], truth) == pytest.approx(0.5)
    assert metric.score([boxes((0, 0.9, RIGHT), (0, 0.8, LEFT), (1, 0.7, RIGHT))], truth) == pytest.approx(0.75)
    assert metric.score([boxes()], truth) == 0.0


def test_a_looser_box_passes_at_one_half_and_not_at_all_overlaps() -> None:
    truth, loose = [boxes((0, 1.0, (0.0, 0.0, 0.5, 0.5)))], [boxes((0, 0.9, (0.0, 0.0, 0.5, 0.35)))]
    assert metrics.metric_of(OBJECTS, WANTED, "mAP50").score(loose, truth) == pytest.approx(1.0)
    assert 0.3 < metrics.metric_of(OBJECTS, WANTED, "mAP50-95").score(loose, truth) < 0.7


def test_images_without_boxes_are_right_only_without_answers() -> None:
    metric = metrics.metric_of(OBJECTS, WANTED)
    assert metric.score([boxes()], [boxes()]) == 1.0
    assert metric.score([boxes((0, 0.9, LEFT))], [boxes()]) == 0.0
    assert metric.credits([boxes(), boxes((0, 0.9, LEFT))], [boxes(), boxes()]).tolist() == [1.0, 0.0]


def test_weak_boxes_count_for_precision_and_are_not_shown() -> None:
    metric = Map50(OBJECTS, WANTED)
    outputs = [np.array([[LEFT, RIGHT]], np.float32), np.array([[[0.9, 0.0], [0.2, 0.0]]], np.float32)]
    read = metric.read(outputs)
    assert len(read) == 2
    assert len(metric.truth_of(read)) == 1


def test_a_box_covers_one_truth_of_its_class_only() -> None:
    assert matched(boxes((0, 0.9, LEFT), (0, 0.8, LEFT)), boxes((0, 1.0, LEFT))) == 1
    assert matched(boxes((1, 0.9, LEFT)), boxes((0, 1.0, LEFT))) == 0


def test_a_detector_is_further_away_the_more_a_box_moves_or_fades() -> None:
    metric = Map50(OBJECTS, WANTED)

    def outputs(score: float, right: float = 0.4) -> list[NDArray[Any]]:
        return [np.array([[(0.0, 0.0, right, 0.4)]], np.float32), np.array([[[score, 0.0]]], np.float32)]

    apart = [
        metric.distance(outputs(0.9), other) for other in (outputs(0.9), outputs(0.8), outputs(0.9, 0.3), outputs(0.0))
    ]
    assert apart[0] == 0.0
    assert apart == sorted(apart)


def test_mean_iou_is_over_classes_that_occur() -> None:
    metric = metrics.metric_of(Segmentation(labels=("sky", "road", "car")), WANTED)
    truth = np.array([[0, 0, 1, 1]], np.uint16)
    answer = np.array([[0, 1, 1, 1]], np.uint16)
    assert metric.score([truth], [truth]) == 1.0
    assert metric.score([answer], [truth]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metric.credits([truth, answer], [truth, truth]).tolist() == pytest.approx([1.0, (1 / 2 + 2 / 3) / 2])


def test_a_score_of_strangeness_is_judged_by_its_order() -> None:
    metric = metrics.metric_of(Anomaly(labels=("good", "bad"), threshold=0.5), WANTED)
    answers = [metric.read([np.array([value], np.float32)]) for value in (0.1, 0.6, 0.7, 0.9)]
    assert metric.score(answers, [0, 0, 1, 1]) == 1.0
    assert metric.score(answers, [0, 1, 0, 1]) == pytest.approx(0.75)
    assert metric.credits(answers, [0, 0, 1, 1]).tolist() == [1.0, 0.0, 1.0, 1.0]


def test_vectors_are_judged_by_the_angle() -> None:
    metric = metrics.metric_of(Embedding(labels=("face",)), WANTED)
    one, other = (metric.read([np.array([vector], np.float32)]) for vector in ((1, 0), (3, 4)))
    assert metric.score([one, other], [one, one]) == pytest.approx((1.0 + 0.6) / 2)


class Halved:
    """A user's own metric: half a point for every image."""

    name = "halved"

    def __init__(self, task: Any, wanted: Preprocessing) -> None:
        self.labels, self.width = task.labels, wanted.width

    def read(self, outputs: Any) -> int:
        return len(outputs)

    def truth_of(self, answer: int) -> int:
        return answer

    def score(self, answers: Any, truths: Any) -> float:
        return 0.5

    def credits(self, answers: Any, truths: Any) -> NDArray[np.float64]:
        return np.full(len(answers), 0.5)

    def groups(self, truths: Any) -> dict[str, NDArray[np.bool_]]:
        return {}


class Nothing:
    """No metric at all."""

    def __init__(self, task: Any, wanted: Preprocessing) -> None:
        """Takes what a metric takes."""


def test_a_users_own_metric_is_found_by_module_and_name() -> None:
    metric = metrics.metric_of(CLASSES, WANTED, f"{__name__}:Halved")
    assert (metric.name, metric.score([], [])) == ("halved", 0.5)


def test_a_users_own_metric_is_found_by_its_announced_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "ours-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{metrics.ENTRY_POINTS}]\nhalf-points = {__name__}:Halved\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert metrics.metric_of(CLASSES, WANTED, "half-points").name == "halved"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("top-2", "no metric is called 'top-2'; known are top-1, top-5, macro-recall"),
        ("absent_module:Metric", "cannot be imported"),
        (f"{__name__}:Absent", "cannot be imported"),
        (f"{__name__}:Nothing", "lacks name, read, truth_of, score, credits, groups"),
    ],
)
def test_a_metric_that_does_not_exist_or_is_none_is_refused(name: str, said: str) -> None:
    with pytest.raises(MalformedRecipe, match=said):
        metrics.metric_of(CLASSES, WANTED, name)


def test_noise_is_relative_and_never_hides_infinity() -> None:
    assert relative_error(scores(3.0, 4.0), scores(3.0, 4.5)) == pytest.approx(0.25 / 25)
    assert relative_error(scores(3.0, 4.0), scores(3.0, float("inf"))) == float("inf")
    assert decibel(0.01) == pytest.approx(20.0)
    assert decibel(0.0) == 200.0
