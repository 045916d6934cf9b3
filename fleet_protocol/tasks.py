"""What a model is for: how its outputs are to be read, declared once and read alike by compiler and device (SPEC 3.8).

Pure descriptions. The readings are :mod:`classify`, :mod:`detect`, :mod:`segment` and :mod:`embed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

import msgspec

Activation = Literal["none", "softmax", "sigmoid"]
Shape = tuple[int, ...]


class _Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="task"):
    """Tasks are told apart by the key ``task``."""


class Classification(_Task, frozen=True, tag="classification"):
    """One score per label in the first output. ``activation`` says what has still to be applied to the scores."""

    labels: tuple[str, ...]
    activation: Activation


class Detection(_Task, frozen=True, tag="detection"):
    """Boxes. ``decoder`` names how the outputs hold them, ``activation`` what has still to be applied to the scores:

    ``fastestdet``  one grid (1, 5 + labels, H, W): objectness, offsets by tanh, sides by sigmoid, class scores
    ``yolov5``      one list (1, N, 5 + labels): centre and size in pixels of the input, objectness, class scores
    ``yolov8``      one list (1, 4 + labels, N): centre and size in pixels of the input, class scores
    ``boxes``       two lists: corners (1, N, 4) as shares of the input, scores (1, N, labels)

    Boxes below ``score_threshold`` are dropped, then those that overlap a better one of their class by more than
    ``iou_threshold``; at most ``max_boxes`` are left. ``layout`` concerns the grid: where its channels are.
    """

    labels: tuple[str, ...]
    decoder: Literal["fastestdet", "yolov5", "yolov8", "boxes"]
    activation: Literal["none", "sigmoid"] = "none"
    layout: Literal["nchw", "nhwc"] = "nchw"
    score_threshold: float = 0.3
    iou_threshold: float = 0.45
    max_boxes: int = 100


class Segmentation(_Task, frozen=True, tag="segmentation"):
    """A class for every pixel: one score per label and pixel, (1, labels, H, W) or, as ``nhwc``, (1, H, W, labels)."""

    labels: tuple[str, ...]
    layout: Literal["nchw", "nhwc"] = "nchw"


class Anomaly(_Task, frozen=True, tag="anomaly"):
    """The largest value of the first output is the frame's score; above ``threshold`` it is the second label's."""

    labels: tuple[str, str]
    threshold: float


class Embedding(_Task, frozen=True, tag="embedding"):
    """The first output is a vector; ``is_normalised``: it is to be brought to length 1. The one label names it."""

    labels: tuple[str]
    is_normalised: bool = True


Postprocessing = Classification | Detection | Segmentation | Anomaly | Embedding
MAX_BOXES: Final = 1000


def objection(task: Postprocessing, outputs: tuple[Shape, ...]) -> str:
    """Why a model with outputs of these shapes cannot be read as ``task``, as a sentence; empty where it can."""
    if not task.labels or len(set(task.labels)) != len(task.labels):
        return "a task names at least one label, each once"
    if isinstance(task, Detection):
        return _settings(task) or _decoded(task, outputs)
    if isinstance(task, Segmentation):
        return _segmented(task, outputs[0])
    if isinstance(task, Anomaly):
        return "" if math.isfinite(task.threshold) else "the threshold of an anomaly is a number"
    if isinstance(task, Classification) and math.prod(outputs[0]) != len(task.labels):
        return f"{len(task.labels)} labels need as many scores, the first output has the shape {list(outputs[0])}"
    return ""


def _settings(task: Detection) -> str:
    if not (0 <= task.score_threshold <= 1 and 0 <= task.iou_threshold <= 1 and 0 < task.max_boxes <= MAX_BOXES):
        return f"score_threshold and iou_threshold are shares of 1, max_boxes is 1 to {MAX_BOXES}"
    return ""


def _decoded(task: Detection, outputs: tuple[Shape, ...]) -> str:
    count = len(task.labels)
    grid = 1 if task.layout == "nchw" else 3
    fits: dict[str, Callable[[Shape], bool]] = {
        "fastestdet": lambda shape: len(shape) == 4 and shape[grid] == 5 + count,
        "yolov5": lambda shape: len(shape) == 3 and shape[2] == 5 + count,
        "yolov8": lambda shape: len(shape) == 3 and shape[1] == 4 + count,
        "boxes": lambda shape: len(shape) == 3 and shape[2] == 4,
    }
    found = f"the outputs have the shapes {[list(shape) for shape in outputs]}"
    if not fits[task.decoder](outputs[0]) or outputs[0][0] != 1:
        return f"the decoder {task.decoder} for {count} labels cannot read them: {found}"
    if task.decoder == "boxes" and (len(outputs) < 2 or outputs[1] != (1, outputs[0][1], count)):
        return f"the decoder boxes needs scores (1, {outputs[0][1]}, {count}) as the second output: {found}"
    return ""


def _segmented(task: Segmentation, shape: Shape) -> str:
    channels = 1 if task.layout == "nchw" else 3
    if len(shape) != 4 or shape[0] != 1 or shape[channels] != len(task.labels):
        return f"{len(task.labels)} labels in {task.layout} need as many channels, the first output has the shape {list(shape)}"
    return ""
