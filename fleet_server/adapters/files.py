"""Files that are either the old one or the new one, whatever happens in between."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file that is being written and has no name yet that anybody reads."""

    stream: IO[bytes]
    path: Path

    def keep_as(self, final: Path, mode: int = PRIVATE) -> None:
        """Give the finished file its name: on disk before the name, the name on disk before this returns."""
        self.stream.flush()
        os.fchmod(self.stream.fileno(), mode)
        os.fsync(self.stream.fileno())
        self.path.replace(final)
        sync_directory(final.parent)


@contextmanager
def new_file(directory: Path) -> Iterator[StagedFile]:
    """A temporary file in ``directory`` (mode 0600), gone at the end unless ``keep_as`` was called."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".new-", delete=False) as stream:
        staged = StagedFile(stream, Path(stream.name))
        try:
            yield staged
        finally:
            staged.path.unlink(missing_ok=True)


def write_file(path: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Replace ``path`` with ``content`` in one step that survives a power cut."""
    with new_file(path.parent) as staged:
        staged.stream.write(content)
        staged.keep_as(path, mode)


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
