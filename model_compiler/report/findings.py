"""From answers to findings: which images a variant reads otherwise, how far the variants agree. Thumbnails are decoded here."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.tasks import Classification
from model_compiler import images, metrics
from model_compiler.images import LabelledImage
from model_compiler.inputs import Inputs
from model_compiler.metrics import Metric
from model_compiler.report.record import MAX_CONFUSIONS, MAX_FLIPS, Agreement, Change, Confusion, Flip, Saying
from model_compiler.stages import evaluate
from model_compiler.stages.evaluate import Answers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Credits = NDArray[np.float64]

THUMBNAIL_SIDE: Final = 96
BASELINE: Final = "fp32"
_JPEG_QUALITY: Final = 70
_SAME: Final = 0.5
"""Two answers to one image are the same where one is worth at least this credit beside the other."""


@dataclass(frozen=True, slots=True)
class Panel:
    """All that answered the same images. ``labels`` names a classifier's answers; other tasks have none to name."""

    metric: Metric
    samples: Sequence[LabelledImage]
    truths: Sequence[Any]
    labels: tuple[str, ...] | None
    baseline: Answers
    answers: Mapping[str, Answers]

    @property
    def everyone(self) -> dict[str, Answers]:
        """The baseline first."""
        return {BASELINE: self.baseline, **self.answers}

    def likeness(self, one: Answers, other: Answers) -> Credits:
        """Per image, how much of the answer of ``other`` is in that of ``one``, 0..1."""
        if self.labels is not None:
            same: Credits = (one.top1 == other.top1).astype(float)
            return same
        return self.metric.credits(one.read, [self.metric.truth_of(each) for each in other.read])

    def credits(self, answers: Answers) -> Credits:
        """Per image, how right an answer is, 0..1."""
        return self.metric.credits(answers.read, self.truths)


def panel(inputs: Inputs, baseline: Answers, answers: Mapping[str, Answers]) -> Panel:
    """The panel of one compilation."""
    metric = metrics.metric_of(inputs.task, inputs.recipe.preprocessing, inputs.recipe.gate.metric)
    truths = evaluate.truths(metric, baseline, inputs.evaluation)
    labels = inputs.classes if isinstance(inputs.task, Classification) else None
    return Panel(metric, inputs.evaluation, truths, labels, baseline, answers)


def agreement(found: Panel) -> Agreement:
    """How much alike each pair answers."""
    everyone = found.everyone
    shares = tuple(
        tuple(round(float(found.likeness(one, other).mean()), 6) for other in everyone.values())
        for one in everyone.values()
    )
    return Agreement(names=tuple(everyone), shares=shares)


def changes(found: Panel) -> tuple[Change, ...]:
    """Per variant, what it broke and what it mended."""
    had = found.credits(found.baseline)
    return tuple(_change(name, found, each, had) for name, each in found.answers.items())


def _change(name: str, found: Panel, each: Answers, had: Credits) -> Change:
    lost = had - found.credits(each)
    broken, mended = lost >= _SAME, lost <= -_SAME
    otherwise = (found.likeness(each, found.baseline) < _SAME) & ~broken & ~mended
    return Change(variant=name, broken=int(broken.sum()), mended=int(mended.sum()), otherwise=int(otherwise.sum()))


def confusions(found: Panel) -> tuple[Confusion, ...]:
    """Which classes are now taken for which, the most frequent 40; none for other tasks."""
    if found.labels is None:
        return ()
    seen = Counter(
        (name, sample.label, int(before), int(after))
        for name, each in found.answers.items()
        for sample, before, after in zip(found.samples, found.baseline.top1, each.top1, strict=True)
        if before != after
    )
    ordered = sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:MAX_CONFUSIONS]
    return tuple(
        Confusion(
            variant=name, label=_name(found.labels, label), baseline=found.labels[before], answer=found.labels[after],
            images=count,
        )
        for (name, label, before, after), count in ordered
    )  # fmt: skip


def flipped(found: Panel) -> list[int]:
    """Indices of the images that some variant reads otherwise than the baseline, those that it was surest of first."""
    import numpy as np

    differs = np.zeros(len(found.samples), bool)
    for each in found.answers.values():
        differs |= found.likeness(each, found.baseline) < _SAME
    indices = np.flatnonzero(differs)
    return [int(index) for index in indices[np.argsort(-found.baseline.margin[indices], kind="stable")]]


def flips(found: Panel) -> tuple[tuple[Flip, ...], int]:
    """The 60 most telling flips with thumbnails, and how many there are in all."""
    indices = flipped(found)
    worth = {name: found.credits(each) for name, each in found.everyone.items()}
    kept = tuple(
        Flip(
            image=found.samples[index].image.name,
            truth=_name(found.labels, found.samples[index].label),
            sayings=tuple(
                _saying(found, name, each, float(worth[name][index]), index) for name, each in found.everyone.items()
            ),
            thumbnail=thumbnail(found.samples[index].image),
        )
        for index in indices[:MAX_FLIPS]
    )
    return kept, len(indices)


def _saying(found: Panel, name: str, each: Answers, worth: float, index: int) -> Saying:
    said = f"{worth:.0%} right" if found.labels is None else found.labels[int(each.top1[index])]
    return Saying(name=name, said=said, is_right=worth >= _SAME)


def _name(labels: tuple[str, ...] | None, label: int) -> str:
    return labels[label] if labels is not None and 0 <= label < len(labels) else ""


def thumbnail(image: images.Image) -> str:
    """A JPEG of at most 96 by 96 pixels, in base64."""
    import cv2

    frame = images.decode(image)
    scale = min(1.0, THUMBNAIL_SIDE / max(frame.shape[:2]))
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return base64.b64encode(content.tobytes()).decode("ascii")
