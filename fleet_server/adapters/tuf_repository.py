"""The fleet's TUF metadata as files, and its two online roles (SPEC 4.4).

``timestamp.json`` names the snapshot, the snapshot names the rest: writing the timestamp last makes every change one step,
and whatever a power cut leaves beside it is not named by anything.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from fleet_protocol import metadata_bundle
from fleet_protocol.assignment import DIRECTOR_TARGET, DirectorKeys, parse_director_keys
from fleet_protocol.errors import Conflict, ExpiredMetadata, InputTooLarge, UntrustedMetadata
from fleet_protocol.identifiers import Digest
from fleet_server import tuf_metadata
from fleet_server.adapters.files import write_file
from fleet_server.tuf_metadata import MODELS, CheckedModels, OnlineKeys, ReleasedTarget, moment

REFRESH_BEFORE_S: Final = 18 * 3600.0
"""The timestamp (1 day) is signed again when less is left: a server that is down overnight still leaves a valid one."""
SignedT = TypeVar("SignedT", bound=Signed)
_ROOT: Final = re.compile(r"(\d{1,9})\.root\.json")


class TufRepository:
    """Reads and writes the metadata directory. Thread-safe; one server process writes it."""

    def __init__(self, root: Path, online: OnlineKeys) -> None:
        self._root = root
        self._online = online
        self._lock = threading.RLock()
        self._revision = 1

    def files(self) -> dict[str, bytes]:
        """Everything that a device needs, by name: all roots, the current set, the director's keys."""
        with self._lock:
            timestamp, snapshot = self._timestamp(), self._snapshot()
            names = [path.name for path in self._root.iterdir() if _ROOT.fullmatch(path.name)]
            names += ["timestamp.json", f"{timestamp.snapshot_meta.version}.snapshot.json"]
            names += [f"{meta.version}.{name}" for name, meta in snapshot.meta.items()]
            names.append(self._director_name())
            return {name: self._read(name) for name in names}

    def bundle(self) -> bytes:
        """All files as the one retained message (SPEC 4.4)."""
        return metadata_bundle.pack(self.files())

    @property
    def revision(self) -> int:
        """Grows with every change of the files by this process."""
        with self._lock:
            return self._revision

    def root(self) -> bytes:
        """The newest root, as it was signed: what a new device is told to trust."""
        with self._lock:
            versions = [int(match[1]) for path in self._root.iterdir() if (match := _ROOT.fullmatch(path.name))]
            return self._read(f"{max(versions)}.root.json")

    def models(self) -> bytes:
        """The current ``models.json``, the one that the next release builds on."""
        with self._lock:
            return self._read(f"{self._snapshot().meta['models.json'].version}.models.json")

    def director_keys(self) -> DirectorKeys:
        """The keys that the offline keys allow to sign assignments."""
        with self._lock:
            return parse_director_keys(self._read(self._director_name()))

    def expiries(self) -> dict[str, float]:
        """When each role's metadata runs out (Unix seconds), by role."""
        with self._lock:
            snapshot = self._snapshot()
            roles: dict[str, Signed] = {"root": _parse(self.root(), Root), "snapshot": snapshot}
            roles["timestamp"] = self._timestamp()
            for name in snapshot.meta:
                roles[name.removesuffix(".json")] = tuf_metadata.parse_targets(self._role(name)).signed
            return {name: signed.expires.timestamp() for name, signed in roles.items()}

    def check_models(self, content: bytes, now_s: float) -> CheckedModels:
        """Believe ``models.json`` only if CI and a person signed it, it is in time and follows the current one.

        Raises UntrustedMetadata, ExpiredMetadata, InputTooLarge, or Conflict where it does not build on the current one
        (the current one itself is accepted: a repeated request is harmless).
        """
        metadata = tuf_metadata.parse_targets(content)
        with self._lock:
            self._check_signatures(metadata)
            current = self.models()
        if metadata.signed.is_expired(moment(now_s)):
            raise ExpiredMetadata(f"models.json ran out at {metadata.signed.expires}; sign the release again")
        before = tuf_metadata.parse_targets(current).signed
        if content != current:
            _check_follows(metadata.signed, before)
        targets = {path: _released(target) for path, target in metadata.signed.targets.items()}
        return CheckedModels(content, metadata.signed.version, targets)

    def publish_models(self, checked: CheckedModels, now_s: float) -> None:
        """Make ``checked`` the current ``models.json``; raises Conflict where another one came first."""
        with self._lock:
            if checked.content == self.models():
                return
            if checked.version != self._snapshot().meta["models.json"].version + 1:
                raise Conflict("another release was published meanwhile; sign this one again")
            roles = {"targets.json": self._role("targets.json"), "models.json": checked.content}
            self._write(f"{checked.version}.models.json", checked.content)
            self._vouch(roles, now_s)

    def refresh(self, now_s: float) -> bool:
        """Sign timestamp and snapshot again where they run out soon; whether anything changed."""
        with self._lock:
            timestamp, snapshot = self._timestamp(), self._snapshot()
            if snapshot.expires.timestamp() - now_s < tuf_metadata.TIMESTAMP_DAYS * 86_400 * 2:
                self._vouch({name: self._role(name) for name in snapshot.meta}, now_s)
                return True
            if timestamp.expires.timestamp() - now_s >= REFRESH_BEFORE_S:
                return False
            version = timestamp.snapshot_meta.version
            content = self._read(f"{version}.snapshot.json")
            self._write(
                "timestamp.json", tuf_metadata.stamp(self._online, content, version, timestamp.version + 1, now_s)
            )
            return True

    def _vouch(self, roles: Mapping[str, bytes], now_s: float) -> None:
        timestamp, before = self._timestamp(), self._snapshot()
        files = tuf_metadata.vouch(self._online, roles, before.version + 1, timestamp.version + 1, now_s)
        # Bound by what a device accepts, before anything is published.
        replaced = {f"{meta.version}.{name}" for name, meta in before.meta.items()}
        kept = {name: content for name, content in self.files().items() if name not in replaced}
        if len(metadata_bundle.pack(kept | files | dict(roles))) > metadata_bundle.MAX_PACKED_BYTES:
            raise InputTooLarge("the metadata bundle would be larger than devices accept; withdraw old releases")
        for name in sorted(files, key=lambda name: name == "timestamp.json"):
            self._write(name, files[name])
        self._forget_older(before)

    def _forget_older(self, before: Snapshot) -> None:
        # The set before this one stays for a device that is in the middle of fetching it over HTTPS.
        for name, oldest in {
            "snapshot.json": before.version,
            "models.json": before.meta["models.json"].version,
        }.items():
            for path in self._root.glob(f"*.{name}"):
                if int(path.name.split(".", 1)[0]) < oldest:
                    path.unlink(missing_ok=True)

    def _check_signatures(self, models: Metadata[Targets]) -> None:
        targets = tuf_metadata.parse_targets(self._role("targets.json")).signed
        try:
            targets.verify_delegate(MODELS, models.signed_bytes, models.signatures)
        except UnsignedMetadataError as error:
            raise UntrustedMetadata(f"models.json needs both release signatures: {error}") from error
        delegations = targets.delegations
        role = None if delegations is None or delegations.roles is None else delegations.roles.get(MODELS)
        stray = [path for path in models.signed.targets if role is None or not role.is_delegated_path(path)]
        if stray:
            raise UntrustedMetadata(f"the release keys may not sign {stray[0]!r}")

    def _director_name(self) -> str:
        targets = tuf_metadata.parse_targets(self._role("targets.json")).signed
        digest = targets.targets[DIRECTOR_TARGET].hashes["sha256"]
        directory, _, name = DIRECTOR_TARGET.rpartition("/")
        return f"{directory}/{digest}.{name}"

    def _role(self, name: str) -> bytes:
        return self._read(f"{self._snapshot().meta[name].version}.{name}")

    def _timestamp(self) -> Timestamp:
        return _parse(self._read("timestamp.json"), Timestamp)

    def _snapshot(self) -> Snapshot:
        return _parse(self._read(f"{self._timestamp().snapshot_meta.version}.snapshot.json"), Snapshot)

    def _read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def _write(self, name: str, content: bytes) -> None:
        write_file(self._root / name, content)
        self._revision += 1


def _parse(content: bytes, kind: type[SignedT]) -> SignedT:
    try:
        signed = Metadata[Any].from_bytes(content).signed
    except RepositoryError as error:
        raise UntrustedMetadata("a file of the server's own metadata is damaged; restore it from a backup") from error
    if not isinstance(signed, kind):
        raise UntrustedMetadata(f"expected {kind.__name__} metadata, found {type(signed).__name__}; restore a backup")
    return signed


def _check_follows(new: Targets, current: Targets) -> None:
    if new.version != current.version + 1:
        raise Conflict(f"models.json version {current.version + 1} is next, got {new.version}; sign the release again")
    for path, target in current.targets.items():
        if path in new.targets and new.targets[path].hashes != target.hashes:
            raise Conflict(f"{path} is already released with other contents")


def _released(target: TargetFile) -> ReleasedTarget:
    digest, custom = target.hashes.get("sha256"), target.custom
    floor = custom.get("floor") if isinstance(custom, dict) else None
    if digest is None or not isinstance(floor, int) or isinstance(floor, bool) or floor < 0:
        raise UntrustedMetadata(f"{target.path} needs a SHA-256 and a security floor")
    return ReleasedTarget(Digest(digest), target.length, floor)
