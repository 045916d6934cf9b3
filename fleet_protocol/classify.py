"""From a classifier's scores to an answer: the one reading of them that compiler and device share (SPEC 3.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fleet_protocol.tasks import Classification

if TYPE_CHECKING:
    from numpy.typing import NDArray


def classify(scores: NDArray[Any], wanted: Classification) -> tuple[int, float]:
    """Index of the best class and its confidence, from one frame's scores of any shape (as many as ``wanted.labels``).

    The activation named by ``wanted`` is applied first; on equal scores the lower index wins.
    """
    import numpy as np

    flat = scores.ravel().astype(np.float64)
    best = int(flat.argmax())
    if wanted.activation == "softmax":
        # Subtracting the maximum keeps exp() from overflowing and makes the best class's own term 1.
        return best, float(1.0 / np.exp(flat - flat[best]).sum())
    if wanted.activation == "sigmoid":
        return best, float(1.0 / (1.0 + np.exp(-np.clip(flat[best], -700.0, 700.0))))
    return best, float(flat[best])
