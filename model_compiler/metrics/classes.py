"""Metrics of classifiers. An answer is the best classes, best first; a truth is the index of the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.manifest import Preprocessing
from fleet_protocol.tasks import Classification

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KEPT: Final = 5
_ROUNDING: Final = 1e-2
"""How far the sum of quantized probabilities may be from 1."""
_LEAST: Final = 1e-6
_ERROR_SHARE: Final = 0.1


class _Ranked:
    """Reads the five best classes; of equal scores the lower index goes first, as everywhere (SPEC 3.8)."""

    def __init__(self, task: Classification, _: Preprocessing) -> None:
        self._labels = task.labels

    def read(self, outputs: Sequence[NDArray[Any]]) -> NDArray[np.int32]:
        import numpy as np

        scores = outputs[0].ravel()
        # Only the best few are sorted: a thousand classes would cost more than a small network.
        kept = np.flatnonzero(scores >= np.partition(scores, -min(_KEPT, len(scores)))[-min(_KEPT, len(scores))])
        return kept[np.argsort(-scores[kept], kind="stable")][:_KEPT].astype(np.int32)

    def truth_of(self, answer: NDArray[np.int32]) -> int:
        return int(answer[0])

    def distance(self, expected: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> float:
        """How much of its lead the best class loses, squared, all of it where another class wins; then the logits' error.

        Most images are far from a decision and their errors change nothing: a mean over them ranks schemes wrongly.
        """
        import numpy as np

        want, have = _logits(expected[0]), _logits(got[0])
        best = int(want.argmax())
        lead, kept = (each[best] - np.delete(each, best).max() for each in (want, have))
        lost = min(1.0, max(0.0, (lead - kept) / max(lead, 1e-9)))
        return float(lost**2 + _ERROR_SHARE * np.square(have - want).sum() / max(np.square(want).sum(), 1e-30))

    def groups(self, truths: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
        import numpy as np

        found = np.asarray(truths)
        return {self._labels[index]: found == index for index in np.unique(found)}


class Top1(_Ranked):
    """Share of images whose best class is the right one."""

    name = "top-1"
    _among = 1

    def credits(self, answers: Sequence[NDArray[np.int32]], truths: Sequence[int]) -> NDArray[np.float64]:
        import numpy as np

        return np.array([float(truth in answer[: self._among]) for answer, truth in zip(answers, truths, strict=True)])

    def score(self, answers: Sequence[NDArray[np.int32]], truths: Sequence[int]) -> float:
        return float(self.credits(answers, truths).mean())


class Top5(Top1):
    """Share of images whose right class is among the five best."""

    name = "top-5"
    _among = 5


class MacroRecall(Top1):
    """Share of right answers of each class, averaged over the classes: rare classes count as much as common ones."""

    name = "macro-recall"

    def score(self, answers: Sequence[NDArray[np.int32]], truths: Sequence[int]) -> float:
        from sklearn.metrics import balanced_accuracy_score

        return float(balanced_accuracy_score(list(truths), [int(answer[0]) for answer in answers]))


def _logits(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Scores around their mean; probabilities, which a softmax inside the model leaves, are brought back to logits."""
    import numpy as np

    flat = scores.ravel().astype(np.float64)
    if (flat >= 0).all() and abs(flat.sum() - 1.0) < _ROUNDING:
        flat = np.log(np.maximum(flat, _LEAST))
    centred: NDArray[np.float64] = flat - flat.mean()
    return centred
