"""From a model's outputs to the answer for one frame, by the task that the manifest declares (SPEC 3.8). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge_agent.worker.wire import NOTHING, Box, Inferred
from fleet_protocol import detect, segment
from fleet_protocol.classify import classify
from fleet_protocol.embed import embed, judge
from fleet_protocol.manifest import Manifest
from fleet_protocol.tasks import Anomaly, Classification, Detection, Segmentation

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read(outputs: Sequence[NDArray[Any]], manifest: Manifest, width: int, height: int) -> Inferred:
    """The answer for a frame of ``width`` by ``height`` pixels."""
    task = manifest.postprocessing
    if isinstance(task, Classification):
        return Inferred(*classify(outputs[0], task))
    if isinstance(task, Detection):
        return _boxes(outputs, task, manifest, width, height)
    if isinstance(task, Segmentation):
        shares = segment.shares(segment.segment(outputs, task), len(task.labels))
        return Inferred(int(shares.argmax()), float(shares.max()), values=tuple(shares.tolist()))
    if isinstance(task, Anomaly):
        return Inferred(*judge(outputs, task))
    return Inferred(0, 1.0, values=tuple(embed(outputs, task).tolist()))


def _boxes(outputs: Sequence[NDArray[Any]], task: Detection, manifest: Manifest, width: int, height: int) -> Inferred:
    wanted = manifest.preprocessing
    found = detect.detect(outputs, task, (wanted.width, wanted.height))
    placed = detect.in_frame(found, wanted, width, height)
    rows = zip(placed.classes.tolist(), placed.scores.tolist(), placed.corners.tolist(), strict=True)
    boxes = tuple(Box(index, score, *corners) for index, score, corners in rows)
    return Inferred(boxes[0].index, boxes[0].score, boxes) if boxes else Inferred(NOTHING, 0.0)
