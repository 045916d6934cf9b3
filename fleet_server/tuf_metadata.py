"""The shape of this fleet's TUF metadata: roles, thresholds, expiry, bytes (SPEC 4.4). Pure; the keys come from outside.

root 2-of-3, targets 2-of-3 (offline) ─▶ models/*/* 2-of-2 (CI and a person) ─▶ the manifests
                                      └▶ keys/director.json
snapshot, timestamp (online)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from fleet_protocol.assignment import DIRECTOR_TARGET
from fleet_protocol.errors import InputTooLarge, UntrustedMetadata
from fleet_protocol.identifiers import Digest

ROOT_DAYS: Final = 365
TARGETS_DAYS: Final = 180
MODELS_DAYS: Final = 90
SNAPSHOT_DAYS: Final = 7
TIMESTAMP_DAYS: Final = 1

MODELS: Final = "models"
MODELS_PATHS: Final = ("models/*/*",)
OFFLINE_THRESHOLD: Final = 2
MAX_MODELS_BYTES: Final = 1_000_000
"""Some 2,000 variants; the packed bundle stays below what a device accepts."""


@dataclass(frozen=True, slots=True)
class OfflineKeys:
    """Keys that sign what is released; they are used away from the server."""

    root: tuple[Signer, ...]
    targets: tuple[Signer, ...]
    models: tuple[Signer, ...]


@dataclass(frozen=True, slots=True)
class OnlineKeys:
    """Keys that only say what is newest."""

    snapshot: Signer
    timestamp: Signer


@dataclass(frozen=True, slots=True)
class ReleasedTarget:
    """What signed metadata says of one manifest. ``floor``: see ``trust.Target``."""

    sha256: Digest
    length: int
    floor: int


@dataclass(frozen=True, slots=True)
class CheckedModels:
    """``models.json`` whose signatures, age and version were checked; only the TUF repository makes it."""

    content: bytes
    version: int
    targets: Mapping[str, ReleasedTarget]


def moment(now_s: float) -> datetime:
    """Unix seconds as TUF writes time: UTC, whole seconds."""
    return datetime.fromtimestamp(int(now_s), UTC)


def found(offline: OfflineKeys, online: OnlineKeys, director: bytes, now_s: float) -> dict[str, bytes]:
    """The first metadata of a fleet, by file name. ``director``: the bytes of ``keys/director.json``."""
    start = moment(now_s)
    root = Root(expires=start + timedelta(days=ROOT_DAYS), consistent_snapshot=True)
    keys = {
        "root": offline.root,
        "targets": offline.targets,
        "snapshot": [online.snapshot],
        "timestamp": [online.timestamp],
    }
    for role, signers in keys.items():
        for signer in signers:
            root.add_key(signer.public_key, role)
    root.roles["root"].threshold = root.roles["targets"].threshold = OFFLINE_THRESHOLD
    models = sign(Targets(expires=start + timedelta(days=MODELS_DAYS)), offline.models)
    targets = sign(_top_targets(offline.models, director, start), offline.targets)
    online_files = vouch(online, {"targets.json": targets, "models.json": models}, 1, 1, now_s)
    return {
        "1.root.json": sign(root, offline.root),
        "1.targets.json": targets,
        "1.models.json": models,
        director_file(director): director,
        **online_files,
    }


def vouch(
    online: OnlineKeys, roles: Mapping[str, bytes], snapshot_version: int, timestamp_version: int, now_s: float
) -> dict[str, bytes]:
    """Snapshot and timestamp over ``roles`` (``targets.json``, ``models.json``: their bytes), by file name."""
    start = moment(now_s)
    meta = {name: _meta_file(_version(content), content) for name, content in roles.items()}
    snapshot = sign(
        Snapshot(snapshot_version, meta=meta, expires=start + timedelta(days=SNAPSHOT_DAYS)), [online.snapshot]
    )
    return {
        f"{snapshot_version}.snapshot.json": snapshot,
        "timestamp.json": stamp(online, snapshot, snapshot_version, timestamp_version, now_s),
    }


def stamp(online: OnlineKeys, snapshot: bytes, snapshot_version: int, version: int, now_s: float) -> bytes:
    """A fresh ``timestamp.json`` for a snapshot."""
    expires = moment(now_s) + timedelta(days=TIMESTAMP_DAYS)
    timestamp = Timestamp(version, expires=expires, snapshot_meta=_meta_file(snapshot_version, snapshot))
    return sign(timestamp, [online.timestamp])


def sign(signed: Signed, signers: Sequence[Signer]) -> bytes:
    """The bytes of signed metadata."""
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def parse_targets(content: bytes) -> Metadata[Targets]:
    """Parse the metadata of a targets role; raises UntrustedMetadata or InputTooLarge. No signature is checked here."""
    if len(content) > MAX_MODELS_BYTES:
        raise InputTooLarge(
            f"targets metadata has at most {MAX_MODELS_BYTES} bytes, got {len(content)}; withdraw old releases"
        )
    try:
        metadata = Metadata[Targets].from_bytes(content)
    except RepositoryError as error:
        raise UntrustedMetadata("this is not TUF metadata") from error
    if not isinstance(metadata.signed, Targets):
        raise UntrustedMetadata(f"expected metadata of a targets role, got {type(metadata.signed).__name__}")
    return metadata


def director_file(director: bytes) -> str:
    """Name of ``keys/director.json`` as a consistent-snapshot target file."""
    directory, _, name = DIRECTOR_TARGET.rpartition("/")
    return f"{directory}/{hashlib.sha256(director).hexdigest()}.{name}"


def _top_targets(models: Sequence[Signer], director: bytes, start: datetime) -> Targets:
    role = DelegatedRole(MODELS, [], len(models), terminating=True, paths=list(MODELS_PATHS))
    targets = Targets(
        expires=start + timedelta(days=TARGETS_DAYS),
        targets={DIRECTOR_TARGET: TargetFile.from_data(DIRECTOR_TARGET, director, ["sha256"])},
        delegations=Delegations(keys={}, roles={MODELS: role}),
    )
    for signer in models:
        targets.add_key(signer.public_key, MODELS)
    return targets


def _meta_file(version: int, content: bytes) -> MetaFile:
    return MetaFile(version, len(content), {"sha256": hashlib.sha256(content).hexdigest()})


def _version(content: bytes) -> int:
    signed: Signed = Metadata[Any].from_bytes(content).signed
    return signed.version
