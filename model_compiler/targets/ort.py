"""ONNX Runtime on the CPU: fp32 as normalised, int8 as QDQ graphs."""

from __future__ import annotations

from typing import Final

from fleet_protocol.board import RuntimeName
from fleet_protocol.manifest import Precision
from model_compiler.errors import UnwantedVariant
from model_compiler.onnx_session import OnnxSession
from model_compiler.stages import quantize
from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.quantize import Candidate

RUNTIME: Final[RuntimeName] = "onnxruntime"
PREFIX: Final = "ort"
PACKAGES: Final = ("onnxruntime",)
PRECISIONS: Final[frozenset[Precision]] = frozenset({"fp32", "int8"})
CALIBRATED: Final[frozenset[Precision]] = frozenset({"int8"})


def candidates(model: FloatModel, precision: Precision, ranges: Ranges | None) -> list[Candidate]:
    """fp32: the normalised model itself. int8: one candidate per clipping of ``ranges``. Raises UnwantedVariant on others."""
    if precision == "fp32":
        return [Candidate("float", model.content)]
    if precision == "int8" and ranges is not None:
        return quantize.candidates(model, ranges)
    raise UnwantedVariant(f"ONNX Runtime on a CPU has no use for {precision}: it is slower than fp32 there")


def open_session(model: bytes, *, threads: int, optimised: bool) -> OnnxSession:
    """Load ``model``; raises ModelNotLoadable."""
    return OnnxSession(model, threads=threads, optimised=optimised)
