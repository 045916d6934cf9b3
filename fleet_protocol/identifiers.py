"""Names and digests that cross a border, each made by exactly one parser (SPEC 1)."""

from __future__ import annotations

import hashlib
import re
from typing import Final, NewType

from fleet_protocol.errors import MalformedIdentifier

FleetId = NewType("FleetId", str)
DeviceId = NewType("DeviceId", str)
BoardName = NewType("BoardName", str)
SlotName = NewType("SlotName", str)
ModelName = NewType("ModelName", str)
ModelVersion = NewType("ModelVersion", str)
VariantName = NewType("VariantName", str)
Digest = NewType("Digest", str)
"""SHA-256 as 64 lower-case hexadecimal digits."""

BUCKETS: Final = 10_000
"""Rollouts choose devices by a window over this many buckets (SPEC 9.2)."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_VERSION: Final = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.+]{0,31})")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def _name(kind: str, text: str) -> str:
    # SPEC 1.1: the alphabet has no MQTT wildcard, no path separator and no dot, so a name is safe in a topic and a path.
    if not _NAME.fullmatch(text):
        raise MalformedIdentifier(
            f"a {kind} is 1-63 lower-case letters, digits, inner hyphens or underscores, got {text[:80]!r}"
        )
    return text


def fleet_id(text: str) -> FleetId:
    """Parse a fleet's name; raises MalformedIdentifier."""
    return FleetId(_name("fleet name", text))


def device_id(text: str) -> DeviceId:
    """Parse a device's name; raises MalformedIdentifier."""
    return DeviceId(_name("device id", text))


def board_name(text: str) -> BoardName:
    """Parse a board's name; raises MalformedIdentifier."""
    return BoardName(_name("board name", text))


def slot_name(text: str) -> SlotName:
    """Parse a slot's name; raises MalformedIdentifier."""
    return SlotName(_name("slot name", text))


def model_name(text: str) -> ModelName:
    """Parse a model's name; raises MalformedIdentifier."""
    return ModelName(_name("model name", text))


def variant_name(text: str) -> VariantName:
    """Parse a variant's name; raises MalformedIdentifier."""
    return VariantName(_name("variant name", text))


def model_version(text: str) -> ModelVersion:
    """Parse a model's version, e.g. ``1.2.0`` (no hyphen: it separates the variant in a target path, SPEC 4.2)."""
    if not _VERSION.fullmatch(text):
        raise MalformedIdentifier(f"a model version is 1-32 letters, digits, dots or plus signs, got {text[:80]!r}")
    return ModelVersion(text)


def digest(text: str) -> Digest:
    """Parse a SHA-256 written as 64 lower-case hexadecimal digits; raises MalformedIdentifier."""
    if not _DIGEST.fullmatch(text):
        raise MalformedIdentifier(f"a digest is 64 lower-case hexadecimal digits, got {text[:80]!r}")
    return Digest(text)


def digest_of(content: bytes | bytearray | memoryview) -> Digest:
    """SHA-256 of ``content``."""
    return Digest(hashlib.sha256(content).hexdigest())


def bucket_of(device: DeviceId) -> int:
    """The device's place in 0..9999, stable for its life: the first 8 bytes of SHA-256 of its id, modulo 10000 (SPEC 9.2)."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") % BUCKETS
