"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fleet_protocol.errors import DiskFull
from model_compiler.errors import CannotWrite


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose contents appear at ``path`` when the block ends well, on disk; otherwise ``path`` stays as it was.

    Raises CannotWrite or DiskFull.
    """
    with _translated(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w+b") as stream:
                yield stream
                stream.flush()
                os.fchmod(stream.fileno(), 0o644)
                os.fsync(stream.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def check_writable(path: Path) -> None:
    """Raise CannotWrite now where ``path`` could not be written later, before minutes of work are spent."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise CannotWrite(
            f"{path} cannot be written; give an existing directory, or a file in one, that you may write to"
        )


def make_directory(path: Path) -> None:
    """Make ``path`` and what is missing above it; raises CannotWrite or DiskFull."""
    with _translated(path):
        path.mkdir(parents=True, exist_ok=True)


def _sync_directory(directory: Path) -> None:
    # The rename itself is only on disk once its directory is.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"no space left to write {path}") from error
        raise CannotWrite(f"{path} cannot be written: {error.strerror}") from error
