"""Downloads on a real disk: resumed after anything, bounded by the room there is, ciphertext only."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edge_agent.adapters.slots import SYNC_CHUNKS, BlobStore, PartialBlob, verify_blob
from edge_agent.delivery import Limits
from edge_agent.ports import SealedModel
from fleet_protocol import envelope, topics
from fleet_protocol.errors import ChunkTampered, DiskFull, PayloadMismatch
from fleet_protocol.identifiers import digest_of
from fleet_protocol.states import DeploymentState
from tests.agent.tuf_world import Device, SimulatedInference, World
from tests.protocol import samples

S = DeploymentState


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def installed(world: World, tmp_path: Path) -> Device:
    """A device that serves 1.0.0 and has 2.0.0, with only some of its chunks at the broker, assigned to it."""
    world.assign(world.release("1.0.0", model_bytes=50_000))
    device = Device(world, tmp_path / "state", limits=Limits(stall_s=5.0)).start().run(12)
    assert device.serves == "1.0.0"
    return device


def withhold(world: World, sealed: samples.Sealed, *indexes: int) -> dict[str, bytes]:
    return {
        topic: world.broker.retained.pop(topic)
        for topic in (topics.chunk_topic(sealed.blob_digest, index) for index in indexes)
    }


def asked_for(device: Device, since: int = 0) -> list[int]:
    return [int(topic.rpartition("/")[2]) for topic in device.link.asked[since:] if "/blob/" in topic]


@contextmanager
def no_file_beyond(limit_bytes: int) -> Iterator[None]:
    """The kernel refuses to make any file longer, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_nothing_is_asked_for_twice_on_a_good_link(installed: Device, world: World) -> None:
    since = len(installed.link.asked)
    second = world.release("2.0.0", model_bytes=2_000_000)
    world.assign(second)
    installed.run(12)
    assert installed.serves == "2.0.0"
    assert sorted(asked_for(installed, since)) == list(range(envelope.message_count(len(second.blob))))


def test_a_restart_asks_only_for_what_is_missing(installed: Device, world: World) -> None:
    second = world.release("2.0.0", model_bytes=2_000_000)
    held = withhold(world, second, 40, 50, 60)
    world.assign(second)
    installed.run(8)
    assert installed.last.state is S.DOWNLOADING
    installed.link.cut()
    installed.run(1)
    installed.close()
    world.broker.retained |= held

    again = Device(world, installed.state, clock=installed.clock, inference=SimulatedInference()).start().run(12)

    assert again.serves == "2.0.0"
    assert sorted(asked_for(again)) == [40, 50, 60]


def test_a_power_cut_costs_at_most_the_chunks_since_the_last_sync(tmp_path: Path) -> None:
    made, payload = samples.sample(3_000_000)
    sealed = samples.Sealed(made, payload, X25519PrivateKey.generate())
    partial = PartialBlob(tmp_path / "blob.part", len(sealed.blob))
    written = SYNC_CHUNKS + 10
    for index in range(written):
        start, end = envelope.message_span(index, len(sealed.blob))
        partial.write(index, sealed.blob[start:end])
    partial.close()  # without a sync: as after a power cut
    again = PartialBlob(tmp_path / "blob.part", len(sealed.blob))
    assert again.missing() == set(range(SYNC_CHUNKS, again.total))
    again.close()


def test_a_bitmap_of_another_length_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "blob.map").write_bytes(b"\xff")
    partial = PartialBlob(tmp_path / "blob.part", 3_000_000)
    assert len(partial.missing()) == partial.total
    partial.close()


def test_a_cut_link_resumes_with_what_is_missing(installed: Device, world: World) -> None:
    second = world.release("2.0.0", model_bytes=2_000_000)
    held = withhold(world, second, *range(30, 62))
    world.assign(second)
    installed.run(3)
    installed.link.cut()
    world.broker.retained |= held
    since = len(installed.link.asked)
    installed.run(1)
    installed.link.connect()
    installed.run(12)
    assert installed.serves == "2.0.0"
    assert min(asked_for(installed, since)) == 30


