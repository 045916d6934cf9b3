"""The model package: what the compiler hands to the release (SPEC 4.1). A ZIP without compression and without dates.

    package.json                 {"schema": 1, "model": …, "version": …, "variants": ["int8", "fp32"]}
    <variant>/manifest.json      canonical manifest
    <variant>/payload.bin        plaintext payload

The order of the variants is the order of preference. The package is not signed: release signs the manifests (SPEC 4.2).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

import msgspec

from fleet_protocol import manifest as manifests
from fleet_protocol import strict_json
from fleet_protocol.errors import MalformedPackage, PayloadMismatch
from fleet_protocol.fingerprint import Fingerprint, mismatch
from fleet_protocol.identifiers import Digest, digest_of, model_name, model_version, variant_name

SCHEMA: Final = 1
MAX_VARIANTS: Final = 32
_INDEX: Final = "package.json"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_READ_BYTES: Final = 1 << 20


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: int
    model: str
    version: str
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant's manifest with its canonical bytes' digest."""

    manifest: manifests.Manifest
    manifest_bytes: bytes

    @property
    def digest(self) -> Digest:
        """SHA-256 of the manifest: the variant's identity."""
        return digest_of(self.manifest_bytes)


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """The checked contents of a package file, payloads left in the file."""

    model: str
    version: str
    variants: tuple[Variant, ...]

    def choose(self, fingerprint: Fingerprint) -> Variant | None:
        """The most preferred variant that runs on a device with ``fingerprint``; None where there is none."""
        return next((each for each in self.variants if mismatch(each.manifest, fingerprint) is None), None)


def write(stream: IO[bytes], variants: Sequence[tuple[manifests.Manifest, bytes]]) -> None:
    """Write manifests and payloads, in order of preference. The same input gives the same bytes, on any machine."""
    first = variants[0][0]
    index = _Index(
        schema=SCHEMA, model=first.model, version=first.version, variants=tuple(each.variant for each, _ in variants)
    )
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, _INDEX, strict_json.dumps(msgspec.to_builtins(index)))
        for each, payload in variants:
            _add(archive, f"{each.variant}/manifest.json", each.encode())
            _add(archive, f"{each.variant}/payload.bin", payload)


def read(stream: IO[bytes]) -> ModelPackage:
    """Check a package: index, every manifest, every payload's length and digest. Raises MalformedPackage and its kin."""
    with _archive(stream) as archive:
        index = _index(archive)
        variants = tuple(_variant(archive, index, name) for name in index.variants)
        for each in variants:
            _check_payload(archive, each.manifest)
    return ModelPackage(index.model, index.version, variants)


def read_payload(stream: IO[bytes], variant: str) -> Iterator[bytes]:
    """The payload of one variant in pieces of at most 1 MiB. :func:`read` has checked the file before."""
    with _archive(stream) as archive, archive.open(f"{variant}/payload.bin") as member:
        while piece := member.read(_READ_BYTES):
            yield piece


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # Fixed date, mode and system: the file depends on its contents only.
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    archive.writestr(entry, content)


def _archive(stream: IO[bytes]) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise MalformedPackage("not a model package (or it was cut); compile or copy it again") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        # A compressed entry could unpack to any size; packages never have one.
        raise MalformedPackage("a model package holds no compressed entries")
    return archive


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    try:
        if archive.getinfo(name).file_size > limit:
            raise MalformedPackage(f"{name} has more than {limit} bytes")
        return archive.read(name)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise MalformedPackage(f"{name} is missing from the package or damaged") from error


def _index(archive: zipfile.ZipFile) -> _Index:
    raw = strict_json.loads(_member(archive, _INDEX, strict_json.MAX_BYTES))
    try:
        index = msgspec.convert(raw, _Index, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedPackage(f"package.json: {error}") from error
    model_name(index.model)
    model_version(index.version)
    for name in index.variants:
        variant_name(name)
    if index.schema != SCHEMA or not 0 < len(index.variants) <= MAX_VARIANTS:
        raise MalformedPackage(f"package.json needs schema {SCHEMA} and 1 to {MAX_VARIANTS} variants")
    if len(set(index.variants)) != len(index.variants):
        raise MalformedPackage("package.json names a variant twice")
    return index


def _variant(archive: zipfile.ZipFile, index: _Index, name: str) -> Variant:
    content = _member(archive, f"{name}/manifest.json", manifests.MAX_BYTES)
    parsed = manifests.parse(content)
    if (parsed.model, parsed.version, parsed.variant) != (index.model, index.version, name):
        raise MalformedPackage(f"{name}/manifest.json describes {parsed.target_path}")
    return Variant(parsed, content)


def _check_payload(archive: zipfile.ZipFile, parsed: manifests.Manifest) -> None:
    name = f"{parsed.variant}/payload.bin"
    total, digest = 0, hashlib.sha256()
    try:
        with archive.open(name) as member:
            while piece := member.read(_READ_BYTES):
                total += len(piece)
                digest.update(piece)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise MalformedPackage(f"{name} is missing from the package or damaged") from error
    if total != parsed.payload.length or digest.hexdigest() != parsed.payload.sha256:
        raise PayloadMismatch(f"{name} is not the payload that its manifest describes")
