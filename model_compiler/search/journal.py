"""What the search has measured, on disk line by line: an interrupted search goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from model_compiler.errors import CannotWrite
from model_compiler.files import make_directory
from model_compiler.stages.quantize import Scheme

_MAX_BYTES: Final = 8 << 20


class Journal:
    """Noise by scheme, for one compilation of one runtime; without a path it lives in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        """Read what is there; a line that was cut by a crash is left out, as if it had not been measured."""
        self._path = path
        self._known = _read(path) if path else {}

    def find(self, scheme: Scheme) -> float | None:
        """The noise measured for ``scheme`` before; None where there is none."""
        return self._known.get(_key(scheme))

    def keep(self, scheme: Scheme, noise: float) -> None:
        """Remember a measurement, on disk when this returns; raises CannotWrite."""
        self._known[_key(scheme)] = noise
        if self._path is None:
            return
        # It begins with a new line too: the one before it may have been cut.
        line = "\n" + json.dumps([_key(scheme), noise.hex()]) + "\n"
        try:
            make_directory(self._path.parent)
            with self._path.open("ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise CannotWrite(f"the search cannot keep its journal {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """The search is over: its result is kept elsewhere, the journal goes."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _key(scheme: Scheme) -> str:
    return json.dumps([scheme.clipping, *scheme.excluded])


def _read(path: Path) -> dict[str, float]:
    known: dict[str, float] = {}
    try:
        with path.open("rb") as stream:
            lines = stream.read(_MAX_BYTES).split(b"\n")
    except OSError:
        return known
    for line in lines[:-1]:
        try:
            key, noise = json.loads(line)
            known[str(key)] = float.fromhex(noise)
        except (ValueError, TypeError):
            continue
    return known
