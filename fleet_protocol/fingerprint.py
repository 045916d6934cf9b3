"""What a device can run, and whether a manifest fits it (SPEC 3.5)."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fleet_protocol.errors import FleetError, WrongBoard, WrongRuntime
from fleet_protocol.manifest import Manifest

_NUMBER: Final = re.compile(r"\d+")


class Fingerprint(msgspec.Struct, frozen=True, array_like=True):
    """Board, runtime, its version, machine architecture: as measured on the device, never as configured."""

    board: str
    runtime: str
    runtime_version: str
    architecture: str


def version_key(version: str) -> tuple[int, ...]:
    """``"1.28.0"`` as (1, 28, 0); anything after the third number is ignored, so builds of one release are equal."""
    return tuple(int(number) for number in _NUMBER.findall(version)[:3])


def mismatch(manifest: Manifest, fingerprint: Fingerprint) -> FleetError | None:
    """Why ``manifest`` must not run on a device with ``fingerprint``; None where it may. The server asks the same."""
    if fingerprint.board not in manifest.boards:
        return WrongBoard(f"made for {', '.join(manifest.boards)}, this board is {fingerprint.board}")
    wanted = manifest.runtime
    if fingerprint.runtime != wanted.name:
        return WrongRuntime(f"needs {wanted.name}, this device runs {fingerprint.runtime}")
    if version_key(fingerprint.runtime_version) < version_key(wanted.min_version):
        return WrongRuntime(
            f"needs {wanted.name} {wanted.min_version} or newer, this device has {fingerprint.runtime_version}"
        )
    if fingerprint.architecture not in wanted.architectures:
        return WrongRuntime(f"made for {', '.join(wanted.architectures)}, this device is {fingerprint.architecture}")
    return None
