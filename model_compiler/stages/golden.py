"""Stage 8: frames that every device replays before it switches, and the tolerance that they are judged by (SPEC 8.2).

Half of the frames are typical answers, half lie as near to the decision boundary as this runtime's own noise permits:
there a damaged model changes its mind first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.golden import Frame, pack
from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Golden, Precision, Preprocessing
from model_compiler import images
from model_compiler.errors import IndecisiveModel
from model_compiler.images import LabelledImage
from model_compiler.stages.evaluate import Answers
from model_compiler.stages.plan import Build
from model_compiler.targets import target

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAFETY: Final = 4.0
"""Tolerance over the noise seen here, which is that between this runtime's integer kernels and the same graph in floats.

Measured against an independent implementation (the same QDQ graph on OpenVINO, 24 images each): it differs by 1.7 times that
noise on PP-LCNet and EfficientNet-Lite0, 0.8 times on FastestDet; 4 leaves as much again for a CPU that was not measured.
"""
FLOOR: Final[dict[Precision, float]] = {"fp32": 1e-3, "fp16": 5e-3, "int8": 2e-2}
"""Least tolerance as a share of the outputs' span, where this machine shows no noise at all. Between the two implementations
fp32 differs by 1e-7 to 1.3e-5 of it, int8 by 0.2 % to 2.1 % (without the one percent of outliers)."""
MAX_OUTLIERS: Final = 0.01
_TYPICAL: Final = 1.0 - MAX_OUTLIERS / 2
"""Quantile of the differences that the tolerance is made from: half of the permitted outliers are left for other machines.
A detector has cells where a rounding decides between two boxes; a tolerance for those would permit anything elsewhere."""
_POOL: Final = 4


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """The manifest's description, the part's bytes, and the frames themselves."""

    golden: Golden
    part: bytes
    frames: list[Frame]


@dataclass(frozen=True, slots=True)
class Replay:
    """One image run several ways: its tensors, the lead of its top-1, the largest difference between the ways, and the
    difference that all but half a percent of the elements stay below.
    """

    frame: Frame
    margin: float
    noise: float
    typical_noise: float

    @property
    def is_steady(self) -> bool:
        """Whether the noise, taken ``SAFETY`` times, could not change the top-1."""
        return self.margin > 2 * SAFETY * self.noise


def make(
    build: Build,
    model: bytes,
    samples: Sequence[LabelledImage],
    answers: Answers,
    wanted: Preprocessing,
    count: int,
    *,
    is_choice: bool = True,
) -> GoldenSet:
    """Choose ``count`` frames for a variant and derive its tolerance.

    ``is_choice``: the first output holds one score per answer, so its largest must mean something: raises IndecisiveModel
    where it does on no frame. (Of a detector's grid the largest element is some offset.)
    """
    near, typical = pools(answers, [sample.label for sample in samples], _POOL * count)
    ways = _Ways(build, model)
    replays = {index: ways.replay(samples[index], float(answers.margin[index]), wanted) for index in {*near, *typical}}
    chosen = [replays[index] for index in select(near, typical, replays, count)]
    atol = tolerance(chosen, build.precision)
    decisive = decisive_frames(chosen, atol)
    if is_choice and not any(decisive):
        raise IndecisiveModel(
            f"{build.variant}: on no golden frame the best class leads by more than the runtime's noise; train further"
        )
    frames = [each.frame for each in chosen]
    golden = Golden(
        frames=len(frames), atol=atol, rtol=0.0, max_outliers=MAX_OUTLIERS, decisive=decisive,
        latency_budget_ms={board.name: board.limits.latency_p95_ms for board in build.boards},
    )  # fmt: skip
    return GoldenSet(golden, pack(frames), frames)


def pools(answers: Answers, labels: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """Indices of images near the boundary, nearest first, and of clear right answers, classes in turn; ``size`` each."""
    import numpy as np

    near = np.argsort(answers.margin, kind="stable")
    # Without a label an answer is right by itself: then all that is clear is typical.
    truth = np.where(np.asarray(labels) == images.UNLABELLED, answers.top1, np.asarray(labels))
    clear = np.flatnonzero((answers.top1 == truth) & (answers.margin >= np.median(answers.margin)))
    turn = {int(index): int((truth[clear[:place]] == truth[index]).sum()) for place, index in enumerate(clear)}
    typical = sorted(turn, key=lambda index: (turn[index], index))
    return [int(index) for index in near[:size]], typical[:size]


def select(near: Sequence[int], typical: Sequence[int], replays: dict[int, Replay], count: int) -> list[int]:
    """``count`` images: half steady ones from ``near``, then steady typical ones, then the steadiest of the rest."""
    chosen = [index for index in near if replays[index].is_steady][: count // 2]
    chosen += [index for index in typical if replays[index].is_steady and index not in chosen][: count - len(chosen)]
    rest = [index for index in dict.fromkeys([*typical, *near]) if index not in chosen]
    rest.sort(key=lambda index: replays[index].noise - replays[index].margin)
    return sorted([*chosen, *rest[: count - len(chosen)]])


def tolerance(chosen: Sequence[Replay], precision: Precision) -> float:
    """Absolute tolerance: ``SAFETY`` times the largest typical noise of the chosen frames, at least the precision's floor."""
    outputs = [tensor for replay in chosen for tensor in replay.frame[1]]
    span = max(float(each.max()) for each in outputs) - min(float(each.min()) for each in outputs)
    widest = max(SAFETY * max(replay.typical_noise for replay in chosen), FLOOR[precision] * span)
    return float(f"{widest:.6g}")


def decisive_frames(chosen: Sequence[Replay], atol: float) -> tuple[bool, ...]:
    """Per frame, whether its top-1 stays ahead even where best and second are off in opposite directions by ``atol``, or by
    more where the frame's own outliers are wilder.
    """
    return tuple(each.margin > 2 * max(atol, SAFETY * (each.noise - each.typical_noise)) for each in chosen)


class _Ways:
    """The same model on its runtime in ways that must agree: optimised or as written, on one thread or two."""

    def __init__(self, build: Build, model: bytes) -> None:
        runtime = target(build.runtime)
        self._usual = runtime.open_session(model, threads=1, optimised=True)
        self._others = (
            runtime.open_session(model, threads=1, optimised=False),
            runtime.open_session(model, threads=2, optimised=True),
        )

    def replay(self, sample: LabelledImage, margin: float, wanted: Preprocessing) -> Replay:
        tensor = preprocess(images.decode(sample.image), wanted)
        outputs = self._usual.run([tensor])
        others = [_differences(outputs, other.run([tensor])) for other in self._others]
        return Replay(
            ([tensor], outputs), margin, max(float(each.max()) for each in others), max(map(_typical, others))
        )


def _differences(expected: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> NDArray[Any]:
    import numpy as np

    return np.concatenate([np.abs(have - want).ravel() for want, have in zip(expected, got, strict=True)])


def _typical(differences: NDArray[Any]) -> float:
    import numpy as np

    return float(np.quantile(differences, _TYPICAL, method="higher"))
