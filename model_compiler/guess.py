"""Which of the usual pre-processings a model was trained with, found by asking the model: labelled images, most right answers.

A wrong mean costs as much accuracy as a bad quantization (EfficientNet-Lite0: 78.5 % against 88.8 %), and nothing else says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from fleet_protocol.errors import AccuracyRefused
from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Preprocessing
from model_compiler import images
from model_compiler.images import LabelledImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run = Callable[["NDArray[Any]"], "NDArray[Any]"]
"""One input tensor to one output tensor of scores."""

IMAGES: Final = 60
_CHANCE: Final = 1.5
"""An answer that is right less often than this many times chance is none."""

USUAL: Final[dict[str, tuple[float, tuple[float, float, float], tuple[float, float, float]]]] = {
    "imagenet": (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": (1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "symmetric": (1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "lite": (1.0, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
    "raw": (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Name to scale, mean and std: torchvision's; 0..1; -1..1; EfficientNet-Lite's ``(x - 127) / 128``; bytes as they are."""

NAMES: Final = (*USUAL, *(f"{name}-bgr" for name in USUAL))
"""What a command line may ask for: red comes first, or blue where the name says so."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the model's input says: side lengths in pixels, channels, layout."""

    width: int
    height: int
    channels: int
    layout: Literal["nchw", "nhwc"]


@dataclass(frozen=True, slots=True)
class Guess:
    """A pre-processing with its name, and how it did: share of right answers, mean confidence in the right one."""

    name: str
    wanted: Preprocessing
    accuracy: float
    confidence: float


def usual(name: str, frame: Frame) -> Preprocessing:
    """The pre-processing called ``name`` (one of ``NAMES``) for a model's input."""
    key, _, order = name.partition("-")
    scale, mean, std = USUAL[key]
    color: Literal["rgb", "bgr"] = "bgr" if order else "rgb"
    return Preprocessing(
        width=frame.width,
        height=frame.height,
        color="gray" if frame.channels == 1 else color,
        layout=frame.layout,
        resize="stretch",
        interpolation="bilinear",
        scale=scale,
        mean=mean[: frame.channels],
        std=std[: frame.channels],
    )


def find(run: Run, samples: Sequence[LabelledImage], frame: Frame) -> list[Guess]:
    """The usual pre-processings, best first, judged on at most 60 evenly spread ``samples``.

    Raises AccuracyRefused where no one makes the model answer better than chance: then the labels are not in the order of
    its outputs.
    """
    judge = _Judge(run, samples)
    names = NAMES if frame.channels == 3 else tuple(USUAL)
    guesses = sorted((judge.judge(name, usual(name, frame)) for name in names), key=_quality, reverse=True)
    best = guesses[0]
    if best.accuracy * judge.classes < _CHANCE:
        raise AccuracyRefused(
            f"with none of the usual pre-processings does the model answer better than chance ({best.accuracy:.3f} right of "
            f"{judge.classes} classes); give the classes in the order of its outputs with --classes, or write a recipe"
        )
    return guesses


def _quality(guess: Guess) -> tuple[float, float]:
    return guess.accuracy, guess.confidence


class _Judge:
    """Decodes each image once for all pre-processings."""

    def __init__(self, run: Run, samples: Sequence[LabelledImage]) -> None:
        step = max(1, len(samples) // IMAGES)
        self._asked = [(images.decode(each.image), each.label) for each in samples[::step][:IMAGES]]
        self._run = run
        self.classes = 1

    def judge(self, name: str, wanted: Preprocessing) -> Guess:
        """How often the model is right with ``wanted``, and how sure it is of the right answer."""
        answers = [(self._run(preprocess(picture, wanted)).ravel(), label) for picture, label in self._asked]
        self.classes = len(answers[0][0])
        right = sum(int(scores.argmax()) == label for scores, label in answers)
        confidence = sum(_share(scores, label) for scores, label in answers)
        return Guess(name, wanted, right / len(answers), confidence / len(answers))


def _share(scores: NDArray[Any], label: int) -> float:
    import numpy as np

    if not np.isfinite(scores).all() or label >= len(scores):
        return 0.0
    raised = np.exp(scores.astype(np.float64) - scores.max())
    return float(raised[label] / raised.sum())
