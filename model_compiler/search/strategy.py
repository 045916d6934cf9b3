"""Which schemes to try, in which order, and when to stop. Pure: what costs time is asked for through ``noise`` and ``judge``.

Leave-one-OUT: a layer's worth is what leaving it in float gives to the fully quantized model. (Quantizing one layer of the
float model, leave-one-in, ranks wrongly: on EfficientNet-Lite0 its "worst" layer made things worse when it was left out.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from model_compiler.stages.quantize import Scheme

JUDGED_CLIPPINGS: Final = 3
MAX_SCANNED: Final = 96
MAX_STEPS: Final = 16
MAX_FLOAT_SHARE: Final = 0.35
"""Most of the multiplications that may stay in float: beyond that, integers no longer pay."""
WORTHWHILE: Final = 0.995
"""A step is kept where it lowers the noise to less than this share; less is chance."""


@dataclass(frozen=True, slots=True)
class Landscape:
    """What can be varied: clippings, gentlest first; ``layers``: multiplications by node; ``tail``: nodes behind the last
    of these, free to compute in float; ``hints``: layers ordered by how doubtful they look before any is tried.
    """

    clippings: tuple[str, ...]
    layers: Mapping[str, int]
    tail: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def most_steps(self) -> int:
        """How often noise is asked for at most."""
        return 2 * len(self.clippings) + min(MAX_SCANNED, len(self.layers)) + 1 + 2 * MAX_STEPS

    def float_share(self, scheme: Scheme) -> float:
        """Share of the multiplications that ``scheme`` leaves in float, 0..1."""
        total = sum(self.layers.values())
        return sum(self.layers.get(node, 0) for node in scheme.excluded) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Effect:
    """Leaving ``layer`` in float changes the noise by this factor: 0.5 halves it, above 1 makes it worse."""

    layer: str
    factor: float


Noise = Callable[[Scheme], float]
"""How far the candidate's outputs are from fp32's on calibration images; needs no labels. Smaller is better."""
Judge = Callable[[Scheme], bool]
"""Measure the scheme on the labelled images; whether it meets the accuracy budget, so that the search may stop."""


def explore(ground: Landscape, noise: Noise, judge: Judge) -> list[Effect]:
    """Try schemes until one meets the budget, cheapest first; returns what each scanned layer is worth.

    First every clipping by its noise, the best three judged; then, only if these do not suffice, the layers one by one, and
    the most worthwhile are left in float, each re-measured together with those before it.
    """
    starts = _starts(ground, noise)
    if any(judge(scheme) for scheme in starts[:JUDGED_CLIPPINGS]):
        return []
    start = starts[0]
    effects = _scan(ground, start, noise)
    _descend(ground, start, effects, noise, judge)
    return effects


def _starts(ground: Landscape, noise: Noise) -> list[Scheme]:
    """Every clipping, least noise first, with the tail in float where that helps."""
    schemes = [Scheme(clipping) for clipping in ground.clippings]
    if ground.tail:
        schemes += [replace(scheme, excluded=tuple(sorted(ground.tail))) for scheme in schemes]
    return sorted(schemes, key=noise)


def _scan(ground: Landscape, start: Scheme, noise: Noise) -> list[Effect]:
    """The effect of each layer, the most helpful first."""
    base = noise(start)
    chosen: Sequence[str] = ground.hints or tuple(ground.layers)
    effects = [Effect(layer, noise(start.without(layer)) / base if base > 0 else 1.0) for layer in chosen[:MAX_SCANNED]]
    return sorted(effects, key=lambda effect: effect.factor)


def _descend(ground: Landscape, start: Scheme, effects: Sequence[Effect], noise: Noise, judge: Judge) -> None:
    current = start
    for effect in effects[:MAX_STEPS]:
        step = current.without(effect.layer)
        if effect.factor >= 1.0 or ground.float_share(step) > MAX_FLOAT_SHARE:
            continue
        if noise(step) < WORTHWHILE * noise(current):
            current = step
            if judge(current):
                return
