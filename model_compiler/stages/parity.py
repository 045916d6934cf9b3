"""Stage 3: the normalised model must compute what the source computes, on real images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from model_compiler.errors import ParityBroken
from model_compiler.onnx_session import OnnxSession

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from model_compiler.samples import CalibrationSet
    from model_compiler.targets import Session

IMAGES: Final = 8
CONVERSION_IMAGES: Final = 4
_NEWEST_IR: Final = 10
TOLERANCE: Final = 1e-3
"""Largest difference, as a share of the largest output: folding reorders float32 sums, about 1e-6 where it is right."""


def runnable(source: ModelProto) -> bytes:
    """The source as it is, its container's version lowered where this runtime would refuse the number."""
    import onnx

    # The IR version numbers the container, not the arithmetic; a new onnx writes its newest even for an old opset.
    copy = onnx.ModelProto()
    copy.CopyFrom(source)
    copy.ir_version = min(copy.ir_version, _NEWEST_IR)
    content: bytes = copy.SerializeToString()
    return content


def check_parity(source: bytes, normalised: bytes, tensors: Iterable[NDArray[Any]]) -> float:
    """The largest relative difference over ``tensors``; raises ParityBroken above the tolerance."""
    before, after = OnnxSession(source), OnnxSession(normalised)
    worst = max(_difference(before.run([each]), after.run([each])) for each in tensors)
    if not worst <= TOLERANCE:
        raise ParityBroken(
            f"the normalised model differs from the source by {worst:.2g} of its largest output (at most {TOLERANCE}); "
            "export the model with static shapes and opset 17"
        )
    return worst


def check_conversion(model: bytes, converted: Session, samples: CalibrationSet, runtime: str) -> float:
    """The largest relative difference between the normalised model and another runtime's float file, on a few images.

    Raises ParityBroken above the tolerance, or where an output has another shape: a converter that is wrong is wrong loudly.
    """
    original, worst = OnnxSession(model), 0.0
    for each in samples.some(CONVERSION_IMAGES).tensors():
        expected, got = original.run([each]), converted.run([each])
        shapes = [[tensor.shape for tensor in tensors] for tensors in (expected, got)]
        if shapes[0] != shapes[1]:
            raise ParityBroken(f"converted for {runtime}, the model gives {shapes[1]} instead of {shapes[0]}")
        worst = max(worst, _difference(expected, got))
    if not worst <= TOLERANCE:
        raise ParityBroken(
            f"converted for {runtime}, the model differs by {worst:.2g} of its largest output (at most {TOLERANCE}); "
            f"leave {runtime}'s boards out of the recipe"
        )
    return worst


def _difference(expected: list[NDArray[Any]], got: list[NDArray[Any]]) -> float:
    import numpy as np

    pairs = zip(expected, got, strict=True)
    return max(float(np.abs(have - want).max() / max(1e-6, float(np.abs(want).max()))) for want, have in pairs)
