"""A board profile: the one description of a device type that all three programs read (SPEC 2).

Text in, value out; the programs read ``firmware_configs/*.toml`` themselves.
"""

from __future__ import annotations

import tomllib
from typing import Literal

import msgspec

from fleet_protocol.errors import MalformedBoard, MalformedIdentifier
from fleet_protocol.identifiers import board_name

RuntimeName = Literal[
    "onnxruntime", "openvino", "litert", "tflite-runtime", "edgetpu", "hailo", "tensorrt", "null",
]  # fmt: skip
Architecture = Literal["x86_64", "aarch64", "armv7l"]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are errors: a misspelt limit must not silently become a default."""


class Hardware(_Table, frozen=True):
    """What the board is. ``memory_mib``: RAM fitted; ``cores``: CPU cores that inference may use."""

    architecture: Architecture
    memory_mib: int
    cores: int


class RuntimeProfile(_Table, frozen=True):
    """What runs a model here. ``precisions`` in the order of preference; ``threads``: intra-op threads."""

    name: RuntimeName
    min_version: str
    precisions: tuple[Literal["fp32", "fp16", "int8"], ...]
    threads: int


class Limits(_Table, frozen=True):
    """Budgets: p95 of one inference (ms), resident memory of a worker (MiB), disk kept free (MiB), temperature (°C)."""

    latency_p95_ms: float
    worker_memory_mib: int
    reserve_disk_mib: int
    throttle_celsius: float


class Telemetry(_Table, frozen=True):
    """Cadence: seconds between health reports; ``spool_mib``: most disk that unsent reports may take."""

    health_interval_s: float
    spool_mib: int


class ImageLayout(_Table, frozen=True):
    """How a card for this board is made: who consumes first-boot configuration, where the boot partition is mounted, and
    the Python and glibc that wheels are chosen for (used by ``fleetctl image``).
    """

    consumer: Literal["cloud-init", "firstrun", "edgefleet"]
    boot_mount: str
    python: str
    glibc: str


class Board(_Table, frozen=True):
    """One board. Made by :func:`parse` only."""

    name: str
    title: str
    hardware: Hardware
    runtime: RuntimeProfile
    limits: Limits
    telemetry: Telemetry
    image: ImageLayout


def parse(text: str) -> Board:
    """Parse a board's TOML; raises MalformedBoard naming the key that is wrong, missing or unknown."""
    try:
        board = msgspec.convert(tomllib.loads(text), Board, strict=True)
        board_name(board.name)
    except tomllib.TOMLDecodeError as error:
        raise MalformedBoard(f"not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise MalformedBoard(f"board profile: {error}") from error
    except MalformedIdentifier as error:
        raise MalformedBoard(str(error)) from error
    if not board.runtime.precisions:
        raise MalformedBoard(f"board {board.name} names no precision in runtime.precisions")
    return board
