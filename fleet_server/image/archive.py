"""Entries as a tar file: fixed order, dates and owners; whole or not at all; readable by its owner only."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final

from fleet_server.image.overlay import Entry

_DATE: Final = 1_577_836_800
"""2020-01-01: later than any FAT date limit, and the same for every overlay."""


def write_tar(stream: IO[bytes], entries: Iterable[Entry]) -> None:
    """Write ``entries`` in their order; the same entries give the same bytes."""
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            archive.addfile(_header(entry), io.BytesIO(entry.content or b""))


def save_tar(path: Path, entries: Iterable[Entry]) -> None:
    """Write the tar to ``path``: mode 0600, since it may hold a claim; an interrupted write leaves the old file."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        write_tar(file, entries)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _header(entry: Entry) -> tarfile.TarInfo:
    header = tarfile.TarInfo(entry.path)
    header.mode, header.mtime = entry.mode, _DATE
    header.uname = header.gname = "root"
    if entry.link:
        header.type, header.linkname = tarfile.SYMTYPE, entry.link
    elif entry.content is None:
        header.type = tarfile.DIRTYPE
    else:
        header.size = len(entry.content)
    return header
