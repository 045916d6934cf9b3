"""Is a variant really worse, or was it the draw? Two models on the same images, compared image by image. Pure.

A raw difference of two accuracies forgets that both saw the same images: what counts are the images where they differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Credits = NDArray[np.float64]

CONFIDENCE: Final = 0.95
_LOST_SHARE: Final = 0.5
_LOST_CHANCE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant beside fp32 on the same images.

    ``drop``: how much lower its score is, in the metric's own unit (negative where it is higher); ``error``: the standard
    error of that drop; ``lost`` and ``gained``: on how many images it did worse and better; ``p_value``: the chance of so
    lopsided a split were both equally good (McNemar's exact test, for credits between 0 and 1 the sign test).
    """

    drop: float
    error: float
    lost: int
    gained: int
    p_value: float
    images: int

    def limit(self, confidence: float = CONFIDENCE) -> float:
        """The drop that the true one stays below with this ``confidence`` (0.5: the drop itself)."""
        return self.drop + NormalDist().inv_cdf(confidence) * self.error

    def proves(self, max_drop: float, confidence: float = CONFIDENCE) -> bool:
        """Whether the images suffice to say that no more than ``max_drop`` is lost."""
        return self.limit(confidence) <= max_drop

    def can_prove(self, max_drop: float) -> bool:
        """Whether there are images enough for a proof: two models that always agree leave half of the allowance."""
        return 2 * NormalDist().inv_cdf(CONFIDENCE) * math.sqrt(2.0) / (self.images + 2) <= max_drop


def compare(baseline: Credits, variant: Credits, drop: float) -> Comparison:
    """Compare two models by their credits (0..1) for the same images; ``drop``: the difference of their scores."""
    import numpy as np
    from scipy.stats import binomtest

    loss = np.asarray(baseline, np.float64) - np.asarray(variant, np.float64)
    lost, gained = int((loss > 0).sum()), int((loss < 0).sum())
    p_value = float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    return Comparison(drop, _standard_error(loss), lost, gained, p_value, len(loss))


def _standard_error(loss: Credits) -> float:
    """Of the mean of ``loss``, with one image added that lost and one that gained (Agresti and Min, 2005).

    Without them two models that happen to agree on 20 images would be proved equal.
    """
    import numpy as np

    padded = np.concatenate([loss, [1.0, -1.0]]) if len(loss) else np.array([1.0, -1.0])
    return float(padded.std() / np.sqrt(len(padded)))


def collapsed(groups: Mapping[str, Any], baseline: Credits, variant: Credits) -> list[str]:
    """Groups of images that the variant gave up: it keeps less than half of fp32's credit there, and not by chance.

    A mean hides this: a detector may lose every bicycle and still stay within a point. The chance is shared out among all
    groups that are looked at (Bonferroni), and a group of two images proves nothing.
    """
    found = []
    for name, members in groups.items():
        had, kept = float(baseline[members].sum()), float(variant[members].sum())
        if had > 0 and kept < _LOST_SHARE * had:
            test = compare(baseline[members], variant[members], 0.0)
            if test.lost > test.gained and test.p_value < _LOST_CHANCE / len(groups):
                found.append(name)
    return found
