"""Stage 6: what every candidate answers on the labelled images, each on its true runtime with one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Preprocessing
from model_compiler import images, progress
from model_compiler.errors import MalformedModel
from model_compiler.images import UNLABELLED, LabelledImage
from model_compiler.metrics import Metric, paired
from model_compiler.metrics.paired import Comparison
from model_compiler.parallel import in_order
from model_compiler.targets import Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METRIC: Final = "top-1"


@dataclass(frozen=True, slots=True)
class Answers:
    """Per image: the element that came out on top of the first output, by how much it leads the second, and what the
    metric read (all of length images; the last one empty where there was no metric).
    """

    top1: NDArray[np.int32]
    margin: NDArray[np.float32]
    read: tuple[Any, ...] = ()

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
    metric: Metric | None = None,
) -> dict[str, Answers]:
    """The answers of every session, by its name. Each image is read once for all of them, each answer once by ``metric``.

    Raises MalformedDataset on an image that cannot be read, MalformedModel on scores that are not finite.
    """
    import numpy as np

    top1 = {name: np.empty(len(samples), np.int32) for name in sessions}
    margin = {name: np.empty(len(samples), np.float32) for name in sessions}
    read: dict[str, list[Any]] = {name: [] for name in sessions}

    def answer(sample: LabelledImage) -> dict[str, tuple[int, float, Any]]:
        tensor = preprocess(images.decode(sample.image), wanted)
        outputs = {name: session.run([tensor]) for name, session in sessions.items()}
        return {name: (*_top(each[0], sample), metric.read(each) if metric else None) for name, each in outputs.items()}

    answers = in_order(answer, samples, jobs)
    for index, row in enumerate(progress.tracked(report, "evaluate", answers, len(samples))):
        for name, (best, lead, seen) in row.items():
            top1[name][index], margin[name][index] = best, lead
            read[name].append(seen)
    return {name: Answers(top1[name], margin[name], tuple(read[name]) if metric else ()) for name in sessions}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How good a model's answers are: ``score`` by the metric (0..1), beside fp32's by ``comparison``; ``agreement``: the
    share of images (0..1) that it answers as fp32 does; ``collapsed``: groups of images that it gave up.
    """

    score: float
    agreement: float
    comparison: Comparison
    collapsed: tuple[str, ...]


def truths(metric: Metric, baseline: Answers, samples: Sequence[LabelledImage]) -> list[Any]:
    """What is true of every image: its boxes or its label, where it has neither what fp32 answers."""
    return [
        sample.boxes
        if sample.boxes is not None
        else sample.label
        if sample.label != UNLABELLED
        else metric.truth_of(seen)
        for sample, seen in zip(samples, baseline.read, strict=True)
    ]


def verdict(metric: Metric, truth: Sequence[Any], baseline: Answers, answers: Answers) -> Verdict:
    """Judge ``answers`` beside the ``baseline``'s on the same images; both were read by ``metric``."""
    score, best = metric.score(answers.read, truth), metric.score(baseline.read, truth)
    had, kept = metric.credits(baseline.read, truth), metric.credits(answers.read, truth)
    own = [metric.truth_of(each) for each in baseline.read]
    return Verdict(
        score=score,
        agreement=float(metric.credits(answers.read, own).mean()),
        comparison=paired.compare(had, kept, best - score),
        collapsed=tuple(paired.collapsed(metric.groups(truth), had, kept)),
    )


def _top(scores: NDArray[np.float32], sample: LabelledImage) -> tuple[int, float]:
    import numpy as np

    flat = scores.ravel()
    if not np.isfinite(flat).all():
        raise MalformedModel(
            f"the model gives NaN or infinity for {sample.image.path}; it cannot be judged on that image"
        )
    second, first = np.partition(flat, -2)[-2:]
    return int(flat.argmax()), float(first - second)
