"""Finished packages, by the digest of everything that went into them: the same inputs compile once."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet_protocol import package
from fleet_protocol.errors import FleetError
from fleet_protocol.identifiers import Digest
from model_compiler.files import make_directory, written_whole
from model_compiler.inputs import Inputs

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
class PackageCache:
    """A directory of ``<key>.efpkg`` files; the 64 used last are kept."""

    directory: Path

    def find(self, key: Digest) -> bytes | None:
        """The package made from the same inputs before; None where there is none, or where it was damaged since."""
        path = self._path(key)
        try:
            with path.open("rb") as stream:
                package.read(stream)
                stream.seek(0)
                content = stream.read()
            os.utime(path)
        except OSError:
            return None
        except FleetError:
            # A damaged entry is only a lost hour: the compiler makes it again.
            path.unlink(missing_ok=True)
            return None
        return content

    def keep(self, key: Digest, content: bytes) -> None:
        """Add a package and drop the least recently used beyond the limit; raises CannotWrite or DiskFull."""
        make_directory(self.directory)
        with written_whole(self._path(key)) as stream:
            stream.write(content)
        # Another compilation may be dropping the same entries; then it does the work.
        with contextlib.suppress(FileNotFoundError):
            entries = sorted(self.directory.glob("*.efpkg"), key=lambda path: path.stat().st_mtime_ns)
            for path in entries[:-MAX_ENTRIES]:
                path.unlink()

    def _path(self, key: Digest) -> Path:
        return self.directory / f"{key}.efpkg"
