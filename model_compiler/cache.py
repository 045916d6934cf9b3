"""Finished packages, by the digest of everything that went into them: the same inputs compile once.

Each with the record of how it came about; :func:`record_of` finds a package's record wherever its file is now.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from fleet_protocol import package
from fleet_protocol.errors import FleetError
from fleet_protocol.identifiers import Digest, digest_of
from model_compiler.drafting import Draft
from model_compiler.errors import MalformedRecord
from model_compiler.files import make_directory, written_whole
from model_compiler.inputs import Inputs
from model_compiler.report import record
from model_compiler.report.record import Record

MAX_ENTRIES: Final = 64


def default_directory() -> Path:
    """``$XDG_CACHE_HOME/edgefleet/compiler``, by default under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "edgefleet" / "compiler"


def key_of(inputs: Inputs, toolchain: Digest) -> Digest:
    """SHA-256 over the digests of the model, both image sets, labels, recipe, boards and ``toolchain``."""
    parts = (
        inputs.source.digest,
        inputs.calibration_digest,
        inputs.evaluation_digest,
        inputs.settings_digest,
        toolchain,
    )
    return Digest(hashlib.sha256("\n".join(parts).encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Finished:
    """A package file and the record of its compilation."""

    package: bytes
    record: Record


@dataclass(frozen=True, slots=True)
class PackageCache:
    """A directory of ``<key>.efpkg`` and ``<digest of the package>.record.json`` files; the 64 used last of each are kept."""

    directory: Path

    def find(self, key: Digest) -> Finished | None:
        """What was made from the same inputs before; None where nothing was, or where it was damaged since."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            package.read(io.BytesIO(content))
            os.utime(path)
        except OSError:
            return None
        except FleetError:
            # A damaged entry is only a lost hour: the compiler makes it again.
            path.unlink(missing_ok=True)
            return None
        found = self.record_of(digest_of(content))
        return Finished(content, found) if found else None

    def record_of(self, digest: Digest) -> Record | None:
        """The record of the package whose file has ``digest``; None where it is not known here."""
        try:
            with self._record_path(digest).open("rb") as stream:
                found = record.decode(stream.read(record.MAX_BYTES + 1))
            os.utime(self._record_path(digest))
            return found
        except (OSError, MalformedRecord):
            return None

    def draft(self, key: Digest) -> Draft | None:
        """The recipe that the same words meant before; None where there is none."""
        try:
            found = msgspec.json.decode(self._draft_path(key).read_bytes(), type=Draft)
            os.utime(self._draft_path(key))
        except (OSError, msgspec.DecodeError):
            return None
        return found

    def keep_draft(self, key: Digest, draft: Draft) -> None:
        """Remember what words mean; raises CannotWrite or DiskFull."""
        make_directory(self.directory)
        self._write(self._draft_path(key), msgspec.json.encode(draft))
        self._drop_oldest("*.draft.json")

    def _draft_path(self, key: Digest) -> Path:
        return self.directory / f"{key}.draft.json"

    def journal(self, key: Digest) -> Path | None:
        """Where the search for ``key`` may note what it measured; None where nothing can be written. Makes nothing."""
        existing = next(path for path in (self.directory, *self.directory.parents) if path.exists())
        return self.directory / f"{key}.search" if existing.is_dir() and os.access(existing, os.W_OK) else None

    def keep(self, key: Digest, finished: Finished) -> None:
        """Add a package and its record, drop the least recently used beyond the limit; raises CannotWrite or DiskFull."""
        make_directory(self.directory)
        # The record first: a package without one is no entry.
        self._write(self._record_path(digest_of(finished.package)), record.encode(finished.record))
        self._write(self._path(key), finished.package)
        for pattern in ("*.efpkg", "*.record.json", "*.search"):
            self._drop_oldest(pattern)

    def _write(self, path: Path, content: bytes) -> None:
        with written_whole(path) as stream:
            stream.write(content)

    def _drop_oldest(self, pattern: str) -> None:
        # Another compilation may be dropping the same entries; then it does the work.
        with contextlib.suppress(FileNotFoundError):
            entries = sorted(self.directory.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
            for path in entries[:-MAX_ENTRIES]:
                path.unlink()

    def _path(self, key: Digest) -> Path:
        return self.directory / f"{key}.efpkg"

    def _record_path(self, digest: Digest) -> Path:
        return self.directory / f"{digest}.record.json"
