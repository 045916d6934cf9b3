"""What devices say over MQTT: msgspec structs as MessagePack arrays, schema in slot 0, fields only ever appended (SPEC 10.1).

The device's identity is never in a payload: it is the topic's, which the broker ties to the certificate (SPEC 7.1).
"""

from __future__ import annotations

from typing import ClassVar, Final, TypeVar

import msgspec

from fleet_protocol.errors import InputTooLarge, MalformedMessage
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.states import DeploymentState

MAX_BYTES: Final = 16_384


class Message(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Base of every message; ``schema`` is the number in slot 0 of the array."""

    SCHEMA: ClassVar[int] = 1

    schema: int = 1


class SlotHealth(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One slot over the last interval. ``served_sha256`` is what the runtime holds now, empty where it serves nothing.

    ``latency`` is an encoded sketch of milliseconds per frame (SPEC 10.3); ``predictions`` counts the top-1 class of each
    frame, by label index, truncated after 64 classes.
    """

    slot: str
    served_sha256: str
    model: str
    version: str
    frames: int
    errors: int
    dropped: int
    fps: float
    latency: bytes
    predictions: tuple[int, ...] = ()


class HealthReport(Message, frozen=True, kw_only=True):
    """Device to server, every ``health_interval_s`` (SPEC 10.2). Units are in the telemetry registry."""

    seq: int
    at: float
    boot_id: str
    agent_version: str
    fingerprint: Fingerprint
    uptime_s: float
    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    agent_rss_bytes: int
    disk_free_bytes: int
    temperature_celsius: float | None
    assignment_seq: int
    root_version: int
    timestamp_version: int
    trusted_time: float
    clock_offset_s: float
    spool_depth: int
    spool_dropped: int
    slots: tuple[SlotHealth, ...]


class DeploymentReport(Message, frozen=True, kw_only=True):
    """Device to server, at each change of state (SPEC 8.4).

    ``execution`` numbers the attempts of a device at any assignment, ``version`` the reports of one execution: the
    server accepts only a higher (execution, version). ``code`` is a FleetError code where the state is unsuccessful.
    """

    assignment_seq: int
    execution: int
    version: int
    slot: str
    manifest_sha256: str
    state: DeploymentState
    at: float
    code: str = ""
    detail: str = ""
    chunks_done: int = 0
    chunks_total: int = 0
    served_sha256: str = ""


class MissingChunks(Message, frozen=True, kw_only=True):
    """Device to server: chunks that did not come although subscribed (SPEC 7.5).

    ``bitmap`` has bit ``i`` (LSB first in each byte) set for every message index that is still missing.
    """

    blob_sha256: str
    blob_bytes: int
    bitmap: bytes


class Presence(Message, frozen=True, kw_only=True):
    """Device to server, retained; the broker publishes ``online=False`` as the last will (SPEC 7.1)."""

    online: bool
    boot_id: str
    agent_version: str = ""


MessageT = TypeVar("MessageT", bound=Message)


def encode(message: Message) -> bytes:
    """MessagePack bytes of ``message``."""
    return msgspec.msgpack.encode(message)


def encode_json(message: Message) -> bytes:
    """JSON bytes of ``message``, for the sibling ``/json`` topics and for people."""
    return msgspec.json.encode(message)


def decode(content: bytes, kind: type[MessageT], *, is_json: bool = False) -> MessageT:
    """Parse a message of ``kind``; raises MalformedMessage or InputTooLarge. Unknown appended fields are ignored."""
    if len(content) > MAX_BYTES:
        raise InputTooLarge(f"a message has at most {MAX_BYTES} bytes, got {len(content)}")
    decoder = msgspec.json.decode if is_json else msgspec.msgpack.decode
    try:
        message = decoder(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError
        raise MalformedMessage(f"not a {kind.__name__}: {error}") from error
    if message.schema < kind.SCHEMA:
        raise MalformedMessage(f"{kind.__name__} needs schema {kind.SCHEMA} or newer, got {message.schema}")
    return message
