"""Metrics of detectors, computed by pycocotools. Answers and truths are boxes as shares of the model's input."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fleet_protocol.detect import Boxes, detect, iou
from fleet_protocol.manifest import Preprocessing
from fleet_protocol.tasks import Detection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LOWEST_SCORE: Final = 0.05
"""Average precision needs the weak boxes too: it looks at every threshold above this one."""
_MATCH: Final = 0.5
_SCALE: Final = 1000.0
"""pycocotools works in pixels and sorts boxes by areas in them; shares become pixels of a picture this wide."""


class Map50:
    """Mean over classes of the average precision at an overlap of one half."""

    name = "mAP50"
    _overlaps: tuple[float, ...] = (0.5,)

    def __init__(self, task: Detection, wanted: Preprocessing) -> None:
        self._task, self._size = task, (wanted.width, wanted.height)
        self._sensitive = msgspec.structs.replace(task, score_threshold=min(task.score_threshold, _LOWEST_SCORE))

    def read(self, outputs: Sequence[NDArray[Any]]) -> Boxes:
        return detect(outputs, self._sensitive, self._size)

    def truth_of(self, answer: Boxes) -> Boxes:
        return _above(answer, self._task.score_threshold)

    def score(self, answers: Sequence[Boxes], truths: Sequence[Boxes]) -> float:
        if not any(len(truth) for truth in truths):
            return 1.0 if not any(len(_above(each, self._task.score_threshold)) for each in answers) else 0.0
        return _average_precision(answers, truths, len(self._task.labels), self._overlaps)

    def credits(self, answers: Sequence[Boxes], truths: Sequence[Boxes]) -> NDArray[np.float64]:
        """Per image the F1 score of the boxes above the task's own threshold."""
        import numpy as np

        shown = [_above(answer, self._task.score_threshold) for answer in answers]
        return np.array([_f1(answer, truth) for answer, truth in zip(shown, truths, strict=True)])

    def distance(self, expected: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> float:
        """How far the boxes of two frames' outputs are apart, in squared scores: most of a detector's outputs belong to no box."""
        return _apart(self.read(expected), self.read(got))

    def groups(self, truths: Sequence[Boxes]) -> dict[str, NDArray[np.bool_]]:
        import numpy as np

        present = np.array([np.isin(np.arange(len(self._task.labels)), truth.classes) for truth in truths])
        return {self._task.labels[index]: present[:, index] for index in np.flatnonzero(present.any(0))}


class Map50To95(Map50):
    """COCO's own measure: the mean over ten overlaps from one half to .95."""

    name = "mAP50-95"
    _overlaps = tuple(0.5 + 0.05 * step for step in range(10))


def matched(answer: Boxes, truth: Boxes) -> int:
    """How many boxes of ``truth`` a box of ``answer`` of the same class covers by at least one half, each used once."""
    import numpy as np

    free = np.ones(len(truth), bool)
    for corners, kind in zip(answer.corners, answer.classes, strict=True):
        overlaps = np.where(
            free & (truth.classes == kind), iou(corners.astype(np.float64), truth.corners.astype(np.float64)), 0.0
        )
        if len(overlaps) and overlaps.max() >= _MATCH:
            free[overlaps.argmax()] = False
    return int((~free).sum())


def _apart(one: Boxes, other: Boxes) -> float:
    """Of each pair of boxes the difference of the scores and the score that lies outside the other; all of an unpaired one's."""
    import numpy as np

    free, total = np.ones(len(other), bool), 0.0
    for corners, score, kind in zip(one.corners, one.scores, one.classes, strict=True):
        overlaps = iou(corners.astype(np.float64), other.corners.astype(np.float64)) * (free & (other.classes == kind))
        nearest = int(overlaps.argmax()) if len(overlaps) and overlaps.max() > 0 else None
        if nearest is None:
            total += float(score) ** 2
            continue
        free[nearest] = False
        total += float(score - other.scores[nearest]) ** 2 + (float(score) * (1.0 - float(overlaps[nearest]))) ** 2
    return total + float((other.scores[free] ** 2).sum())


def _f1(answer: Boxes, truth: Boxes) -> float:
    boxes = len(answer) + len(truth)
    return 2.0 * matched(answer, truth) / boxes if boxes else 1.0


def _above(boxes: Boxes, threshold: float) -> Boxes:
    kept = boxes.scores >= threshold
    return Boxes(boxes.corners[kept], boxes.scores[kept], boxes.classes[kept])


def _average_precision(
    answers: Sequence[Boxes], truths: Sequence[Boxes], classes: int, overlaps: tuple[float, ...]
) -> float:
    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # the library reports to stdout, which is ours for results
        wanted = COCO()
        wanted.dataset = {
            "images": [{"id": number} for number in range(len(truths))],
            "categories": [{"id": number} for number in range(classes)],
            "annotations": [
                {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
                for number, row in enumerate(_rows(truths), start=1)
            ],
        }
        wanted.createIndex()
        judge = COCOeval(wanted, wanted.loadRes([*_rows(answers)] or _nothing()), "bbox")
        judge.params.iouThrs = np.array(overlaps)
        judge.evaluate()
        judge.accumulate()
    # overlaps x recalls x classes x areas x limits; the first area is "all", the last limit the largest. -1: no truth.
    precision = judge.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def _rows(frames: Sequence[Boxes]) -> list[dict[str, Any]]:
    return [
        {"image_id": number, "category_id": int(kind), "score": float(score), "bbox": _bbox(corners)}
        for number, boxes in enumerate(frames)
        for corners, score, kind in zip(boxes.corners, boxes.scores, boxes.classes, strict=True)
    ]


def _nothing() -> list[dict[str, Any]]:
    """The library cannot take an empty list of answers; one of no size and no score matches nothing."""
    return [{"image_id": 0, "category_id": 0, "score": 0.0, "bbox": [0.0, 0.0, 0.0, 0.0]}]


def _bbox(corners: NDArray[np.float32]) -> list[float]:
    left, top, right, bottom = (_SCALE * float(value) for value in corners)
    return [left, top, right - left, bottom - top]
