"""Metrics of models that give a vector or a score of strangeness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fleet_protocol.embed import embed, judge, similarity
from fleet_protocol.manifest import Preprocessing
from fleet_protocol.tasks import Anomaly, Embedding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Cosine:
    """Mean similarity of each vector with the true one; without truths, with fp32's. Below zero counts as zero."""

    name = "cosine"

    def __init__(self, task: Embedding, _: Preprocessing) -> None:
        self._task = task

    def read(self, outputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        return embed(outputs, self._task)

    def truth_of(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        return answer

    def score(self, answers: Sequence[NDArray[Any]], truths: Sequence[NDArray[Any]]) -> float:
        return float(self.credits(answers, truths).mean())

    def credits(self, answers: Sequence[NDArray[Any]], truths: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        import numpy as np

        return np.array([max(0.0, similarity(one, other)) for one, other in zip(answers, truths, strict=True)])

    def groups(self, truths: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.bool_]]:
        import numpy as np

        return {self._task.labels[0]: np.ones(len(truths), bool)}


class Auroc:
    """Area under the receiver's curve of the frames' scores; an answer is a verdict (0 or 1) and a score, a truth a verdict.

    Where all truths are alike there is no curve; then the share of right verdicts stands for it.
    """

    name = "AUROC"

    def __init__(self, task: Anomaly, _: Preprocessing) -> None:
        self._task = task

    def read(self, outputs: Sequence[NDArray[Any]]) -> tuple[int, float]:
        return judge(outputs, self._task)

    def truth_of(self, answer: tuple[int, float]) -> int:
        return answer[0]

    def score(self, answers: Sequence[tuple[int, float]], truths: Sequence[int]) -> float:
        from sklearn.metrics import roc_auc_score

        if len(set(truths)) < 2:
            return float(self.credits(answers, truths).mean())
        return float(roc_auc_score(list(truths), [score for _, score in answers]))

    def credits(self, answers: Sequence[tuple[int, float]], truths: Sequence[int]) -> NDArray[np.float64]:
        import numpy as np

        return np.array([float(verdict == truth) for (verdict, _), truth in zip(answers, truths, strict=True)])

    def groups(self, truths: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
        import numpy as np

        found = np.asarray(truths)
        return {self._task.labels[index]: found == index for index in (0, 1) if (found == index).any()}
