"""The search for one quantized variant: strategy and bench, judged on the labelled images by the true runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from model_compiler import progress
from model_compiler.search.bench import Bench
from model_compiler.search.strategy import Effect, Landscape, explore
from model_compiler.stages import quantize
from model_compiler.stages.evaluate import Answers
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.quantize import CLIPPINGS, LEAST_ERROR, Candidate, Scheme


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate, what it answered, the nodes that it leaves in float and their share of all multiplications."""

    candidate: Candidate
    answers: Answers
    float_share: float
    excluded: tuple[str, ...]


@dataclass(slots=True)
class Found:
    """What a search has found so far; it may be looked at whenever the search is interrupted."""

    tried: dict[str, Tried] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    is_complete: bool = False


NAIVE: Final = Scheme()
"""What any quantizer does by default: no clipping, everything in integers."""

Measure = Callable[[Candidate], Answers | None]
"""The answers of a candidate on its true runtime; None where that runtime cannot load it."""
Suffices = Callable[[Answers], bool]


def landscape(model: FloatModel) -> Landscape:
    """What can be varied for ``model``."""
    return Landscape((*CLIPPINGS, LEAST_ERROR), quantize.layers(model), quantize.tail(model))


def search(
    ground: Landscape,
    bench: Bench,
    known: Mapping[str, Answers],
    measure: Measure,
    suffices: Suffices,
    report: progress.Report,
) -> Found:
    """Search until a candidate ``suffices`` or nothing is left to try; ``known``: answers by method, measured before.

    Ctrl-C ends the search with the best so far, once there is any; before that it goes on to the caller.
    """
    found = Found()
    steps = progress.tracked(report, "search", range(ground.most_steps), ground.most_steps)

    def noise(scheme: Scheme) -> float:
        next(steps, None)
        return bench.noise(scheme)

    def judge(scheme: Scheme) -> bool:
        answers = known.get(scheme.method) if not scheme.excluded else None
        candidate = bench.build(scheme)
        answers = answers or measure(candidate)
        if answers is None:
            return False
        found.tried[candidate.method] = Tried(candidate, answers, ground.float_share(scheme), scheme.excluded)
        return suffices(answers)

    try:
        found.effects = explore(ground, noise, judge)
        found.is_complete = True
    except KeyboardInterrupt:
        if not (found.tried or known):
            raise
    for _ in steps:
        pass  # a search that met the budget early is as complete as one that tried everything
    return found
