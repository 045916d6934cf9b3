"""From the ciphertext on disk to the model in memory, everything checked once more at the moment of loading (SPEC 6.9)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from fleet_protocol import envelope
from fleet_protocol.errors import ChunkTampered, ModelNotLoadable
from fleet_protocol.identifiers import digest_of
from fleet_protocol.manifest import GOLDEN_PART, MODEL_PART, Manifest, digest_of_manifest

_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class OpenedPayload:
    """Plaintext parts of a payload whose digests were all compared. In memory only (SPEC 5.5)."""

    model: bytes = field(repr=False)
    golden: bytes = field(repr=False)


def open_payload(blob: Path, key: bytes, manifest: Manifest) -> OpenedPayload:
    """Decrypt and check ``blob``. Raises ModelNotLoadable where it is missing, changed since it was verified, or not whole.

    Whoever swaps the file between verification and loading meets the authenticated encryption and the digests again.
    """
    try:
        with blob.open("rb") as stream:
            return _checked(stream, key, manifest)
    except OSError as error:
        raise ModelNotLoadable(f"the sealed model cannot be read: {error.strerror or error}") from error
    except ChunkTampered as error:
        raise ModelNotLoadable(f"the sealed model on disk is not the one that was verified: {error}") from error


def _checked(stream: IO[bytes], key: bytes, manifest: Manifest) -> OpenedPayload:
    expected = envelope.sealed_length(manifest.payload.length)
    found = stream.seek(0, io.SEEK_END)
    if found != expected:
        raise ChunkTampered(f"it should have {expected} bytes, got {found}")
    stream.seek(0)
    parts = {part.name: io.BytesIO() for part in manifest.payload.parts}
    whole = hashlib.sha256()
    position = 0
    for piece in envelope.open_blob(_pieces(stream), key, digest_of_manifest(manifest)):
        whole.update(piece)
        _lay(parts, manifest, position, memoryview(piece))
        position += len(piece)
    if position != manifest.payload.length or whole.hexdigest() != manifest.payload.sha256:
        raise ChunkTampered("its contents do not have the payload's digest")
    # getvalue() hands over the buffer itself: the plaintext exists once.
    opened = {name: part.getvalue() for name, part in parts.items()}
    for part in manifest.payload.parts:
        if digest_of(opened[part.name]) != part.sha256:
            raise ChunkTampered(f"its part {part.name} does not have the promised digest")
    return OpenedPayload(opened[MODEL_PART], opened[GOLDEN_PART])


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(_READ_BYTES):
        yield piece


def _lay(parts: dict[str, io.BytesIO], manifest: Manifest, position: int, piece: memoryview) -> None:
    """Append to each part what ``piece``, which starts at byte ``position`` of the payload, holds of it."""
    for part in manifest.payload.parts:
        start = max(part.offset - position, 0)
        end = min(part.offset + part.length - position, len(piece))
        if start < end:
            parts[part.name].write(piece[start:end])
