"""How good answers are: one metric per task, found by name, or the user's own.

A metric reads each frame's outputs once into a small answer; scores, credits and comparisons come from those answers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol

from fleet_protocol.manifest import Preprocessing
from fleet_protocol.tasks import Postprocessing
from model_compiler.errors import MalformedRecipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENTRY_POINTS: Final = "edgefleet.metrics"
"""Group in which a user's package may announce metrics by name."""

_BY_TASK: Final[dict[str, dict[str, str]]] = {
    "Classification": {
        "top-1": "model_compiler.metrics.classes:Top1",
        "top-5": "model_compiler.metrics.classes:Top5",
        "macro-recall": "model_compiler.metrics.classes:MacroRecall",
    },
    "Detection": {
        "mAP50": "model_compiler.metrics.boxes:Map50",
        "mAP50-95": "model_compiler.metrics.boxes:Map50To95",
    },
    "Segmentation": {"mIoU": "model_compiler.metrics.pixels:MeanIou"},
    "Anomaly": {"AUROC": "model_compiler.metrics.vectors:Auroc"},
    "Embedding": {"cosine": "model_compiler.metrics.vectors:Cosine"},
}
"""Per task its metrics, the default first."""


class Metric(Protocol):
    """Judges the answers of a model. An answer and a truth may be any value; the metric alone looks into them."""

    name: str

    def read(self, outputs: Sequence[NDArray[Any]]) -> Any:
        """What one frame's outputs say, as small as it can be kept."""
        ...

    def truth_of(self, answer: Any) -> Any:
        """What would have been true had ``answer`` been right: for images without a truth, fp32's answer stands for it."""
        ...

    def score(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:
        """How good the answers to all images are, 0..1."""
        ...

    def credits(self, answers: Sequence[Any], truths: Sequence[Any]) -> NDArray[np.float64]:
        """How good each answer is, 0..1: what two models are compared by, image by image."""
        ...

    def groups(self, truths: Sequence[Any]) -> dict[str, NDArray[np.bool_]]:
        """Images that belong together by name, in the order of the names: a model must not give up any group of them."""
        ...


def metric_of(task: Postprocessing, wanted: Preprocessing, name: str = "") -> Metric:
    """The metric called ``name``, by default the task's usual one.

    ``name`` is one of the task's own, the name of an entry point in the group ``edgefleet.metrics``, or
    ``package.module:attribute``: something that takes the task and the pre-processing and gives a :class:`Metric`.
    Raises MalformedRecipe.
    """
    own = _BY_TASK[type(task).__name__]
    announced = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
    chosen = name or next(iter(own))
    reference = own.get(chosen) or announced.get(chosen) or chosen
    if ":" not in reference:
        known = ", ".join((*own, *sorted(announced)))
        raise MalformedRecipe(
            f"no metric is called {name[:80]!r}; known are {known}, or name yours as package.module:name"
        )
    metric = _factory(reference)(task, wanted)
    lacking = [each for each in ("name", "read", "truth_of", "score", "credits", "groups") if not hasattr(metric, each)]
    if lacking:
        raise MalformedRecipe(f"the metric {reference!r} lacks {', '.join(lacking)}")
    return metric


def _factory(reference: str) -> Callable[[Postprocessing, Preprocessing], Metric]:
    module, _, attribute = reference.partition(":")
    try:
        factory: Callable[[Postprocessing, Preprocessing], Metric] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise MalformedRecipe(f"the metric {reference!r} cannot be imported: {error}") from error
    return factory
