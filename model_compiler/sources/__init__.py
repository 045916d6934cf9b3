"""Formats that models come in. What a file is, its first bytes say; every other than ONNX is brought into ONNX once.

The imported graph is compared with the source on its own runtime before anything is made of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

Kind = Literal["onnx", "tflite", "openvino", "torch"]

TITLES: Final[dict[Kind, str]] = {
    "onnx": "ONNX", "tflite": "TensorFlow Lite", "openvino": "OpenVINO IR", "torch": "a PyTorch program",
}  # fmt: skip
_HEAD_BYTES: Final = 4096


def kind_of(content: bytes) -> Kind:
    """What ``content`` is by its first bytes; ONNX, which has no mark of its own, where nothing else fits."""
    head = content[:_HEAD_BYTES]
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.lstrip().startswith(b"<?xml") and b"<net" in head:
        return "openvino"
    return "torch" if head.startswith(b"PK\x03\x04") else "onnx"


def weights_beside(path: Path, kind: Kind) -> Path | None:
    """The second file that a model of this kind consists of: OpenVINO's weights have the name of the XML."""
    return path.with_suffix(".bin") if kind == "openvino" else None
