"""The threads beside the web server: they repeat, they survive, and they lose nothing that was not committed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from sqlalchemy.exc import OperationalError

from fleet_protocol import messages, topics
from fleet_protocol.errors import BrokerUnreachable
from fleet_protocol.identifiers import DeviceId
from fleet_server.adapters.broker import Mosquitto, find_mosquitto
from fleet_server.adapters.mqtt import Identity, MqttLink, Received
from fleet_server.app import open_fleet
from fleet_server.background import MAX_REQUESTS, Intake, Loop, Requests, stop_all
from fleet_server.ceremony import Founding
from fleet_server.changes import EVERYTHING, MAX_PENDING, Change, ChangeFeed
from fleet_server.fleet import Fleet
from fleet_server.ports import Incoming
from fleet_server.services.ingest import Ingested
from tests.server.conftest import free_port
from tests.server.kit import SteppedClock, enrol
from tests.server.wire import eventually, wire_of


# --- loops ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "failure", [BrokerUnreachable("gone"), OperationalError("x", {}, OSError()), KeyError("defect")]
)
def test_a_loop_survives_a_step_that_fails_and_goes_on(failure: Exception) -> None:
    steps: list[int] = []

    def step() -> None:
        steps.append(len(steps))
        if len(steps) == 1:
            raise failure

    loop = Loop("test", step, 0.001)
    loop.start()
    try:
        eventually(lambda: len(steps) > 3 and loop.failures == 0, "the loop went on")
    finally:
        stop_all([loop], 2.0)
    assert not loop.is_alive()


def test_requests_for_chunks_are_bounded_and_the_newest_stay() -> None:
    requests, device = Requests(), DeviceId("cam-1")
    missing = messages.MissingChunks(blob_sha256="0" * 64, blob_bytes=100, bitmap=b"\1")
    requests.add([(DeviceId("cam-0"), missing)])
    requests.add([(device, missing)] * MAX_REQUESTS)
    taken = list(iter(requests.take, None))
    assert len(taken) == MAX_REQUESTS
    assert {each[0] for each in taken} == {device}


# --- intake ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def broker(founded_now: Founding, founding: Founding) -> Iterator[tuple[Fleet, Mosquitto]]:
    """A broker and an open fleet, and nothing that takes messages in."""
    import shutil
    import time

    shutil.rmtree(founding.state)
    shutil.copytree(founded_now.state, founding.state)
    fleet = open_fleet(founding.state, time.time, broker_port=free_port())
    running = Mosquitto(find_mosquitto(), fleet.config, fleet.layout, [])
    running.start()
    yield fleet, running
    running.stop()
    fleet.close()


@contextlib.contextmanager
def connected(fleet: Fleet, broker: Mosquitto) -> Iterator[MqttLink]:
    layout = fleet.layout
    link = MqttLink(broker.address, Identity(layout.ca_certificate, layout.mqtt_certificate, layout.mqtt_key))
    link.start()
    try:
        assert link.wait_connected(10)
        yield link
    finally:
        link.stop()


def collect(link: MqttLink, number: int) -> list[Received]:
    batch: list[Received] = []
    eventually(lambda: batch.extend(link.receive(100, 0.02, 0.1)) or len(batch) >= number, f"{number} messages came")
    return batch


def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(
    broker: tuple[Fleet, Mosquitto], tmp_path_factory: pytest.TempPathFactory
) -> None:
    fleet, mosquitto = broker
    device = enrol(fleet, "cam-1")
    wire = wire_of(device, mosquitto.address[1], fleet.layout.ca_certificate, tmp_path_factory.mktemp("identity"))
    topic = topics.HEALTH.of(device.id)
    with connected(fleet, mosquitto) as link:
        eventually(lambda: wire.publish(topic, b"0") == "Success", "the server has subscribed")
        first = collect(link, 1)
        for number in range(1, 4):
            wire.publish(topic, str(number).encode())
        rest = collect(link, 3)
        link.acknowledge([*first, *rest[:1]])
        wire.publish(topic, b"4")
        collect(link, 1)
    with connected(fleet, mosquitto) as link:
        again = [each.incoming.payload for each in collect(link, 3)]
        link.acknowledge([])
    wire.close()
    assert again == [b"2", b"3", b"4"]


def test_reports_sent_while_the_server_is_away_arrive_when_it_is_back(
    broker: tuple[Fleet, Mosquitto], tmp_path_factory: pytest.TempPathFactory
) -> None:
    fleet, mosquitto = broker
    device = enrol(fleet, "cam-1")
    wire = wire_of(device, mosquitto.address[1], fleet.layout.ca_certificate, tmp_path_factory.mktemp("identity"))
    topic = topics.DEPLOYMENT.of(device.id)
    with connected(fleet, mosquitto) as link:
        eventually(lambda: wire.publish(topic, b"first") == "Success", "the server has subscribed")
        link.acknowledge(collect(link, 1))
    for number in range(1500):
        wire._client.publish(topic, str(number).encode(), 1)
    wire.publish(topic, b"last")
    with connected(fleet, mosquitto) as link:
        got: list[Received] = []

        def more() -> bool:
            batch = link.receive(2000, 0.05, 0.1)
            link.acknowledge(batch)
            got.extend(batch)
            return bool(got) and got[-1].incoming.payload == b"last"

        eventually(more, "every report came")
    wire.close()
    assert [each.incoming.payload for each in got] == [str(number).encode() for number in range(1500)] + [b"last"]


def test_publishing_without_a_broker_is_refused_at_once(founding: Founding, fleet: Fleet) -> None:
    layout = fleet.layout
    identity = Identity(layout.ca_certificate, layout.mqtt_certificate, layout.mqtt_key)
    link = MqttLink(("127.0.0.1", free_port()), identity)
    with pytest.raises(BrokerUnreachable):
        link.publish(topics.METADATA, b"x", retain=True)
    assert not link.is_connected


@dataclass
class ForgetfulRegistry:
    """Takes batches, but the first few times the disk is full."""

    failures: int
    batches: list[list[bytes]] = field(default_factory=list)

    def apply(self, batch: Sequence[Incoming], now: float) -> Ingested:
        if self.failures:
            self.failures -= 1
            raise OperationalError("INSERT", {}, OSError(28, "disk full"))
        self.batches.append([each.payload for each in batch])
        return Ingested(len(batch), 0, 0, ())


def test_a_batch_that_could_not_be_committed_is_kept_and_acknowledged_only_after_it_was(
    broker: tuple[Fleet, Mosquitto], tmp_path_factory: pytest.TempPathFactory
) -> None:
    fleet, mosquitto = broker
    device = enrol(fleet, "cam-1")
    wire = wire_of(device, mosquitto.address[1], fleet.layout.ca_certificate, tmp_path_factory.mktemp("identity"))
    registry = ForgetfulRegistry(failures=2)
    with connected(fleet, mosquitto) as link:
        intake = Intake(link, registry, Requests(), SteppedClock(), lambda: 1, lambda: None)  # type: ignore[arg-type]
        eventually(lambda: wire.publish(topics.HEALTH.of(device.id), b"report") == "Success", "it was sent")
        refusals = 0

        def step() -> bool:
            nonlocal refusals
            try:
                intake.step()
            except OperationalError:
                refusals += 1
            return bool(registry.batches)

        eventually(step, "the batch was committed")
    wire.close()
    assert refusals == 2
    assert [b"report"] in registry.batches


# --- changes --------------------------------------------------------------------------------------------------------
async def taken(feed: AsyncIterator[Change], number: int) -> list[Change]:
    return [await anext(feed) for _ in range(number)]


async def subscribed(feed: ChangeFeed) -> tuple[AsyncIterator[Change], asyncio.Task[Change]]:
    """A subscription that is waiting for its first change."""
    stream = feed.subscribe()
    waiting = asyncio.ensure_future(anext(stream))
    while feed.subscribers == 0:  # noqa: ASYNC110  # there is no event for "a subscriber waits"
        await asyncio.sleep(0)  # one turn of the loop: the generator runs up to its first wait
    return stream, waiting


def test_a_subscriber_hears_changes_from_other_threads_in_order_and_merged() -> None:
    async def scenario() -> list[str]:
        feed = ChangeFeed()
        stream, waiting = await subscribed(feed)

        def publish() -> None:
            for name in ("cam-1", "cam-2", "cam-1", "cam-1"):
                feed.publish("device", name)

        thread = threading.Thread(target=publish)
        thread.start()
        thread.join()
        heard = [await waiting, *await taken(stream, 1)]
        feed.publish("rollout", "1")
        heard += await taken(stream, 1)
        return [str(each) for each in heard]

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == ["device:cam-1", "device:cam-2", "rollout:1"]


def test_a_slow_subscriber_is_told_to_refresh_everything() -> None:
    async def scenario() -> set[Change]:
        feed = ChangeFeed()
        stream, waiting = await subscribed(feed)
        for number in range(MAX_PENDING + 1):
            feed.publish("device", f"cam-{number}")
        heard = {await waiting}
        feed.close()
        return heard | {change async for change in stream}

    assert EVERYTHING in asyncio.run(asyncio.wait_for(scenario(), 10))


def test_closing_the_feed_ends_every_subscription_and_refuses_new_ones() -> None:
    async def scenario() -> tuple[list[Change], int]:
        feed = ChangeFeed()
        _, waiting = await subscribed(feed)
        feed.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        return [change async for change in feed.subscribe()], feed.subscribers

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == ([], 0)


def test_a_subscriber_that_left_is_forgotten() -> None:
    feed = ChangeFeed()

    async def leave() -> None:
        _, waiting = await subscribed(feed)
        waiting.cancel()

    asyncio.run(asyncio.wait_for(leave(), 10))
    feed.publish("device", "cam-1")
    assert feed.subscribers == 0
