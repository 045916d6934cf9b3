"""A package file on this machine: its contents, its digest, and the record of its compilation where that is known here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fleet_protocol import golden, package
from fleet_protocol.errors import MalformedPackage, NotFound
from fleet_protocol.golden import Frame
from fleet_protocol.identifiers import Digest
from fleet_protocol.manifest import GOLDEN_PART, Manifest
from fleet_protocol.package import ModelPackage
from model_compiler import cache
from model_compiler.cache import PackageCache
from model_compiler.report.record import Record


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A checked package at ``path``; ``digest`` is that of the whole file."""

    path: Path
    digest: Digest
    contents: ModelPackage

    def manifest(self, variant: str | None) -> Manifest:
        """The manifest of ``variant``, by default of the most preferred; raises NotFound."""
        known = {each.manifest.variant: each.manifest for each in self.contents.variants}
        wanted = variant or self.contents.variants[0].manifest.variant
        if wanted not in known:
            raise NotFound(f"the package has no variant {wanted[:80]!r}; it has {', '.join(known)}")
        return known[wanted]

    def model(self, manifest: Manifest) -> bytes:
        """The runtime's file of a variant; where it is several, one after the other as its target takes them."""
        names = [part.name for part in manifest.payload.parts if part.name != GOLDEN_PART]
        return b"".join(self._part(manifest, name) for name in names)

    def frames(self, manifest: Manifest) -> list[Frame]:
        """The golden frames of a variant."""
        count = manifest.golden.frames
        return golden.unpack(self._part(manifest, GOLDEN_PART), manifest.inputs, manifest.outputs, count)

    def record(self, cache_dir: Path | None) -> Record | None:
        """What is known here of its compilation, None where it was compiled elsewhere or too long ago."""
        return PackageCache(cache_dir or cache.default_directory()).record_of(self.digest)

    def _part(self, manifest: Manifest, name: str) -> bytes:
        with self.path.open("rb") as stream:
            payload = b"".join(package.read_payload(stream, manifest.variant))
        part = manifest.part(name)
        return payload[part.offset : part.offset + part.length]


def open_package(path: Path) -> PackageFile:
    """Check the package at ``path`` whole; raises MalformedPackage and its kin."""
    try:
        with path.open("rb") as stream:
            contents = package.read(stream)
            stream.seek(0)
            digest = Digest(hashlib.file_digest(stream, "sha256").hexdigest())
    except OSError as error:
        raise MalformedPackage(f"package {path} cannot be read: {error.strerror}") from error
    return PackageFile(path, digest, contents)
