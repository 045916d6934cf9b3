"""From a detector's outputs to boxes: the one reading of them that compiler and device share (SPEC 3.8).

Pure, apart from importing numpy inside the functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.imaging import letterbox_size
from fleet_protocol.manifest import Preprocessing
from fleet_protocol.tasks import Detection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Raw = tuple["Floats", "Floats"]

MAX_CANDIDATES: Final = 4096
"""Boxes that non-maximum suppression looks at, best first: a broken model that answers everywhere stays affordable."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """``corners`` (N, 4): left, top, right, bottom; ``scores`` (N,) falling; ``classes`` (N,): indices of labels."""

    corners: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.scores)


def detect(outputs: Sequence[NDArray[Any]], wanted: Detection, input_size: tuple[int, int]) -> Boxes:
    """The boxes of one frame, as shares (0..1) of the model's input of ``input_size`` (width, height) pixels.

    Values that are not finite are no boxes. Of equal scores the one that the outputs hold first goes first.
    """
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        corners, scores = _DECODERS[wanted.decoder]([each.astype(np.float64) for each in outputs], wanted)
        if wanted.decoder in {"yolov5", "yolov8"}:
            corners = corners / np.array([*input_size, *input_size], np.float64)
        classes = scores.argmax(1)
        best = scores[np.arange(len(scores)), classes]
        usable = np.flatnonzero(np.isfinite(corners).all(1) & (best >= wanted.score_threshold))
    order = usable[np.argsort(-best[usable], kind="stable")][:MAX_CANDIDATES]
    corners = np.clip(corners[order], 0.0, 1.0)
    kept = suppress(corners, classes[order], wanted.iou_threshold, wanted.max_boxes)
    chosen = order[kept]
    return Boxes(corners[kept].astype(np.float32), best[chosen].astype(np.float32), classes[chosen].astype(np.int32))


def suppress(corners: Floats, classes: NDArray[Any], iou_threshold: float, limit: int) -> NDArray[Any]:
    """Indices that survive non-maximum suppression within each class, at most ``limit``; the boxes come best first."""
    import numpy as np

    kept: list[int] = []
    left = np.arange(len(corners))
    while len(left) and len(kept) < limit:
        first, rest = left[0], left[1:]
        kept.append(int(first))
        is_covered = (classes[rest] == classes[first]) & (iou(corners[first], corners[rest]) > iou_threshold)
        left = rest[~is_covered]
    return np.array(kept, np.int64)


def iou(one: NDArray[Any], others: NDArray[Any]) -> Floats:
    """Intersection over union of box ``one`` (4,) with each of ``others`` (N, 4); 0 for boxes without area."""
    import numpy as np

    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    shared = np.clip(high - low, 0.0, None).prod(1)
    areas = np.clip(others[:, 2:] - others[:, :2], 0.0, None).prod(1)
    union = float(np.clip(one[2:] - one[:2], 0.0, None).prod()) + areas - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def in_frame(boxes: Boxes, wanted: Preprocessing, width: int, height: int) -> Boxes:
    """The same boxes in pixels of the frame of ``width`` by ``height`` that the input was made from (SPEC 3.6)."""
    import numpy as np

    inner = letterbox_size(width, height, wanted) if wanted.resize == "letterbox" else (wanted.width, wanted.height)
    left, top = (wanted.width - inner[0]) // 2, (wanted.height - inner[1]) // 2
    shift = np.array([left, top, left, top], np.float64)
    scale = np.array([width / inner[0], height / inner[1]] * 2, np.float64)
    pixels = (boxes.corners * np.array([wanted.width, wanted.height] * 2, np.float64) - shift) * scale
    limited = np.clip(pixels, 0.0, np.array([width, height] * 2, np.float64))
    return Boxes(limited.astype(np.float32), boxes.scores, boxes.classes)


def _fastestdet(outputs: Sequence[Floats], wanted: Detection) -> Raw:
    import numpy as np

    grid = outputs[0][0] if wanted.layout == "nchw" else outputs[0][0].transpose(2, 0, 1)
    _, rows, columns = grid.shape
    y, x = np.mgrid[0:rows, 0:columns]
    centre = (x + np.tanh(grid[1])) / columns, (y + np.tanh(grid[2])) / rows
    boxes = np.stack([*centre, _sigmoid(grid[3]), _sigmoid(grid[4])], -1).reshape(-1, 4)
    objectness, scores = _activated(grid[0], wanted), _activated(grid[5:], wanted)
    # The published decoding weighs the two as powers; negative noise around 0 has no power.
    weighed = np.clip(objectness, 0.0, None) ** 0.6 * np.clip(scores, 0.0, None) ** 0.4
    return _corners(boxes), weighed.reshape(len(scores), -1).T


def _yolov5(outputs: Sequence[Floats], wanted: Detection) -> Raw:
    rows = outputs[0][0]
    return _corners(rows[:, :4]), _activated(rows[:, 4:5], wanted) * _activated(rows[:, 5:], wanted)


def _yolov8(outputs: Sequence[Floats], wanted: Detection) -> Raw:
    rows = outputs[0][0].T
    return _corners(rows[:, :4]), _activated(rows[:, 4:], wanted)


def _boxes(outputs: Sequence[Floats], wanted: Detection) -> Raw:
    return outputs[0][0], _activated(outputs[1][0], wanted)


_DECODERS: Final = {"fastestdet": _fastestdet, "yolov5": _yolov5, "yolov8": _yolov8, "boxes": _boxes}


def _corners(boxes: Floats) -> Floats:
    """From centre and size to corners."""
    import numpy as np

    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)


def _activated(scores: Floats, wanted: Detection) -> Floats:
    return _sigmoid(scores) if wanted.activation == "sigmoid" else scores


def _sigmoid(values: Floats) -> Floats:
    import numpy as np

    activated: Floats = 1.0 / (1.0 + np.exp(-np.clip(values, -700.0, 700.0)))
    return activated
