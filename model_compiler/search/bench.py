"""Builds schemes and measures their noise on a few calibration images; each scheme once, also across interruptions."""

from __future__ import annotations

import math
from typing import Final

from model_compiler.metrics import Metric
from model_compiler.metrics.noise import distance
from model_compiler.onnx_session import OnnxSession
from model_compiler.parallel import in_order
from model_compiler.samples import CalibrationSet
from model_compiler.search.journal import Journal
from model_compiler.stages import quantize
from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.quantize import Candidate, Scheme

IMAGES: Final = 48
MAX_TENSOR_BYTES: Final = 64 << 20
"""The images are kept as tensors, as every scheme sees them again: fewer of them where they are large."""


class Bench:
    """One model with its ranges. Noise is measured on ONNX Runtime, whose int8 all runtimes of a QDQ graph agree with."""

    def __init__(
        self, model: FloatModel, ranges: Ranges, samples: CalibrationSet, metric: Metric, journal: Journal, jobs: int
    ) -> None:
        """``samples``: the calibration images, of which at most 48 are used; ``jobs`` threads."""
        self._model, self._ranges, self._metric, self._journal, self._jobs = model, ranges, metric, journal, jobs
        count = max(4, min(IMAGES, MAX_TENSOR_BYTES // model.input.nbytes))
        self._tensors = list(samples.some(count).tensors())
        reference = OnnxSession(model.content)
        self._expected = list(in_order(lambda tensor: reference.run([tensor]), self._tensors, jobs))

    def build(self, scheme: Scheme) -> Candidate:
        """The QDQ graph of ``scheme``; not kept, as rebuilding costs less than memory."""
        return quantize.build(self._model, self._ranges, scheme)

    def noise(self, scheme: Scheme) -> float:
        """Mean distance of the scheme's outputs from fp32's; infinite where they are not finite."""
        known = self._journal.find(scheme)
        if known is not None:
            return known
        session = OnnxSession(self.build(scheme).model)
        pairs = list(zip(self._tensors, self._expected, strict=True))
        found = list(in_order(lambda pair: distance(self._metric, pair[1], session.run([pair[0]])), pairs, self._jobs))
        # fsum: the order of the threads must not show in the last bit.
        noise = math.fsum(found) / len(found)
        self._journal.keep(scheme, noise if math.isfinite(noise) else math.inf)
        return noise
