"""A board profile: the one description of a device type that all three programs read (SPEC 2).

Text in, value out; the programs read ``firmware_configs/*.toml`` themselves.
"""

from __future__ import annotations

import tomllib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fleet_protocol.errors import MalformedBoard, MalformedIdentifier
from fleet_protocol.identifiers import board_name

RuntimeName = Literal[
    "onnxruntime", "openvino", "litert", "tflite-runtime", "edgetpu", "hailo", "tensorrt", "null",
]  # fmt: skip
Architecture = Literal["x86_64", "aarch64", "armv7l"]
Accelerator = Literal["none", "cuda", "edge-tpu", "hailo", "intel-gpu"]
"""``cuda``: an NVIDIA GPU; ``edge-tpu``: Google's, of the Coral products."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are errors: a misspelt limit must not silently become a default."""


class Hardware(_Table, frozen=True):
    """What the board is."""

    architecture: Annotated[Architecture, Meta(description="Instruction set, as `uname -m` says it.")]
    memory_mib: Annotated[int, Meta(gt=0, description="RAM fitted, MiB.")]
    cores: Annotated[int, Meta(gt=0, description="CPU cores that inference may use.")]
    accelerator: Annotated[
        Accelerator,
        Meta(
            description="What is fitted beside the CPU. A fact about the hardware: what runs a model is `runtime.name`."
        ),
    ]


class RuntimeProfile(_Table, frozen=True):
    """What runs a model here."""

    name: Annotated[RuntimeName, Meta(description="The runtime that the agent loads models with.")]
    min_version: Annotated[str, Meta(description="Oldest version of it that a device of this board may have.")]
    precisions: Annotated[
        tuple[Literal["fp32", "fp16", "int8"], ...], Meta(description="Precisions in the order of preference.")
    ]
    threads: Annotated[int, Meta(gt=0, description="Intra-op threads.")]


class Limits(_Table, frozen=True):
    """Budgets that a model has to keep on this board."""

    latency_p95_ms: Annotated[float, Meta(gt=0, description="p95 of one inference, ms.")]
    worker_memory_mib: Annotated[int, Meta(gt=0, description="Resident memory of a worker process, MiB.")]
    reserve_disk_mib: Annotated[int, Meta(ge=0, description="Disk kept free, MiB.")]
    throttle_celsius: Annotated[float, Meta(gt=0, description="Temperature at which the board slows down, °C.")]


class Telemetry(_Table, frozen=True):
    """What a device tells, and how much it keeps while nobody listens."""

    health_interval_s: Annotated[float, Meta(gt=0, description="Seconds between health reports.")]
    spool_mib: Annotated[int, Meta(gt=0, description="Most disk that unsent reports may take, MiB.")]


class ImageLayout(_Table, frozen=True):
    """How a card for this board is made (used by ``fleetctl image``)."""

    consumer: Annotated[
        Literal["cloud-init", "firstrun", "edgefleet"],
        Meta(
            description="Who takes up first-boot configuration: cloud-init, Raspberry Pi OS, or the agent's own unit."
        ),
    ]
    boot_mount: Annotated[str, Meta(description="Where the boot partition is mounted on the running board.")]
    python: Annotated[str, Meta(description="The Python that wheels are chosen for.")]
    glibc: Annotated[str, Meta(description="The glibc that wheels are chosen for.")]


class Board(_Table, frozen=True):
    """One board. Made by :func:`parse` only."""

    name: Annotated[str, Meta(description="The board's name (1.1); a shipped file is called like it.")]
    title: Annotated[str, Meta(description="The board for people: maker, model, operating system.")]
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
