"""Drives python-tuf's client over a metadata bundle and says what the offline keys say (SPEC 6.1).

Nothing of TUF's own cache is kept: its files are not durable (a power cut can empty them), so every refresh starts from the
root that came with the claim, and the memory that forbids going back is ours, in the journal (SPEC 6.4).
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from securesystemslib.exceptions import StorageError
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from fleet_protocol import assignment as wire
from fleet_protocol import metadata_bundle
from fleet_protocol.errors import (
    DeliveryError,
    ExpiredMetadata,
    FleetError,
    InputTooLarge,
    MalformedIdentifier,
    RolledBackMetadata,
    UntrustedMetadata,
)
from fleet_protocol.identifiers import Digest, digest
from fleet_protocol.trust import Memory, MetadataVersions, Target, check_metadata

BUILD_S: Final = dt.datetime(2026, 11, 1, tzinfo=dt.UTC).timestamp()
"""This program did not exist before: a clock that says otherwise is wrong (SPEC 6.3.1)."""
_URL: Final = "bundle:/"
_MAX_ROOTS: Final = 256
_ANY_MODEL: Final = "models/-/-"
"""A path that only the role which signs models may sign (SPEC 4.2); no model has this name."""
_LIMITS: Final = UpdaterConfig(
    max_root_rotations=_MAX_ROOTS, root_max_length=512_000, timestamp_max_length=16_384,
    snapshot_max_length=2_000_000, targets_max_length=metadata_bundle.MAX_UNPACKED_BYTES,
)  # fmt: skip

TRANSLATIONS: Final[Mapping[type[Exception], type[FleetError]]] = {
    tuf_errors.ExpiredMetadataError: ExpiredMetadata,
    tuf_errors.BadVersionNumberError: RolledBackMetadata,
    tuf_errors.DownloadLengthMismatchError: InputTooLarge,
    tuf_errors.RepositoryError: UntrustedMetadata,
    tuf_errors.DownloadError: UntrustedMetadata,
    StorageError: DeliveryError,
    OSError: DeliveryError,
}
"""The first entry that an error is an instance of. A file that a bundle lacks is a download error, and not to be believed."""


class _BundleFetcher(FetcherInterface):
    """TUF's transport: the files of one bundle."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        content = self._files.get(url.removeprefix(_URL))
        if content is None:
            # 404 tells TUF that there is no newer root; it is true here because the bundle is complete by definition.
            raise tuf_errors.DownloadHTTPError(f"{url} is not in the bundle", 404)
        return iter([content])


@dataclass(frozen=True, slots=True)
class ReleaseMetadata:
    """One accepted refresh. ``director``: who may sign assignments; :meth:`find_target`: what is released."""

    versions: MetadataVersions
    director: wire.DirectorKeys
    _updater: Updater

    def find_target(self, path: str) -> Target | None:
        """What the release keys say of ``path``; None where it is not released. Raises TrustError."""
        with translated():
            found = self._updater.get_targetinfo(path)
        return None if found is None else _target(found)


@contextlib.contextmanager
def accepted(packed: bytes, root: bytes, memory: Memory, *, now_s: float, scratch: Path) -> Iterator[ReleaseMetadata]:
    """A metadata bundle, verified from ``root`` (the pinned TUF root) on, at trusted time ``now_s`` (SPEC 6.1).

    ``scratch``: a folder for TUF's own short-lived files. Raises UntrustedMetadata, ExpiredMetadata, RolledBackMetadata,
    MalformedInput; then nothing has changed.
    """
    files = metadata_bundle.unpack(packed)
    with contextlib.ExitStack() as cleanup:
        with translated():
            scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = cleanup.enter_context(TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True))
            updater = Updater(folder, _URL, fetcher=_BundleFetcher(files), config=_LIMITS, bootstrap=root)
            # SPEC 6.3: a device without a clock lives in trusted time; python-tuf has no public way to say so (tuf 7.0).
            updater._trusted_set.reference_time = dt.datetime.fromtimestamp(now_s, dt.UTC)  # noqa: SLF001
            updater.refresh()
            # Delegated roles load when they are asked for; a bundle whose list of releases is not right is refused whole.
            updater.get_targetinfo(_ANY_MODEL)
        versions = _versions(updater)
        check_metadata(versions, memory)
        yield ReleaseMetadata(versions, _director_keys(updater, files), updater)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise the contract's error in place of TUF's."""
    try:
        yield
    except tuple(TRANSLATIONS) as error:
        kind = next(ours for theirs, ours in TRANSLATIONS.items() if isinstance(error, theirs))
        raise kind(f"the fleet's metadata was refused: {error}") from error


def _versions(updater: Updater) -> MetadataVersions:
    trusted = updater._trusted_set  # noqa: SLF001 - the versions that were accepted are not public (tuf 7.0)
    root = trusted.root.version
    # Every role's version, not only the timestamp's: stolen online keys could else bring back an old list of releases.
    versions = {f"{name.removesuffix('.json')}@{root}": meta.version for name, meta in trusted.snapshot.meta.items()}
    versions |= {f"timestamp@{root}": trusted.timestamp.version, f"snapshot@{root}": trusted.snapshot.version}
    horizon = min(trusted.timestamp.expires, trusted.root.expires)
    return MetadataVersions(root, versions, horizon.timestamp())


def _director_keys(updater: Updater, files: Mapping[str, bytes]) -> wire.DirectorKeys:
    with translated():
        target = updater.get_targetinfo(wire.DIRECTOR_TARGET)
        if target is None:
            raise UntrustedMetadata(f"the release keys sign no {wire.DIRECTOR_TARGET}")
        folder, _, name = wire.DIRECTOR_TARGET.rpartition("/")
        content = files.get(f"{folder}/{target.hashes.get('sha256')}.{name}")
        if content is None:
            raise UntrustedMetadata(f"the metadata bundle lacks {wire.DIRECTOR_TARGET}")
        target.verify_length_and_hashes(content)
    return wire.parse_director_keys(content)


def _target(found: TargetFile) -> Target:
    custom = found.custom
    floor = custom.get("floor", 0) if isinstance(custom, Mapping) else 0
    if not isinstance(floor, int) or isinstance(floor, bool) or floor < 0:
        raise UntrustedMetadata(f"the security floor of {found.path} is not a number")
    try:
        sha256: Digest = digest(found.hashes.get("sha256", ""))
    except MalformedIdentifier as error:
        raise UntrustedMetadata(f"{found.path} is released without its SHA-256") from error
    return Target(found.path, sha256, found.length, floor)
