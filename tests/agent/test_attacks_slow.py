"""Slow retrieval: a broker that lets one chunk through now and then cannot keep a device on its way for ever (SPEC 7.5.1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.delivery import LEAST_CHUNKS, Limits, Window
from fleet_protocol import topics
from fleet_protocol.states import DeploymentState
from tests.agent.tuf_world import Device, World
from tests.protocol import samples

S = DeploymentState
PATIENCE_S = 60.0
LIMITS = Limits(stall_s=5.0, patience_s=PATIENCE_S)
pytestmark = pytest.mark.attack("4")


def starved(world: World, tmp_path: Path) -> tuple[Device, samples.Sealed]:
    """A device that serves 1.0.0 and wants 2.0.0, whose chunks the broker holds back."""
    world.assign(world.release("1.0.0"))
    device = Device(world, tmp_path / "state", limits=LIMITS).start().run(12)
    assert device.serves == "1.0.0"
    second = world.release("2.0.0", model_bytes=1_000_000)
    for topic in [
        topic for topic in world.broker.retained if topic.startswith(f"edgefleet/v1/blob/{second.blob_digest}")
    ]:
        del world.broker.retained[topic]
    world.assign(second)
    return device, second


def trickle(world: World, device: Device, sealed: samples.Sealed, *, every_s: float, count: int) -> None:
    from fleet_protocol import envelope

    for index in range(count):
        start, end = envelope.message_span(index, len(sealed.blob))
        world.broker.retain(topics.chunk_topic(sealed.blob_digest, index), sealed.blob[start:end])
        device.run(every_s)


def test_4_a_trickle_ends_the_download_the_old_model_serves_and_a_report_says_so(tmp_path: Path) -> None:
    world = World()
    device, second = starved(world, tmp_path)
    trickle(world, device, second, every_s=20.0, count=5)
    assert (device.last.state, device.last.code) == (S.FAILED, "download-stalled")
    assert device.serves == "1.0.0"
    assert device.missing(), "and the server was told which chunks did not come"
    assert len(device.blobs()) == 1


def test_4_a_slow_link_that_brings_enough_is_let_be(tmp_path: Path) -> None:
    world = World()
    device, second = starved(world, tmp_path)
    trickle(world, device, second, every_s=4.0, count=31)
    device.run(12)
    assert device.serves == "2.0.0"


def test_4_times_without_a_link_are_nobodys_slowness(tmp_path: Path) -> None:
    world = World()
    device, _ = starved(world, tmp_path)
    for _ in range(5):
        device.run(PATIENCE_S / 2)
        device.link.cut()
        device.run(PATIENCE_S)
        device.link.connect()
    assert device.last.state is S.DOWNLOADING
    device.run(PATIENCE_S + 2)
    assert (device.last.state, device.last.code) == (S.FAILED, "download-stalled")


@pytest.mark.parametrize(("came", "is_too_slow"), [(0, True), (LEAST_CHUNKS - 1, True), (LEAST_CHUNKS, False)])
def test_4_each_period_is_judged_on_its_own(came: int, is_too_slow: bool) -> None:
    window = Window(set(range(100)), LIMITS)
    assert window.too_slow(1e9) is None, "nothing was asked for yet"
    window.next(0.0)
    for index in range(came):
        window.arrived(index, 1.0)
    assert window.too_slow(PATIENCE_S - 1) is None
    assert (window.too_slow(PATIENCE_S) is not None) is is_too_slow
    assert window.too_slow(PATIENCE_S + 1) is None, "a new period began"
    assert window.too_slow(2 * PATIENCE_S) is not None
