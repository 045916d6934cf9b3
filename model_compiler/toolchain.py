"""What the result depends on besides the inputs: versions of the packages, the compiler's own code, this CPU."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

import fleet_protocol
from fleet_protocol.identifiers import Digest

_PACKAGES: Final = ("numpy", "onnx", "onnxruntime", "onnxslim", "opencv-python-headless")
_TOOLS: Final = (
    "ai-edge-litert", "ai-edge-quantizer", "nncf", "onnx2tf", "onnxconverter-common", "onnxifier", "openvino", "torch",
)  # fmt: skip
"""What makes the files of single runtimes, or reads a source's format; a machine may lack some."""


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Name to version, for the manifest's provenance."""
    installed = {name: metadata.version(name) for name in sorted({*_PACKAGES, *more})}
    return {"edgefleet": metadata.version("edgefleet"), "python": platform.python_version(), **installed}


def machine() -> str:
    """The CPU's name and how many of its cores this process may use, for people."""
    names = [line.partition(b":")[2].strip() for line in _cpu_model().splitlines() if line.startswith(b"model name")]
    name = names[0].decode(errors="replace") if names else platform.processor() or platform.machine()
    return f"{name}, {cores()} cores, {platform.system()} {platform.machine()}"


def cores() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint() -> Digest:
    """Changes with any package's version, any line of the compiler or the contract, and the CPU model."""
    total = hashlib.sha256(repr(sorted(versions(filter(_is_installed, _TOOLS)).items())).encode())
    for root in (Path(fleet_protocol.__file__).parent, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            total.update(path.relative_to(root).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    # Latencies are part of the result; instruction sets change int8 rounding.
    total.update(platform.machine().encode() + _cpu_model())
    return Digest(total.hexdigest())


def _is_installed(name: str) -> bool:
    return any(True for _ in metadata.distributions(name=name))


def _cpu_model() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return b"\n".join(
        sorted({line for line in lines if line.startswith((b"model name", b"flags", b"Features", b"CPU part"))})
    )
