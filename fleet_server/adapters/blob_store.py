"""Sealed payloads as files, named by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from fleet_protocol import envelope
from fleet_protocol.identifiers import Digest
from fleet_server.adapters.files import new_file
from fleet_server.services.sealing import ContentKeys, SealedBlob


class BlobStore:
    """Ciphertexts as files named by their digest."""

    def __init__(self, root: Path, keys: ContentKeys) -> None:
        self._root = root
        self._keys = keys

    def path(self, blob: Digest) -> Path:
        """Where a blob lies."""
        return self._root / blob

    def seal(self, payload: Iterable[bytes], manifest: Digest) -> SealedBlob:
        """Encrypt ``payload`` under a fresh content key, one pass; the file has its name only when it is whole."""
        key = envelope.generate_key()
        digest, length = hashlib.sha256(), 0
        with new_file(self._root) as staged:
            for piece in envelope.seal(payload, key, manifest):
                digest.update(piece)
                length += len(piece)
                staged.stream.write(piece)
            blob = Digest(digest.hexdigest())
            staged.keep_as(self.path(blob))
        return SealedBlob(blob, length, self._keys.protect(key, manifest, blob))

    def read(self, blob: Digest, start: int, end: int) -> bytes:
        """Bytes ``start`` up to ``end`` of a blob; raises FileNotFoundError where it is not in the store."""
        with self.path(blob).open("rb") as stream:
            stream.seek(start)
            return stream.read(end - start)

    def sweep(self, kept: Collection[Digest]) -> int:
        """Remove every file but ``kept``: what a crash left half written or unnamed. How many there were."""
        strays = [path for path in self._root.iterdir() if path.name not in kept]
        for path in strays:
            path.unlink(missing_ok=True)
        return len(strays)

    def remove(self, blob: Digest) -> None:
        """Forget a blob that no row names. Safe to call twice."""
        self.path(blob).unlink(missing_ok=True)
