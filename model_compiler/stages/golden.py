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
    import numpy as np
    from numpy.typing import NDArray

SAFETY: Final = 4.0
"""Tolerance over the noise seen here: other CPUs reorder sums and round other ties than this one."""
FLOOR: Final[dict[Precision, float]] = {"fp32": 1e-3, "fp16": 5e-3, "int8": 2e-2}
"""Least tolerance as a share of the outputs' span, where this machine shows no noise at all."""
MAX_OUTLIERS: Final = 0.01
_POOL: Final = 4


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """The manifest's description, the part's bytes, and the frames themselves."""

    golden: Golden
    part: bytes
    frames: list[Frame]


@dataclass(frozen=True, slots=True)
class Replay:
    """One image run several ways: its tensors, the lead of its top-1, the largest difference between the ways."""

    frame: Frame
    margin: float
    noise: float

    @property
    def is_steady(self) -> bool:
        """Whether the noise, taken ``SAFETY`` times, could not change the top-1."""
        return self.margin > 2 * SAFETY * self.noise


def make(
    build: Build, model: bytes, samples: Sequence[LabelledImage], answers: Answers, wanted: Preprocessing, count: int
) -> GoldenSet:
    """Choose ``count`` frames for a variant and derive its tolerance; raises IndecisiveModel where none is decisive."""
    near, typical = pools(answers, [sample.label for sample in samples], _POOL * count)
    ways = _Ways(build, model)
    replays = {index: ways.replay(samples[index], float(answers.margin[index]), wanted) for index in {*near, *typical}}
    chosen = [replays[index] for index in select(near, typical, replays, count)]
    atol = tolerance(chosen, build.precision)
    decisive = decisive_frames(chosen, atol)
    if not any(decisive):
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
    """Absolute tolerance: ``SAFETY`` times the largest noise of the chosen frames, at least the precision's floor."""
    outputs = [tensor for replay in chosen for tensor in replay.frame[1]]
    span = max(float(each.max()) for each in outputs) - min(float(each.min()) for each in outputs)
    widest = max(SAFETY * max(replay.noise for replay in chosen), FLOOR[precision] * span)
    return float(f"{widest:.6g}")


def decisive_frames(chosen: Sequence[Replay], atol: float) -> tuple[bool, ...]:
    """Per frame, whether its top-1 stays ahead even where best and second are off by ``atol`` in opposite directions."""
    return tuple(each.margin > 2 * atol for each in chosen)


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
        noise = max(_worst(outputs, other.run([tensor])) for other in self._others)
        return Replay(([tensor], outputs), margin, noise)


def _worst(expected: Sequence[NDArray[Any]], got: Sequence[NDArray[np.float32]]) -> float:
    import numpy as np

    return max(float(np.abs(have - want).max()) for want, have in zip(expected, got, strict=True))
