"""Taking releases in: what is believed, what is refused, and what a device can then verify and open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from sqlalchemy import func, select
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import FetcherInterface, Updater

from fleet_protocol import envelope, metadata_bundle, trust
from fleet_protocol import manifest as manifests
from fleet_protocol.errors import (
    BelowSecurityFloor,
    Conflict,
    ExpiredMetadata,
    FleetError,
    InputTooLarge,
    MalformedPackage,
    NotFound,
    PayloadMismatch,
    ReleaseMismatch,
    UntrustedMetadata,
)
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import Digest, FleetId, SlotName, digest_of
from fleet_server import tuf_metadata
from fleet_server.ceremony import Founding
from fleet_server.db.models import Assignment, Audit, Release, Variant
from fleet_server.fleet import Fleet
from fleet_server.release_signing import UnreadableKey, add_release, load_signer
from fleet_server.services.sealing import ContentKeys, UnreadableContentKey
from tests.protocol import samples
from tests.server.kit import (
    DeviceKit,
    SteppedClock,
    enrol,
    manifest_of,
    release,
    release_signers,
    signed,
    write_package,
)

FINGERPRINT = Fingerprint("generic-x86_64", "onnxruntime", "1.28.0", "x86_64")


def rows(fleet: Fleet, table: type[Release | Variant]) -> int:
    with fleet.readers() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def blobs(fleet: Fleet) -> list[Path]:
    return list(fleet.layout.blobs.iterdir())


class Bundle(FetcherInterface):
    """What a device has of the fleet's metadata: the files of one bundle."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self.files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        content = self.files.get(url.removeprefix("bundle:/"))
        if content is None:
            raise DownloadHTTPError(f"no {url}", 404)
        return iter([content])


def updater(fleet: Fleet, directory: Path, root: bytes) -> Updater:
    """python-tuf's own client, as a device runs it, over the bundle that the server publishes."""
    directory.mkdir(parents=True, exist_ok=True)
    files = metadata_bundle.unpack(fleet.tuf.bundle())
    client = Updater(str(directory), "bundle:", str(directory), "bundle:", fetcher=Bundle(files), bootstrap=root)
    client._trusted_set.reference_time = datetime.fromtimestamp(fleet.clock(), UTC)
    client.refresh()
    return client


# --- what a device can do with a release ----------------------------------------------------------------------------
@pytest.mark.attack("26c")
def test_a_device_verifies_and_opens_what_it_was_assigned_and_nobody_else_can(
    fleet: Fleet, founding: Founding, tmp_path: Path
) -> None:
    made, payload = samples.sample()
    released = release(fleet, founding, tmp_path)
    device, other = enrol(fleet, "cam-1"), enrol(fleet, "cam-2")
    digest = Digest(manifest_of(fleet, released))
    with fleet.sessions.begin() as session:
        fleet.assignments.set_desired(session, device.id, SlotName("textline"), digest, None, fleet.clock())
        assert fleet.assignments.issue(session, device.id, fleet.clock()) == 1
        raw = session.get_one(Assignment, device.id).envelope

    verified = _verify(fleet, device, raw, tmp_path)
    opened = trust.open_key(verified, device.hpke, FleetId("acme"), device.id)
    blob = (fleet.layout.blobs / verified.item.blob_sha256).read_bytes()
    assert digest_of(blob) == verified.item.blob_sha256
    assert b"".join(envelope.open_blob([blob], opened.key, verified.digest)) == payload
    with pytest.raises(FleetError, match="does not open"):
        trust.open_key(verified, other.hpke, FleetId("acme"), device.id)
    assert made.encode() == manifests.parse(verified.manifest.encode()).encode()


def _verify(fleet: Fleet, device: DeviceKit, raw: bytes, tmp_path: Path) -> trust.VerifiedItem:
    assert device.reply is not None
    client = updater(fleet, tmp_path / "metadata", device.reply.root.encode())
    verified = trust.verify_assignment(
        raw, fleet.tuf.director_keys(), FleetId("acme"), device.id, trust.Memory(),
        now_s=fleet.clock(), clock_believed=True, horizon_s=fleet.clock() + 86_400,
    )  # fmt: skip
    item = verified.assignment.items[0]
    found = client.get_targetinfo(item.target)
    assert found is not None
    target = trust.Target(found.path, Digest(found.hashes["sha256"]), found.length, found.custom["floor"])
    with fleet.readers() as session:
        content = session.get_one(Variant, item.target_sha256).manifest
    return trust.verify_item(item, target, content, FINGERPRINT, trust.Memory())


