"""Ranges, kept for every later compilation on the same images: another gate or board needs no new calibration."""

from __future__ import annotations

import contextlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet_protocol.errors import DiskFull
from fleet_protocol.identifiers import Digest, digest_of
from model_compiler.errors import CannotWrite
from model_compiler.files import make_directory, written_whole
from model_compiler.stages.calibrate import BINS, Ranges

MAX_ENTRIES: Final = 32
MAX_BYTES: Final = 512 << 20


@dataclass(frozen=True, slots=True)
class RangeStore:
    """Files below ``directory`` (None: nothing is kept); ``toolchain`` goes into every name, as a new one measures anew."""

    directory: Path | None
    toolchain: Digest

    def ranges(self, *inputs: bytes) -> Ranges | None:
        """The ranges that were found for the same ``inputs``; None where there are none, or they were damaged since."""
        path = self._path(*inputs)
        if path is None:
            return None
        try:
            with path.open("rb") as stream:
                return _decoded(stream.read(MAX_BYTES))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def keep(self, ranges: Ranges, *inputs: bytes) -> None:
        """Keep ``ranges`` for these ``inputs``, where the disk permits, and drop the oldest beyond 32."""
        path = self._path(*inputs)
        if path is None:
            return
        with contextlib.suppress(CannotWrite, DiskFull, FileNotFoundError):
            make_directory(path.parent)
            with written_whole(path) as stream:
                stream.write(_encoded(ranges))
            for old in sorted(path.parent.glob("*.npz"), key=lambda each: each.stat().st_mtime_ns)[:-MAX_ENTRIES]:
                old.unlink()

    def _path(self, *inputs: bytes) -> Path | None:
        if self.directory is None:
            return None
        fields = (self.toolchain.encode(), *inputs)
        return (
            self.directory
            / "ranges"
            / f"{digest_of(b''.join(len(each).to_bytes(8, 'big') + each for each in fields))}.npz"
        )


def _encoded(ranges: Ranges) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    names = np.array(ranges.names, dtype=np.str_)
    np.savez_compressed(stream, names=names, low=ranges.low, high=ranges.high, counts=ranges.counts)
    return stream.getvalue()


def _decoded(content: bytes) -> Ranges:
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        ranges = Ranges(tuple(str(name) for name in found["names"]), found["low"], found["high"], found["counts"])
    if not ranges.low.shape == ranges.high.shape == (len(ranges.names),) or ranges.counts.shape[1:] != (BINS,):
        raise ValueError("the arrays do not belong together")
    return ranges
