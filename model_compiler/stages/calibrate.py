"""Stage 4: the range of every activation, from two passes over the images in bounded memory.

The first pass finds minimum and maximum, the second counts values in bins between them; every clipping is then made
from the counts without running the model again. (ONNX Runtime's own calibrator keeps all activations: 6 GB for 100
images.) Counts are integers, so neither the number of threads nor their timing changes the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Preprocessing
from model_compiler import images, progress
from model_compiler.errors import MalformedModel
from model_compiler.images import Image
from model_compiler.onnx_session import OnnxSession
from model_compiler.parallel import in_order
from model_compiler.stages.normalise import FloatModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Low = NDArray[np.float64]
    Counts = NDArray[np.int64]

BINS: Final = 2048


@dataclass(frozen=True, slots=True)
class Ranges:
    """Per activation ``names[i]``: ``low[i]`` to ``high[i]`` was seen, ``counts[i]`` values in each of ``BINS`` equal bins."""

    names: tuple[str, ...]
    low: Low
    high: Low
    counts: Counts

    def clipped(self, share: float) -> dict[str, tuple[float, float]]:
        """Ranges that leave at most ``1 - share`` of the values outside on each side; ``share`` is above 0.5, 1.0 clips nothing."""
        return {name: self._clip(index, share) for index, name in enumerate(self.names)}

    def least_error(self, shares: Sequence[float]) -> dict[str, tuple[float, float]]:
        """For every activation the range among those of ``shares`` that loses least when it is cut into 255 steps."""
        return {
            name: min((self._clip(index, share) for share in shares), key=lambda range_: self._error(index, *range_))
            for index, name in enumerate(self.names)
        }

    def _error(self, index: int, low: float, high: float) -> float:
        """Sum of squared errors of the counted values in 255 steps from ``low`` to ``high``, both widened to include zero."""
        import numpy as np

        low, high = min(low, 0.0), max(high, 0.0)
        width = (float(self.high[index]) - float(self.low[index])) / BINS
        centres = float(self.low[index]) + width * (np.arange(BINS) + 0.5)
        beyond = centres - np.clip(centres, low, high)
        # Inside the range a value is on average a twelfth of a squared step away from what it is rounded to.
        rounding = np.where(beyond == 0.0, ((high - low) / 255) ** 2 / 12, 0.0)
        return float((self.counts[index] * (beyond**2 + rounding)).sum())

    def _clip(self, index: int, share: float) -> tuple[float, float]:
        import numpy as np

        low, high, counts = float(self.low[index]), float(self.high[index]), self.counts[index]
        if share >= 1.0:
            return low, high
        allowed = (1.0 - share) * float(counts.sum())
        width = (high - low) / BINS
        below = int(np.searchsorted(np.cumsum(counts), allowed, side="right"))
        above = int(np.searchsorted(np.cumsum(counts[::-1]), allowed, side="right"))
        return low + below * width, high - above * width


def calibrate(
    model: FloatModel,
    names: tuple[str, ...],
    pictures: Sequence[Image],
    wanted: Preprocessing,
    jobs: int,
    report: progress.Report,
) -> Ranges:
    """Ranges of the activations ``names`` over ``pictures``; raises MalformedModel where an activation is not finite."""
    import numpy as np

    tapped = _Tapped(model, names, wanted)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    extremes = in_order(tapped.extremes, pictures, jobs)
    for least, most in progress.tracked(report, "ranges", extremes, len(pictures)):
        low, high = np.minimum(low, least), np.maximum(high, most)
    counts = np.zeros((len(names), BINS), np.int64)
    histograms = in_order(lambda picture: tapped.histograms(picture, low, high), pictures, jobs)
    for each in progress.tracked(report, "histograms", histograms, len(pictures)):
        counts += each
    return Ranges(names, low, high, counts)


class _Tapped:
    """The model with every wanted activation as an output, run as written: no fusion may hide one."""

    def __init__(self, model: FloatModel, names: tuple[str, ...], wanted: Preprocessing) -> None:
        import onnx

        graph = onnx.load_from_string(model.content)
        del graph.graph.output[:]
        graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != model.input.name)
        self._session = OnnxSession(graph.SerializeToString(), optimised=False)
        self._wanted = wanted
        self._has_input = model.input.name in names
        self._input_place = names.index(model.input.name) if self._has_input else 0

    def extremes(self, picture: Image) -> tuple[Low, Low]:
        """Minimum and maximum of every activation for one picture."""
        import numpy as np

        tensors = self._activations(picture)
        low = np.array([float(each.min()) for each in tensors])
        high = np.array([float(each.max()) for each in tensors])
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise MalformedModel(
                f"the model gives NaN or infinity for {picture.path}; it cannot be calibrated on that image"
            )
        return low, high

    def histograms(self, picture: Image, low: Low, high: Low) -> Counts:
        """For one picture, how many values of every activation fall into each bin between ``low`` and ``high``."""
        import numpy as np

        tensors = self._activations(picture)
        return np.stack([_histogram(each, low[i], high[i]) for i, each in enumerate(tensors)])

    def _activations(self, picture: Image) -> list[NDArray[Any]]:
        tensor = preprocess(images.decode(picture), self._wanted)
        tensors = self._session.run([tensor])
        if self._has_input:
            tensors.insert(self._input_place, tensor)
        return tensors


def _histogram(values: NDArray[Any], low: float, high: float) -> Counts:
    import numpy as np

    per_bin = BINS / (high - low) if high > low else 0.0
    bins = ((values.ravel() - low) * per_bin).astype(np.int32)
    return np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