def test_no_file_of_the_server_holds_the_model_or_its_content_key(
    fleet: Fleet, founding: Founding, tmp_path: Path
) -> None:
    _, payload = samples.sample()
    released = release(fleet, founding, tmp_path)
    with fleet.readers() as session:
        variant = session.scalars(select(Variant).where(Variant.release_id == released.id)).one()
    keys = ContentKeys(fleet.layout.key_encryption_key.read_bytes())
    key = keys.reveal(variant.sealed_key, Digest(variant.manifest_sha256), Digest(variant.blob_sha256))
    for path in founding.state.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert key not in content, path
            assert payload[1000:1064] not in content, path


def test_a_content_key_opens_only_with_this_servers_key_and_for_its_own_blob() -> None:
    keys, manifest, blob = ContentKeys(b"k" * 32), digest_of(b"m"), digest_of(b"b")
    protected = keys.protect(b"c" * 32, manifest, blob)
    assert keys.reveal(protected, manifest, blob) == b"c" * 32
    assert keys.protect(b"c" * 32, manifest, blob) != protected
    for other, name in ((ContentKeys(b"x" * 32), manifest), (keys, digest_of(b"other"))):
        with pytest.raises(UnreadableContentKey):
            other.reveal(protected, name, blob)
    with pytest.raises(UnreadableContentKey):
        keys.reveal(b"", manifest, blob)


