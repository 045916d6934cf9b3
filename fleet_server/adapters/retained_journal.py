"""A small file that says which artifacts the broker may retain."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fleet_protocol.errors import MalformedConfig
from fleet_protocol.identifiers import Digest
from fleet_server.adapters.files import PRIVATE, write_file


class RetainedFile:
    """See ``ports.RetainedJournal``. One process writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read(path)

    def remember(self, manifest: Digest, blob: Digest, blob_bytes: int) -> None:
        if self._entries.get(manifest) != (blob, blob_bytes):
            self._entries[manifest] = (blob, blob_bytes)
            self._write()

    def forget(self, manifest: Digest) -> None:
        if self._entries.pop(manifest, None) is not None:
            self._write()

    def remembered(self) -> list[tuple[Digest, Digest, int]]:
        return [(Digest(manifest), Digest(blob), size) for manifest, (blob, size) in self._entries.items()]

    def _write(self) -> None:
        write_file(self._path, msgspec.json.encode(self._entries), PRIVATE)


def _read(path: Path) -> dict[str, tuple[str, int]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[str, int]])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise MalformedConfig(f"{path} is damaged; delete it together with the broker's data beside it") from error
