"""Ciphertext on disk: a preallocated file and the bitmap of the chunks that are in it (SPEC 7.4, 7.5).

Only ciphertext is ever written. Data is synced before its bits, so after a power cut the bitmap never promises a chunk
that is not there; what is lost is at most the chunks since the last sync.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge_agent.files import sync_folder
from edge_agent.ports import SealedModel
from fleet_protocol import envelope
from fleet_protocol.errors import DeliveryError, DiskFull, PayloadMismatch
from fleet_protocol.identifiers import Digest, digest

SYNC_CHUNKS: Final = 32
"""Chunks (1 MiB) between two syncs of data and bitmap."""
_READ_BYTES: Final = 1 << 18
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class PartialBlob:
    """A blob on its way: ``<digest>.part`` and ``<digest>.map``. Made by :meth:`BlobStore.begin`."""

    def __init__(self, path: Path, blob_bytes: int) -> None:
        """Open or create both files and reserve the room; raises DiskFull or DeliveryError."""
        self.path = path
        self._map_path = path.with_suffix(".map")
        self._blob_bytes = blob_bytes
        self.total = envelope.message_count(blob_bytes)
        self._unsynced = 0
        self._data = self._bits_file = -1
        try:
            self._open()
        except OSError as error:
            self.close()
            raise _translated(error) from error

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._data = os.open(self.path, flags, 0o600)
        os.posix_fallocate(self._data, 0, self._blob_bytes)
        self._bits_file = os.open(self._map_path, flags, 0o600)
        size = (self.total + 7) // 8
        if os.fstat(self._bits_file).st_size != size:
            os.ftruncate(self._bits_file, 0)
            os.ftruncate(self._bits_file, size)
        self._bits = bytearray(os.pread(self._bits_file, size, 0))
        sync_folder(self.path.parent)

    def missing(self) -> set[int]:
        """Indexes of the chunks that are not on disk."""
        return {index for index in range(self.total) if not self._bits[index // 8] >> (index % 8) & 1}

    def header(self) -> bytes:
        """The blob's first 56 bytes; meaningful once chunk 0 is there."""
        return os.pread(self._data, envelope.HEADER_BYTES, 0)

    def write(self, index: int, content: bytes) -> None:
        """Keep a verified chunk (chunk 0 with the header in front). Raises DiskFull or DeliveryError."""
        start, end = envelope.message_span(index, self._blob_bytes)
        if len(content) != end - start:
            raise RuntimeError(f"chunk {index} has {end - start} bytes, got {len(content)}; it was not verified")
        try:
            _write_all(self._data, content, start)
            self._bits[index // 8] |= 1 << (index % 8)
            self._unsynced += 1
            if self._unsynced >= SYNC_CHUNKS:
                self.sync()
        except OSError as error:
            raise _translated(error) from error

    def sync(self) -> None:
        """Data first, then the bits that promise it."""
        if self._unsynced:
            os.fdatasync(self._data)
            os.pwrite(self._bits_file, bytes(self._bits), 0)
            os.fdatasync(self._bits_file)
            self._unsynced = 0

    def close(self) -> None:
        """Close both files; safe to call twice. What was not synced is asked for again."""
        for descriptor in (self._data, self._bits_file):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._bits_file = -1

    def remove(self) -> None:
        """Give the room back."""
        self.close()
        self._map_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)


class BlobStore:
    """The folder of ciphertexts. ``reserve_bytes``: room on the file system that a download may not take."""

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, blob: Digest) -> Path:
        """Where a complete blob stands."""
        return self._folder / f"{blob}.blob"

    def has(self, blob: Digest, blob_bytes: int) -> bool:
        """Whether a complete blob of that length stands there (from an earlier deployment, or before a cut)."""
        try:
            return self.path(blob).stat().st_size == blob_bytes
        except FileNotFoundError:
            return False

    def partial_path(self, blob: Digest) -> Path:
        """Where a blob stands while it is downloaded."""
        return self._folder / f"{blob}.part"

    def check_room(self, blob: Digest, blob_bytes: int) -> None:
        """Raises DiskFull where the blob, with what is already reserved for it, leaves less than the reserve."""
        partial = self.partial_path(blob)
        held = partial.stat().st_blocks * 512 if partial.exists() else 0
        free = shutil.disk_usage(self._folder).free
        if not self.path(blob).exists() and free - max(0, blob_bytes - held) < self._reserve_bytes:
            raise DiskFull(
                f"{blob_bytes} bytes are needed beside a reserve of {self._reserve_bytes}, {free} are free; "
                "remove something from the device's disk"
            )

    def begin(self, blob: Digest, blob_bytes: int) -> PartialBlob:
        """Start or resume a download. Raises DiskFull (then nothing is left behind) or DeliveryError."""
        try:
            return PartialBlob(self.partial_path(blob), blob_bytes)
        except DiskFull:
            self.forget(blob)
            raise

    def keep(self, blob: Digest) -> Path:
        """Give a verified blob its final name; safe to call twice. Raises DeliveryError where there is no such blob."""
        partial, complete = self.partial_path(blob), self.path(blob)
        try:
            if partial.exists():
                partial.replace(complete)
            partial.with_suffix(".map").unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:
            raise _translated(error) from error
        if not complete.exists():
            raise DeliveryError(f"blob {blob[:12]} is not on this device; it has to be downloaded again")
        return complete

    def forget(self, blob: Digest) -> None:
        """Remove what was downloaded of a blob."""
        partial = self.partial_path(blob)
        for path in (partial.with_suffix(".map"), partial):
            path.unlink(missing_ok=True)
        sync_folder(self._folder)

    def sweep(self, referenced: frozenset[Digest]) -> None:
        """Remove every blob that nothing refers to any more."""
        for path in self._folder.iterdir():
            if path.suffix in {".blob", ".part", ".map"} and path.stem not in referenced:
                path.unlink(missing_ok=True)


def verify_blob(model: SealedModel, blob: Digest) -> None:
    """Read the whole ciphertext once: it opens to its last byte, and it is the payload that the manifest names.

    Raises ChunkTampered or PayloadMismatch (SPEC 5.5). Plaintext exists one piece at a time, in memory.
    """
    payload = model.manifest.payload
    sealed, opened, length = hashlib.sha256(), hashlib.sha256(), 0
    for piece in envelope.open_blob(_pieces(model.blob, sealed), model.key, model.digest):
        opened.update(piece)
        length += len(piece)
        if length > payload.length:
            raise PayloadMismatch(f"the payload is longer than the {payload.length} bytes that were released")
    if length != payload.length or digest(opened.hexdigest()) != payload.sha256:
        raise PayloadMismatch("the payload is not the one that the release keys signed")
    if sealed.hexdigest() != blob:
        raise PayloadMismatch("the ciphertext is not the one that the assignment names")


def _pieces(path: Path, seen: hashlib._Hash) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            seen.update(piece)
            yield piece


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    # A full disk may first write a part; the second call then tells why.
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _translated(error: OSError) -> DeliveryError:
    if error.errno in _NO_ROOM:
        return DiskFull(f"no room for the download: {os.strerror(error.errno or 0)}; the old model goes on serving")
    return DeliveryError(f"the download could not be written: {error.strerror}")
