"""Boards that have only the old tflite-runtime: the same files as LiteRT, judged by LiteRT (the old one wants numpy 1)."""

from __future__ import annotations

from typing import Final

from fleet_protocol.board import RuntimeName
from model_compiler.targets.litert import (
    CALIBRATED,
    PACKAGES,
    PRECISIONS,
    candidates,
    from_qdq,
    joined,
    open_session,
    parts,
    preprocessing,
)

RUNTIME: Final[RuntimeName] = "tflite-runtime"
PREFIX: Final = "tflrt"

__all__ = [
    "CALIBRATED",
    "PACKAGES",
    "PRECISIONS",
    "PREFIX",
    "RUNTIME",
    "candidates",
    "from_qdq",
    "joined",
    "open_session",
    "parts",
    "preprocessing",
]