def test_each_release_has_a_content_key_of_its_own(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    """The same payload released twice: different blobs, so equal models cannot be recognised."""
    release(fleet, founding, tmp_path)
    release(fleet, founding, tmp_path, version="1.0.1", counter=8)
    with fleet.readers() as session:
        assert len(set(session.scalars(select(Variant.blob_sha256)))) == 2


# --- repeating and refusing -----------------------------------------------------------------------------------------
def test_repeating_a_release_changes_nothing(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    package = write_package(tmp_path / "a.efpkg")
    metadata = signed(fleet, founding, package)
    first = fleet.releases.create(tmp_path / "a.efpkg", metadata, "tester")
    files, stored = fleet.tuf.files(), blobs(fleet)
    again = fleet.releases.create(tmp_path / "a.efpkg", metadata, "tester")
    assert again.id == first.id
    assert (fleet.tuf.files(), blobs(fleet)) == (files, stored)
    with fleet.readers() as session:
        told = session.scalars(select(Audit.subject).where(Audit.action == "release.create")).all()
    assert list(told) == ["orientation 1.0.0"]


def test_signing_a_known_release_again_can_raise_its_security_floor(
    fleet: Fleet, founding: Founding, tmp_path: Path
) -> None:
    first = release(fleet, founding, tmp_path)
    package = write_package(tmp_path / "again.efpkg")
    again = fleet.releases.create(tmp_path / "again.efpkg", signed(fleet, founding, package, floor=7), "tester")
    models = Metadata[Targets].from_bytes(fleet.tuf.models()).signed
    assert again.id == first.id
    assert [target.custom for target in models.targets.values()] == [{"floor": 7}]


def refused(fleet: Fleet, path: Path, metadata: bytes, kind: type[FleetError], because: str) -> None:
    files, releases, stored = fleet.tuf.files(), rows(fleet, Release), blobs(fleet)
    with pytest.raises(kind, match=because):
        fleet.releases.create(path, metadata, "tester")
    assert (fleet.tuf.files(), rows(fleet, Release), blobs(fleet)) == (files, releases, stored)


def test_a_release_that_ci_signed_alone_is_refused(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    path = tmp_path / "a.efpkg"
    package, now = write_package(path), datetime.fromtimestamp(fleet.clock(), UTC)
    ci, person = release_signers(founding)
    for signers in ([ci], [person], [ci, ci], [ci, CryptoSigner.generate_ed25519()], []):
        metadata = add_release(fleet.tuf.models(), package, signers, floor=1, now=now)
        refused(fleet, path, metadata, UntrustedMetadata, "both release signatures")


def test_metadata_changed_after_signing_is_refused(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    package = write_package(tmp_path / "a.efpkg")
    metadata = signed(fleet, founding, package).replace(b'"floor":1', b'"floor":0')
    refused(fleet, tmp_path / "a.efpkg", metadata, UntrustedMetadata, "signatures")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"signed": {"_type": "targets"}, "signatures": []}'])
def test_what_is_no_metadata_is_refused(fleet: Fleet, tmp_path: Path, content: bytes) -> None:
    write_package(tmp_path / "a.efpkg")
    refused(fleet, tmp_path / "a.efpkg", content, UntrustedMetadata, "not TUF")


def test_metadata_of_another_role_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    write_package(tmp_path / "a.efpkg")
    refused(fleet, tmp_path / "a.efpkg", fleet.tuf.files()["timestamp.json"], UntrustedMetadata, "targets role")


def test_endless_metadata_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    write_package(tmp_path / "a.efpkg")
    endless = b" " * (tuf_metadata.MAX_MODELS_BYTES + 1)
    refused(fleet, tmp_path / "a.efpkg", endless, InputTooLarge, "at most")


def test_a_skipped_and_an_older_metadata_version_are_refused(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    path = tmp_path / "a.efpkg"
    package, now = write_package(path), datetime.fromtimestamp(fleet.clock(), UTC)
    signers = release_signers(founding)
    second = add_release(fleet.tuf.models(), package, signers, floor=1, now=now)
    skipped = add_release(second, package, signers, floor=1, now=now)
    refused(fleet, path, skipped, Conflict, "version 2 is next, got 3")
    release(fleet, founding, tmp_path, version="1.0.1", counter=8)
    refused(fleet, path, second, Conflict, "version 3 is next, got 2")


def test_expired_metadata_is_refused(fleet: Fleet, founding: Founding, tmp_path: Path, clock: SteppedClock) -> None:
    metadata = signed(fleet, founding, write_package(tmp_path / "a.efpkg"))
    clock.advance(timedelta(days=91).total_seconds())
    refused(fleet, tmp_path / "a.efpkg", metadata, ExpiredMetadata, "sign the release again")


def test_a_target_outside_the_delegation_is_refused(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    path = tmp_path / "a.efpkg"
    metadata = Metadata[Targets].from_bytes(signed(fleet, founding, write_package(path)))
    target = next(iter(metadata.signed.targets.values()))
    metadata.signed.targets["keys/director.json"] = target
    stray = tuf_metadata.sign(metadata.signed, release_signers(founding))
    refused(fleet, path, stray, UntrustedMetadata, "may not sign 'keys/director.json'")


def test_a_package_that_was_changed_after_signing_is_refused(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    path = tmp_path / "a.efpkg"
    metadata = signed(fleet, founding, write_package(path))
    other = tmp_path / "b.efpkg"
    write_package(other, counter=8)
    refused(fleet, other, metadata, ReleaseMismatch, "another models/orientation/1.0.0-ort-int8.json")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(fleet, path, metadata, FleetError, "package|payload")
    path.write_bytes(content[: len(content) // 2])
    refused(fleet, path, metadata, MalformedPackage, "cut")


def test_a_package_that_nobody_signed_is_refused(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    metadata = signed(fleet, founding, write_package(tmp_path / "a.efpkg"))
    write_package(tmp_path / "b.efpkg", version="2.0.0", counter=9)
    refused(fleet, tmp_path / "b.efpkg", metadata, ReleaseMismatch, "does not name models/orientation/2.0.0")


def test_a_version_is_released_once_with_one_content(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    release(fleet, founding, tmp_path)
    package = write_package(tmp_path / "b.efpkg", counter=8)
    with pytest.raises(Conflict, match="other contents"):
        signed(fleet, founding, package)
    empty = tuf_metadata.sign(
        Targets(1, expires=datetime.fromtimestamp(fleet.clock(), UTC) + timedelta(days=1)), release_signers(founding)
    )
    now = datetime.fromtimestamp(fleet.clock(), UTC)
    forced = add_release(empty, package, release_signers(founding), floor=1, now=now)
    refused(fleet, tmp_path / "b.efpkg", forced, Conflict, "other contents")


@pytest.mark.parametrize("counter", [7, 6])
def test_a_newer_version_counts_higher_than_any_before_in_its_slot(
    fleet: Fleet, founding: Founding, tmp_path: Path, counter: int
) -> None:
    release(fleet, founding, tmp_path)
    package = write_package(tmp_path / "b.efpkg", version="1.1.0", counter=counter)
    metadata = signed(fleet, founding, package)
    refused(fleet, tmp_path / "b.efpkg", metadata, Conflict, "release counter 7")


def test_a_release_below_its_own_floor_is_not_signed(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    with pytest.raises(BelowSecurityFloor, match="below the floor 8"):
        signed(fleet, founding, write_package(tmp_path / "a.efpkg"), floor=8)


def test_a_payload_that_is_not_the_manifests_is_refused(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    from fleet_protocol import package as packages

    made, payload = samples.sample()
    with (tmp_path / "a.efpkg").open("wb") as stream:
        packages.write(stream, [(made, payload[:-1] + b"\0")])
    good = write_package(tmp_path / "good.efpkg")
    refused(fleet, tmp_path / "a.efpkg", signed(fleet, founding, good), PayloadMismatch, "not the payload")


def test_two_engineers_who_sign_the_same_version_do_not_overwrite_each_other(
    fleet: Fleet, founding: Founding, tmp_path: Path
) -> None:
    packages = {name: tmp_path / f"{name}.efpkg" for name in ("1.1.0", "1.2.0")}
    metadata = {
        name: signed(fleet, founding, write_package(path, version=name, counter=10 + number))
        for number, (name, path) in enumerate(packages.items())
    }
    outcomes: list[type[FleetError] | None] = []

    def attempt(name: str) -> None:
        try:
            fleet.releases.create(packages[name], metadata[name], "tester")
        except FleetError as error:
            outcomes.append(type(error))
        else:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt, args=(name,)) for name in packages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count(None), outcomes.count(Conflict)) == (1, 1)
    assert (rows(fleet, Release), len(blobs(fleet))) == (1, 1)


# --- keys and online metadata ---------------------------------------------------------------------------------------
def test_a_signing_key_that_is_none_is_named_without_its_contents(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no signing key"):
        load_signer(tmp_path / "gone.pem")
    for content in (b"", b"secret words", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        (tmp_path / "key.pem").write_bytes(content)
        with pytest.raises(UnreadableKey) as refusal:
            load_signer(tmp_path / "key.pem")
        assert "secret words" not in str(refusal.value)


def test_the_timestamp_is_signed_again_before_it_runs_out_and_not_more_often(fleet: Fleet, clock: SteppedClock) -> None:
    before = fleet.tuf.revision
    assert not fleet.tuf.refresh(clock())
    clock.advance(5 * 3600)
    assert not fleet.tuf.refresh(clock())
    clock.advance(2 * 3600)
    assert fleet.tuf.refresh(clock())
    assert fleet.tuf.revision > before
    assert fleet.tuf.expiries()["timestamp"] == clock() + 86_400


def test_the_snapshot_is_signed_again_before_it_runs_out(fleet: Fleet, clock: SteppedClock, tmp_path: Path) -> None:
    clock.advance(6 * 86_400)
    assert fleet.tuf.refresh(clock())
    assert fleet.tuf.expiries()["snapshot"] == clock() + 7 * 86_400
    updater(fleet, tmp_path / "client", fleet.tuf.root())


def test_a_device_follows_releases_and_refreshes_without_a_gap(
    fleet: Fleet, founding: Founding, tmp_path: Path, clock: SteppedClock
) -> None:
    root = fleet.tuf.root()
    for number in range(3):
        release(fleet, founding, tmp_path, version=f"1.{number}.0", counter=10 + number)
        clock.advance(86_400)
        fleet.tuf.refresh(clock())
        client = updater(fleet, tmp_path / "client", root)
        assert client.get_targetinfo(f"models/orientation/1.{number}.0-ort-int8.json") is not None
    kept = {path.name for path in fleet.layout.tuf.glob("*.models.json")}
    assert "4.models.json" in kept
    assert "1.models.json" not in kept


def test_what_a_power_cut_leaves_beside_the_metadata_is_not_published(
    fleet: Fleet, founding: Founding, tmp_path: Path
) -> None:
    """models.json was written, snapshot and timestamp were not: the old set is still whole, and the release can be repeated."""
    path = tmp_path / "a.efpkg"
    metadata = signed(fleet, founding, write_package(path))
    before = fleet.tuf.files()
    (fleet.layout.tuf / "2.models.json").write_bytes(b"half a fi")
    assert fleet.tuf.files() == before
    fleet.releases.create(path, metadata, "tester")
    assert fleet.tuf.models() == metadata


def test_damaged_metadata_is_named_as_such(fleet: Fleet) -> None:
    (fleet.layout.tuf / "timestamp.json").write_bytes(b"{}")
    with pytest.raises(UntrustedMetadata, match="restore it from a backup"):
        fleet.tuf.files()


def test_what_an_interrupted_release_left_is_removed_at_the_next_start_and_nothing_else(
    fleet: Fleet, founding: Founding, tmp_path: Path
) -> None:
    release(fleet, founding, tmp_path)
    kept = blobs(fleet)
    (fleet.layout.blobs / ".new-half").write_bytes(b"x")
    (fleet.layout.blobs / ("0" * 64)).write_bytes(b"x")
    assert fleet.releases.sweep() == 2
    assert blobs(fleet) == kept
    assert fleet.releases.sweep() == 0
