"""Metrics of segmenters. Answers and truths are the class of every pixel of the model's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.manifest import Preprocessing
from fleet_protocol.segment import segment
from fleet_protocol.tasks import Segmentation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint16]

UNLABELLED: Final = 65_535
"""Pixels of a truth with this class count for nothing."""


class MeanIou:
    """Intersection over union of each class over all images, averaged over the classes that occur."""

    name = "mIoU"

    def __init__(self, task: Segmentation, _: Preprocessing) -> None:
        self._task = task

    def read(self, outputs: Sequence[NDArray[Any]]) -> Pixels:
        import numpy as np

        return segment(outputs, self._task).astype(np.uint16)

    def truth_of(self, answer: Pixels) -> Pixels:
        return answer

    def score(self, answers: Sequence[Pixels], truths: Sequence[Pixels]) -> float:
        return _mean_iou(sum(self._confusion(answer, truth) for answer, truth in zip(answers, truths, strict=True)))

    def credits(self, answers: Sequence[Pixels], truths: Sequence[Pixels]) -> NDArray[np.float64]:
        """Per image the mean over its classes."""
        import numpy as np

        confusions = (self._confusion(answer, truth) for answer, truth in zip(answers, truths, strict=True))
        return np.array([_mean_iou(each) for each in confusions])

    def groups(self, truths: Sequence[Pixels]) -> dict[str, NDArray[np.bool_]]:
        import numpy as np

        return {
            label: present
            for index, label in enumerate(self._task.labels)
            if (present := np.array([bool((truth == index).any()) for truth in truths])).any()
        }

    def _confusion(self, answer: Pixels, truth: Pixels) -> NDArray[np.int64]:
        from sklearn.metrics import confusion_matrix

        counted = truth != UNLABELLED
        labels = range(len(self._task.labels))
        found: NDArray[np.int64] = confusion_matrix(truth[counted], answer[counted], labels=list(labels))
        return found


def _mean_iou(confusion: Any) -> float:
    """Rows are truths, columns answers; 1.0 where nothing is counted."""
    import numpy as np

    shared = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - shared
    return float((shared[union > 0] / union[union > 0]).mean()) if (union > 0).any() else 1.0
