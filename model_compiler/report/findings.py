"""From answers to findings: which images a variant reads otherwise, how far the variants agree. Thumbnails are decoded here."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from model_compiler import images
from model_compiler.images import LabelledImage
from model_compiler.report.record import MAX_CONFUSIONS, MAX_FLIPS, Agreement, Change, Confusion, Flip
from model_compiler.stages.evaluate import Answers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THUMBNAIL_SIDE: Final = 96
_JPEG_QUALITY: Final = 70


def agreement(answers: Mapping[str, Answers]) -> Agreement:
    """How often each pair of ``answers`` has the same top-1."""
    shares = tuple(tuple(round(one.agreement(other.top1), 6) for other in answers.values()) for one in answers.values())
    return Agreement(names=tuple(answers), shares=shares)


def flipped(baseline: Answers, answers: Mapping[str, Answers]) -> list[int]:
    """Indices of the images that some variant reads otherwise than ``baseline``, those that it was surest of first."""
    import numpy as np

    differs = np.zeros(len(baseline.top1), bool)
    for each in answers.values():
        differs |= each.top1 != baseline.top1
    found = np.flatnonzero(differs)
    return [int(index) for index in found[np.argsort(-baseline.margin[found], kind="stable")]]


def changes(labels: Sequence[int], baseline: Answers, answers: Mapping[str, Answers]) -> tuple[Change, ...]:
    """Per variant, what quantization broke and what it mended."""
    import numpy as np

    truth = np.asarray(labels, np.int32)
    return tuple(_change(name, truth, baseline, each) for name, each in answers.items())


def _change(name: str, truth: NDArray[np.int32], baseline: Answers, each: Answers) -> Change:
    was_right, is_right, differs = baseline.top1 == truth, each.top1 == truth, each.top1 != baseline.top1
    return Change(
        variant=name,
        broken=int((was_right & ~is_right).sum()),
        mended=int((~was_right & is_right).sum()),
        otherwise=int((differs & ~was_right & ~is_right).sum()),
    )


def confusions(labels: Sequence[int], baseline: Answers, answers: Mapping[str, Answers]) -> tuple[Confusion, ...]:
    """Which classes are now taken for which, the most frequent 40."""
    seen = Counter(
        (name, int(label), int(before), int(after))
        for name, each in answers.items()
        for label, before, after in zip(labels, baseline.top1, each.top1, strict=True)
        if before != after
    )
    ordered = sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:MAX_CONFUSIONS]
    return tuple(
        Confusion(variant=name, label=label, baseline=before, answer=after, images=images)
        for (name, label, before, after), images in ordered
    )


def flips(
    samples: Sequence[LabelledImage], baseline: Answers, answers: Mapping[str, Answers]
) -> tuple[list[Flip], int]:
    """The 60 most telling flips with thumbnails, and how many there are in all."""
    found = flipped(baseline, answers)
    kept = [
        Flip(
            image=samples[index].image.name,
            label=samples[index].label,
            baseline=int(baseline.top1[index]),
            answers={name: int(each.top1[index]) for name, each in answers.items()},
            thumbnail=thumbnail(samples[index].image),
        )
        for index in found[:MAX_FLIPS]
    ]
    return kept, len(found)


def thumbnail(image: images.Image) -> str:
    """A JPEG of at most 96 by 96 pixels, in base64."""
    import cv2

    frame = images.decode(image)
    scale = min(1.0, THUMBNAIL_SIDE / max(frame.shape[:2]))
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return base64.b64encode(content.tobytes()).decode("ascii")
