"""What agent and worker say to each other: length-prefixed MessagePack over a socket pair, one answer per request.

A frame's pixels never pass here: they lie in memory that both map, a request only gives their shape.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Final, Generic, TypeVar

import msgspec

from fleet_protocol.errors import MalformedMessage

MAX_MESSAGE_BYTES: Final = 256 * 1024
"""More than the largest request: a manifest of 64 KiB and a path."""
NOTHING: Final = -1
_LENGTH: Final = struct.Struct(">I")


class _Said(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of every request and answer."""


class Load(_Said, frozen=True):
    """Open ``blob`` (path of the ciphertext) with ``key`` for ``manifest`` (canonical bytes) and load it.

    ``threads``: intra-op threads; ``memory_mib``: private memory that the process may have from here on.
    """

    blob: str
    key: bytes
    manifest: bytes
    board: str
    threads: int
    memory_mib: int

    def __repr__(self) -> str:
        return f"Load({self.blob})"  # the content key is never printed


class Prove(_Said, frozen=True):
    """Replay the golden frames and measure."""


class Infer(_Said, frozen=True):
    """Run the frame of ``height`` x ``width`` 8-bit BGR pixels that lies in the shared memory."""

    height: int
    width: int


class Loaded(_Said, frozen=True):
    """The model is in memory and has run once."""


class Proved(_Said, frozen=True):
    """The golden frames agree and the latency is within the budget."""

    frames: int
    worst_error: float
    latency_p95_ms: float


class Box(_Said, frozen=True):
    """One object: the index of its label, its score (0..1), its corners in pixels of the frame."""

    index: int
    score: float
    left: float
    top: float
    right: float
    bottom: float


class Inferred(_Said, frozen=True):
    """One frame's answer: ``index`` of the best label, or ``NOTHING`` where a detector found no object.

    ``boxes``: all that a detector found, best first. ``values``: a segmenter's share of pixels per label, or a vector.
    """

    index: int
    confidence: float
    boxes: tuple[Box, ...] = ()
    values: tuple[float, ...] = ()


class FrameFailed(_Said, frozen=True):
    """This frame could not be inferred; the worker goes on."""

    reason: str


class Refused(_Said, frozen=True):
    """A FleetError of the worker: its code and its sentence."""

    code: str
    reason: str


Request = Load | Prove | Infer
Answer = Loaded | Proved | Inferred | FrameFailed | Refused
SaidT = TypeVar("SaidT")


class Channel(Generic[SaidT]):
    """One end of the socket pair; ``incoming`` is the union of what the other end may say."""

    def __init__(self, end: socket.socket, incoming: object) -> None:
        self._end = end
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, said: Request | Answer, limit_s: float | None) -> None:
        """Raises OSError (BrokenPipeError above all) where the other end is gone, TimeoutError where it does not read."""
        body = self._encoder.encode(said)
        self._end.settimeout(limit_s)
        self._end.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self, limit_s: float | None) -> SaidT:
        """The next message. Raises EOFError (the other end is gone), TimeoutError, MalformedMessage."""
        deadline = None if limit_s is None else time.monotonic() + limit_s
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size, deadline))
        if length > MAX_MESSAGE_BYTES:
            raise MalformedMessage(f"a worker's message has at most {MAX_MESSAGE_BYTES} bytes, got {length}")
        try:
            said: SaidT = self._decoder.decode(self._exactly(length, deadline))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedMessage("not a message between agent and worker") from error
        return said

    def _exactly(self, count: int, deadline: float | None) -> bytes:
        received = bytearray()
        while len(received) < count:
            self._end.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))
            try:
                piece = self._end.recv(count - len(received))
            except ConnectionError as error:
                raise EOFError("the other end is gone") from error
            if not piece:
                raise EOFError("the other end is gone")
            received += piece
        return bytes(received)
