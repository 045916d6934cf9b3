"""Readings of models that give a vector or a score of strangeness, shared by compiler and device (SPEC 3.8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fleet_protocol.tasks import Anomaly, Embedding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def embed(outputs: Sequence[NDArray[Any]], wanted: Embedding) -> NDArray[np.float32]:
    """The frame's vector, flat; of length 1 where ``wanted`` says so (a zero vector stays zero)."""
    import numpy as np

    vector = outputs[0].ravel().astype(np.float64)
    length = float(np.linalg.norm(vector))
    return (vector / length if wanted.is_normalised and length > 0 else vector).astype(np.float32)


def similarity(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Cosine of the angle between two vectors, -1..1; 0 where one of them is zero."""
    import numpy as np

    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.dot(one.astype(np.float64), other.astype(np.float64))) / lengths if lengths > 0 else 0.0


def judge(outputs: Sequence[NDArray[Any]], wanted: Anomaly) -> tuple[int, float]:
    """1 where the frame is anomalous, else 0; and its score, the largest value of the first output."""
    score = float(outputs[0].max())
    return int(score > wanted.threshold), score