def test_chunks_that_do_not_come_are_reported_and_taken_when_they_are_published_again(
    installed: Device, world: World
) -> None:
    second = world.release("2.0.0", model_bytes=500_000)
    held = withhold(world, second, 7, 9)
    world.assign(second)
    installed.run(9)
    report = installed.missing()[-1]
    total = envelope.message_count(len(second.blob))
    assert {index for index in range(total) if report.bitmap[index // 8] >> (index % 8) & 1} == {7, 9}
    for topic, content in held.items():
        world.broker.retain(topic, content)
    installed.run(12)
    assert installed.serves == "2.0.0"


def test_a_full_disk_is_seen_before_the_download_and_the_old_model_serves_on(world: World, tmp_path: Path) -> None:
    world.assign(world.release("1.0.0", model_bytes=50_000))
    device = Device(world, tmp_path / "state").start().run(12)
    device.close()
    world.assign(world.release("2.0.0", model_bytes=500_000))
    full = Device(
        world, device.state, clock=device.clock, inference=SimulatedInference(), reserve_bytes=1 << 60
    ).start()
    full.run(5)
    assert (full.last.state, full.last.code, full.serves) == (S.FAILED, "disk-full", "1.0.0")
    assert len(full.blobs()) == 1


def test_a_disk_that_fills_up_when_the_download_begins_leaves_nothing_behind(installed: Device, world: World) -> None:
    world.assign(world.release("2.0.0", model_bytes=3_000_000))
    with no_file_beyond(1_000_000):
        installed.run(5)
    assert (installed.last.state, installed.last.code, installed.serves) == (S.FAILED, "disk-full", "1.0.0")
    assert len(installed.blobs()) == 1


def test_a_disk_that_fills_up_in_the_middle_is_told_as_such(tmp_path: Path) -> None:
    partial = PartialBlob(tmp_path / "blob.part", 3_000_000)
    last = partial.total - 1
    start, end = envelope.message_span(last, 3_000_000)
    with no_file_beyond(1_000_000), pytest.raises(DiskFull, match="the old model goes on serving"):
        partial.write(last, bytes(end - start))
    assert last in partial.missing()
    partial.remove()
    assert list(tmp_path.iterdir()) == []


def test_after_a_full_disk_the_same_release_can_be_installed_once_there_is_room(
    installed: Device, world: World
) -> None:
    second = world.release("2.0.0", model_bytes=3_000_000)
    world.assign(second)
    with no_file_beyond(1_000_000):
        installed.run(5)
    world.assign(second)
    installed.run(12)
    assert installed.serves == "2.0.0"


def test_a_journal_that_cannot_be_written_stops_the_install_and_not_the_model(installed: Device, world: World) -> None:
    world.assign(world.release("2.0.0", model_bytes=50_000))
    size = (installed.state / "journal.db-wal").stat().st_size
    with no_file_beyond(size):
        installed.run(3)
        assert (installed.serves, installed.journal.remembered.seq) == ("1.0.0", 1)
    installed.run(30)
    assert installed.serves == "2.0.0"


def sealed_model(tmp_path: Path, blob: bytes | None = None) -> tuple[SealedModel, samples.Sealed]:
    sealed = samples.Sealed(*samples.sample(100_000), X25519PrivateKey.generate())
    path = tmp_path / "blob"
    path.write_bytes(sealed.blob if blob is None else blob)
    return SealedModel(sealed.manifest, sealed.digest, path, sealed.key), sealed


def test_a_whole_blob_is_verified_from_its_first_to_its_last_byte(tmp_path: Path) -> None:
    model, sealed = sealed_model(tmp_path)
    verify_blob(model, sealed.blob_digest)
    for at in (0, 30, 60, 50_000, len(sealed.blob) - 1):
        damaged = bytearray(sealed.blob)
        damaged[at] ^= 1
        model.blob.write_bytes(damaged)
        with pytest.raises(ChunkTampered):
            verify_blob(model, sealed.blob_digest)
    model.blob.write_bytes(sealed.blob[:-1])
    with pytest.raises(ChunkTampered):
        verify_blob(model, sealed.blob_digest)
    model.blob.write_bytes(sealed.blob)
    with pytest.raises(PayloadMismatch, match="ciphertext"):
        verify_blob(model, digest_of(b"another"))


@pytest.mark.attack("30")
def test_a_payload_that_is_longer_than_released_is_refused_before_it_is_read_to_the_end(tmp_path: Path) -> None:
    model, sealed = sealed_model(tmp_path)
    endless = b"".join(envelope.seal([bytes(5_000_000)], sealed.key, sealed.digest))
    model.blob.write_bytes(endless)
    with pytest.raises(PayloadMismatch, match="longer"):
        verify_blob(model, digest_of(endless))


def test_sweeping_keeps_what_is_referenced_and_nothing_else(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 0)
    keep, drop = digest_of(b"keep"), digest_of(b"drop")
    for blob in (keep, drop):
        for suffix in ("blob", "part", "map"):
            (tmp_path / f"{blob}.{suffix}").write_bytes(b"x")
    (tmp_path / "note.txt").write_bytes(b"x")
    store.sweep(frozenset({keep}))
    assert {path.name for path in tmp_path.iterdir()} == {f"{keep}.blob", f"{keep}.part", f"{keep}.map", "note.txt"}
