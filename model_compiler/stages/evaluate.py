"""Stage 6: what every candidate answers on the labelled images, each on its true runtime with one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Preprocessing
from model_compiler import images, progress
from model_compiler.errors import MalformedModel
from model_compiler.images import LabelledImage
from model_compiler.parallel import in_order
from model_compiler.targets import Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METRIC: Final = "top-1"


@dataclass(frozen=True, slots=True)
class Answers:
    """Per image: the class that came out on top, and by how much its score leads the second (both of length images)."""

    top1: NDArray[np.int32]
    margin: NDArray[np.float32]

    def accuracy(self, labels: Sequence[int]) -> float:
        """Share of images whose top-1 is the label, 0..1."""
        return self.agreement(labels)

    def agreement(self, others: Sequence[int] | NDArray[np.int32]) -> float:
        """Share of images whose top-1 is the one in ``others``, 0..1."""
        import numpy as np

        return float((self.top1 == np.asarray(others)).mean())


def evaluate(
    sessions: Mapping[str, Session],
    samples: Sequence[LabelledImage],
    wanted: Preprocessing,
    jobs: int,
    report: progress.Report,
) -> dict[str, Answers]:
    """The answers of every session, by its name. Each image is read once for all of them.

    Raises MalformedDataset on an image that cannot be read, MalformedModel on scores that are not finite.
    """
    import numpy as np

    top1 = {name: np.empty(len(samples), np.int32) for name in sessions}
    margin = {name: np.empty(len(samples), np.float32) for name in sessions}

    def answer(sample: LabelledImage) -> dict[str, tuple[int, float]]:
        tensor = preprocess(images.decode(sample.image), wanted)
        return {name: _top(session.run([tensor])[0], sample) for name, session in sessions.items()}

    answers = in_order(answer, samples, jobs)
    for index, row in enumerate(progress.tracked(report, "evaluate", answers, len(samples))):
        for name, (best, lead) in row.items():
            top1[name][index], margin[name][index] = best, lead
    return {name: Answers(top1[name], margin[name]) for name in sessions}


def _top(scores: NDArray[np.float32], sample: LabelledImage) -> tuple[int, float]:
    import numpy as np

    flat = scores.ravel()
    if not np.isfinite(flat).all():
        raise MalformedModel(
            f"the model gives NaN or infinity for {sample.image.path}; it cannot be judged on that image"
        )
    second, first = np.partition(flat, -2)[-2:]
    return int(flat.argmax()), float(first - second)
