"""Stage 7: which candidate becomes the variant, and whether any may. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet_protocol.errors import AccuracyRefused
from model_compiler.recipe import Gate

_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Trial:
    """How one candidate of ``variant`` did: ``accuracy`` and ``agreement`` with fp32, both 0..1."""

    variant: str
    method: str
    accuracy: float
    agreement: float


def choose(trials: Sequence[Trial]) -> Trial:
    """The most accurate trial; of equals the one that agrees most with fp32, then the one that changes the model least."""
    return max(trials, key=lambda trial: (trial.accuracy, trial.agreement))


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
    if trial.accuracy < gate.min_accuracy - _ROUNDING:
        return f"{reached} where at least {gate.min_accuracy:.4f} is wanted"
    return ""
