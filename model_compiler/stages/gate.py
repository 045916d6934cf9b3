"""Stage 7: which candidate becomes the variant, and whether any may. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet_protocol.errors import AccuracyRefused
from model_compiler.metrics.paired import Comparison
from model_compiler.recipe import Gate

_ROUNDING: Final = 1e-9
_NAMED: Final = 5
ESTIMATE: Final = 0.5
"""At this confidence the limit of the drop is the drop that was seen."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How one candidate of ``variant`` did: ``accuracy`` and ``agreement`` with fp32, both 0..1; ``comparison`` with fp32
    image by image; ``float_share``: the share of multiplications (0..1) that a quantized model leaves in float.
    """

    variant: str
    method: str
    accuracy: float
    agreement: float
    comparison: Comparison | None = None
    float_share: float = 0.0
    collapsed: tuple[str, ...] = ()

    def meets(self, gate: Gate) -> bool:
        """Whether a search may stop here: the images prove with 95 % confidence that it loses no more than is aimed at.

        Where they are too few to prove anything, half of the allowance must suffice as it is seen.
        """
        if self.comparison is None or self.collapsed or self.accuracy < gate.min_accuracy:
            return False
        aim = min(gate.aim, gate.max_drop)
        if self.comparison.can_prove(aim):
            return self.comparison.proves(aim)
        return self.comparison.drop <= aim / 2


def choose(trials: Sequence[Trial], gate: Gate) -> Trial:
    """Of the trials that provably meet the gate the one with the fewest multiplications in float, which is the fastest;
    where none does, or between equals, the most accurate, then the one that agrees most with fp32, then the first.

    By arithmetic and not by the clock: equal inputs give equal packages.
    """

    def merit(trial: Trial) -> tuple[bool, bool, float, float, float]:
        is_proved = trial.meets(gate)
        return (
            not trial.collapsed,
            is_proved,
            -trial.float_share if is_proved else 0.0,
            trial.accuracy,
            trial.agreement,
        )

    return max(trials, key=merit)


def check(chosen: Sequence[Trial], baseline: float, gate: Gate, samples: int) -> None:
    """Raise AccuracyRefused, with every variant that fails and by how much, where one is outside the recipe's gate."""
    failed = [sentence for trial in chosen if (sentence := _objection(trial, baseline, gate))]
    if failed:
        raise AccuracyRefused(
            f"{'; '.join(failed)} (on {samples} images); calibrate with images like those of the field, "
            "loosen the gate, or take the variant out of the recipe"
        )


def _objection(trial: Trial, baseline: float, gate: Gate) -> str:
    reached = f"{trial.variant} reaches {trial.accuracy:.4f}"
    drop = baseline - trial.accuracy
    if drop > gate.max_drop + _ROUNDING:
        return f"{reached}, {drop:.4f} below fp32's {baseline:.4f} where at most {gate.max_drop:.4f} is allowed"
    limit = trial.comparison.limit(gate.confidence) if trial.comparison and gate.confidence > ESTIMATE else drop
    if limit > gate.max_drop + _ROUNDING:
        return (
            f"{reached}, which the images prove only to be at most {limit:.4f} below fp32's {baseline:.4f} where "
            f"{gate.max_drop:.4f} is allowed; more evaluation images narrow that"
        )
    if trial.collapsed:
        return f"{reached}, but gives up {', '.join(trial.collapsed[:_NAMED])}"
    if trial.accuracy < gate.min_accuracy - _ROUNDING:
        return f"{reached} where at least {gate.min_accuracy:.4f} is wanted"
    return ""
