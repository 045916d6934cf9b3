"""From a package and the metadata that the release keys signed to a release that devices can be given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from fleet_protocol import package as packages
from fleet_protocol.errors import Conflict, MalformedPackage, ReleaseMismatch
from fleet_protocol.identifiers import Digest
from fleet_protocol.package import ModelPackage
from fleet_protocol.package import Variant as PackagedVariant
from fleet_server.changes import ChangeFeed
from fleet_server.db.models import Audit, Release, Variant
from fleet_server.ports import Blobs, Clock, SignedMetadata
from fleet_server.services.sealing import SealedBlob
from fleet_server.tuf_metadata import CheckedModels


@dataclass(frozen=True, slots=True)
class _Sealed:
    variant: PackagedVariant
    blob: SealedBlob


class Releases:
    """Takes releases in. Nothing is announced to any device here: that is what a rollout does."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        tuf: SignedMetadata,
        blobs: Blobs,
        changes: ChangeFeed,
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._tuf = tuf
        self._blobs = blobs
        self._changes = changes
        self._clock = clock

    def create(self, package_path: Path, models_metadata: bytes, who: str) -> Release:
        """Check, seal and store a release. Repeating it with the same package changes nothing.

        Raises MalformedPackage or PayloadMismatch (the package), UntrustedMetadata, ExpiredMetadata or ReleaseMismatch (what
        was signed), Conflict (another content or a lower counter than released before). Then nothing is stored.
        """
        package = _read(package_path)
        with self._sessions() as session:
            known = _known(session, package)
        checked = self._tuf.check_models(models_metadata, self._clock())
        _check_signed(package, checked)
        if known is not None:
            self._tuf.publish_models(checked, self._clock())  # it may raise the slot's security floor
            return known
        sealed = self._seal(package_path, package)
        try:
            release = self._store(package, sealed, checked, who)
        except BaseException:
            for each in sealed:
                self._blobs.remove(each.blob.sha256)
            raise
        self._changes.publish("release", str(release.id))
        return release

    def sweep(self) -> int:
        """Remove ciphertexts that no release names (an interrupted one left them); how many. For the start only."""
        with self._sessions.begin() as session:
            kept = {Digest(blob) for blob in session.scalars(select(Variant.blob_sha256))}
        return self._blobs.sweep(kept)

    def _seal(self, package_path: Path, package: ModelPackage) -> list[_Sealed]:
        sealed = []
        for variant in package.variants:
            with package_path.open("rb") as stream:
                payload = packages.read_payload(stream, variant.manifest.variant)
                sealed.append(_Sealed(variant, self._blobs.seal(payload, variant.digest)))
        return sealed

    def _store(self, package: ModelPackage, sealed: Sequence[_Sealed], checked: CheckedModels, who: str) -> Release:
        now, manifest = self._clock(), package.variants[0].manifest
        with self._sessions.begin() as session:
            if _known(session, package) is not None:
                raise Conflict(f"{package.model} {package.version} was released meanwhile; nothing is left to do")
            _check_counter(session, manifest.slot, manifest.counter)
            release = Release(
                model=package.model,
                version=package.version,
                slot=manifest.slot,
                counter=manifest.counter,
                created_at=now,
                created_by=who,
            )
            session.add(release)
            session.flush()
            session.add_all(_row(release.id, position, each) for position, each in enumerate(sealed))
            subject = f"{package.model} {package.version}"
            session.add(Audit(at=now, who=who, action="release.create", subject=subject, reason=""))
            session.flush()
            # Signed metadata goes first: what the registry calls released, devices can already verify. If the commit then
            # fails, the metadata names manifests that nobody is given, and the same request can be repeated.
            self._tuf.publish_models(checked, now)
        return release


def _read(path: Path) -> ModelPackage:
    with path.open("rb") as stream:
        package = packages.read(stream)
    shared = {(each.manifest.slot, each.manifest.counter) for each in package.variants}
    if len(shared) != 1:
        raise MalformedPackage("all variants of a package have the same slot and release counter")
    return package


def _known(session: Session, package: ModelPackage) -> Release | None:
    release = session.scalar(select(Release).where(Release.model == package.model, Release.version == package.version))
    if release is None:
        return None
    stored = session.scalars(
        select(Variant.manifest_sha256).where(Variant.release_id == release.id).order_by(Variant.position)
    ).all()
    if list(stored) != [variant.digest for variant in package.variants]:
        raise Conflict(f"{package.model} {package.version} is released with other contents; give it a new version")
    return release


def _check_signed(package: ModelPackage, checked: CheckedModels) -> None:
    for variant in package.variants:
        path = variant.manifest.target_path
        target = checked.targets.get(path)
        if target is None:
            raise ReleaseMismatch(f"the signed metadata does not name {path}; sign this package")
        if target.sha256 != variant.digest or target.length != len(variant.manifest_bytes):
            raise ReleaseMismatch(f"the signed metadata names another {path} than the package holds; sign this package")


def _check_counter(session: Session, slot: str, counter: int) -> None:
    # Devices compare counters with the slot's security floor, so within a slot a newer release never counts lower.
    highest = session.scalar(select(func.max(Release.counter)).where(Release.slot == slot))
    if highest is not None and counter <= highest:
        raise Conflict(f"slot {slot} is already at release counter {highest}; compile with a higher one than {counter}")


def _row(release_id: int, position: int, sealed: _Sealed) -> Variant:
    manifest = sealed.variant.manifest
    return Variant(
        manifest_sha256=sealed.variant.digest,
        release_id=release_id,
        name=manifest.variant,
        position=position,
        target_path=manifest.target_path,
        manifest=sealed.variant.manifest_bytes,
        blob_sha256=sealed.blob.sha256,
        blob_bytes=sealed.blob.length,
        sealed_key=sealed.blob.sealed_key,
    )
