"""How far outputs are from fp32's, without labels: what the search descends on before it looks at any accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_compiler.metrics import Metric

Outputs = Sequence["NDArray[Any]"]


def distance(metric: Metric, expected: Outputs, got: Outputs) -> float:
    """The metric's own ``distance`` of two frames' outputs where it has one, else :func:`relative_error`."""
    own = getattr(metric, "distance", None)
    return float(own(expected, got)) if own is not None else relative_error(expected, got)


def relative_error(expected: Outputs, got: Outputs) -> float:
    """Energy of the differences over energy of what was expected, over all outputs; infinite where one is not finite."""
    import numpy as np

    energy = sum(float(np.square(want, dtype=np.float64).sum()) for want in expected)
    error = sum(
        float(np.square(np.subtract(have, want, dtype=np.float64)).sum())
        for want, have in zip(expected, got, strict=True)
    )
    return error / max(energy, 1e-30) if math.isfinite(error) else math.inf


def decibel(ratio: float) -> float:
    """Signal over noise in dB for a relative error; at most 200, where nothing differs."""
    return min(200.0, -10.0 * math.log10(max(ratio, 1e-20)))
