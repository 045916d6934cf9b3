"""Results as lines of JSON in a file that is turned over before it grows too large: two files, never more."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.worker.wire import Box

log = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 8 * 1024**2


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One frame's answer. ``at``: capture time (Unix s); ``manifest``: digest of what answered.

    ``index`` is -1 and ``label`` empty where a detector found nothing; ``boxes`` and ``values`` as the worker gave them.
    """

    at: float
    frame: int
    source: str
    label: str
    index: int
    confidence: float
    latency_ms: float
    model: str
    version: str
    manifest: str
    boxes: tuple[Box, ...] = ()
    values: tuple[float, ...] = ()


class ResultLog:
    """Appends to ``path``; at ``max_bytes`` the file becomes ``<path>.1`` and a new one begins. Slots may share one."""

    def __init__(self, path: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._has_complained = False
        self._turn = threading.Lock()

    def append(self, result: Result) -> None:
        """Write one line. A full or broken disk costs the result, not the inference; it is logged once."""
        line = msgspec.json.encode(result) + b"\n"
        with self._turn:
            try:
                self._write(line)
                self._has_complained = False
            except OSError as error:
                self._complain(error)

    def _write(self, line: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        with self._path.open("ab", buffering=0) as file:
            file.write(line)

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            log.warning("results: %s cannot be written (%s); they are lost until it can", self._path, error.strerror)
        self._has_complained = True
