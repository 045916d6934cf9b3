"""Reports survive a missing broker, a power cut, a damaged file and a full disk, within their space."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.spool import MAX_STATES, MIN_BYTES, SqliteSpool, drain, retry_delay
from fleet_protocol.errors import BrokerUnreachable, InputTooLarge
from tests.agent.inference_world import eventually

TOPIC = "edgefleet/v1/d/cam-1/up/health"


class Broker:
    """A broker that can go away: implements the Transport port, keeps what it acknowledged."""

    def __init__(self, *, is_connected: bool = True) -> None:
        self.is_connected = is_connected
        self.received: list[bytes] = []
        self.leaves_after: int | None = None

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        if not self.is_connected or len(self.received) == self.leaves_after:
            self.is_connected = False
            raise BrokerUnreachable("gone")
        self.received.append(payload)

    def subscribe(self, topics: Sequence[str]) -> None: ...

    def unsubscribe(self, topics: Sequence[str]) -> None: ...


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SqliteSpool]:
    spool = SqliteSpool(tmp_path / "spool.db", MIN_BYTES)
    yield spool
    spool.close()


@contextmanager
def draining(spool: SqliteSpool, broker: Broker) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=drain, args=(spool, broker, stop, lambda: 1.0))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def payloads(spool: SqliteSpool) -> list[bytes]:
    return [report.payload for report in spool.oldest(10_000)]


def put_numbered(spool: SqliteSpool, count: int, *, is_state: bool = False, size: int = 0) -> list[bytes]:
    reports = [b"%d" % number + b"." * size for number in range(count)]
    for report in reports:
        spool.put(TOPIC, report, is_state=is_state)
    return reports


def space(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("spool.db*"))


def test_reports_wait_while_the_broker_is_away_and_none_is_lost(spool: SqliteSpool) -> None:
    broker = Broker(is_connected=False)
    with draining(spool, broker):
        reports = put_numbered(spool, 50)
        assert spool.depth == 50
        broker.is_connected = True
        eventually(lambda: spool.depth == 0, "everything was delivered")
    assert broker.received == reports
    assert spool.dropped == 0


def test_a_broker_that_leaves_in_mid_delivery_gets_the_rest_later_in_order(spool: SqliteSpool) -> None:
    broker = Broker()
    broker.leaves_after = 7
    reports = put_numbered(spool, 20)
    with draining(spool, broker):
        eventually(lambda: not broker.is_connected, "it left")
        eventually(lambda: spool.depth == 13, "what it acknowledged is forgotten")
        broker.leaves_after = None
        broker.is_connected = True
        eventually(lambda: spool.depth == 0, "everything was delivered")
    assert broker.received == reports


def test_waiting_ends_when_a_report_comes(spool: SqliteSpool) -> None:
    assert spool.wait(0.01) is False
    threading.Timer(0.05, lambda: spool.put(TOPIC, b"x", is_state=False)).start()
    assert spool.wait(10) is True


def test_a_power_cut_loses_nothing_that_was_put(spool: SqliteSpool, tmp_path: Path) -> None:
    """The files as they are on disk at this moment, without any chance to close them."""
    reports = put_numbered(spool, 30, is_state=True)
    after = tmp_path / "after-the-cut"
    after.mkdir()
    for name in ("spool.db", "spool.db-wal"):
        shutil.copy(tmp_path / name, after / name)

    again = SqliteSpool(after / "spool.db", MIN_BYTES)
    assert payloads(again) == reports
    again.close()


def test_the_space_is_never_exceeded_and_the_newest_samples_are_kept(spool: SqliteSpool, tmp_path: Path) -> None:
    largest = 0
    for number in range(1500):
        spool.put(TOPIC, b"%06d" % number + b"." * (number % 3000), is_state=False)
        largest = max(largest, space(tmp_path))
    kept = [int(each[:6]) for each in payloads(spool)]

    assert largest <= MIN_BYTES
    assert kept == list(range(1500 - len(kept), 1500))
    assert len(kept) > 10
    assert spool.dropped == 1500 - len(kept)


def test_samples_go_before_states(spool: SqliteSpool) -> None:
    states = put_numbered(spool, 40, is_state=True)
    put_numbered(spool, 400, size=1000)
    kept = payloads(spool)
    assert kept[:40] == states
    assert len(kept) > 40
    assert spool.dropped == 440 - len(kept)


def test_even_states_are_bounded_and_the_newest_stay(spool: SqliteSpool, tmp_path: Path) -> None:
    put_numbered(spool, 10)
    states = put_numbered(spool, MAX_STATES + 5, is_state=True)
    assert payloads(spool) == states[5:]
    assert spool.dropped == 15
    assert space(tmp_path) <= MIN_BYTES


def test_the_space_is_given_back_once_everything_was_delivered(spool: SqliteSpool, tmp_path: Path) -> None:
    put_numbered(spool, 200, size=500)
    full = (tmp_path / "spool.db").stat().st_size
    with draining(spool, Broker()):
        eventually(lambda: spool.depth == 0, "everything was delivered")
    spool.close()
    assert (tmp_path / "spool.db").stat().st_size < full / 2


def test_numbers_and_drops_are_remembered_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    one = SqliteSpool(path, MIN_BYTES, clock=lambda: 1000.0)
    assert [one.next_number("health"), one.next_number("health")] == [1000, 1001]
    put_numbered(one, 400, size=1000)
    dropped = one.dropped
    one.close()
    two = SqliteSpool(path, MIN_BYTES, clock=lambda: 5.0)
    assert two.next_number("health") == 1002
    assert two.dropped == dropped > 0
    two.close()


def test_numbers_grow_even_when_the_file_is_lost(tmp_path: Path) -> None:
    """A server drops what is not newer; a device must not fall silent because its disk forgot."""
    one = SqliteSpool(tmp_path / "spool.db", MIN_BYTES, clock=lambda: 1000.0)
    last = [one.next_number("health") for _ in range(20)][-1]
    one.close()
    (tmp_path / "spool.db").unlink()
    two = SqliteSpool(tmp_path / "spool.db", MIN_BYTES, clock=lambda: 1600.0)
    assert two.next_number("health") > last
    two.close()


@pytest.mark.parametrize("damage", ["header", "middle", "everything"])
def test_a_damaged_file_is_put_aside_and_a_new_one_begins(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "spool.db"
    spool = SqliteSpool(path, MIN_BYTES)
    put_numbered(spool, 100, size=500)
    spool.close()
    content = bytearray(path.read_bytes())
    first, end = {"header": (0, 100), "middle": (8192, 20480), "everything": (0, len(content))}[damage]
    content[first:end] = os.urandom(end - first)
    path.write_bytes(content)

    again = SqliteSpool(path, MIN_BYTES)

    assert payloads(again) == []
    assert put_numbered(again, 3) == payloads(again)
    again.close()
    assert (tmp_path / "spool.db.damaged").read_bytes()[first:end] == content[first:end]


def test_damage_that_shows_while_running_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = SqliteSpool(path, MIN_BYTES)
    put_numbered(spool, 100, size=900)
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(20 * 4096))

    for number in range(200):
        spool.put(TOPIC, b"after %d" % number, is_state=False)

    assert payloads(spool)[-1] == b"after 199"
    spool.close()


def test_a_disk_that_takes_nothing_costs_the_report_and_is_counted(tmp_path: Path) -> None:
    """The limit on file size makes SQLite's writes fail as a full disk does."""
    script = (
        "import resource, sys, pathlib\n"
        "from edge_agent.spool import SqliteSpool\n"
        "spool = SqliteSpool(pathlib.Path(sys.argv[1]), 1 << 20)\n"
        "spool.put('t', b'before', is_state=True)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))\n"
        "for number in range(100):\n"
        "    spool.put('t', b'x' * 4000, is_state=False)\n"
        "print(spool.depth, spool.dropped, spool.oldest(1)[0].payload.decode())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "spool.db"], check=True, capture_output=True, text=True, timeout=60
    )
    depth, dropped, oldest = run.stdout.split()
    assert int(depth) + int(dropped) == 101
    assert int(dropped) > 0
    assert oldest == "before"


def test_a_report_larger_than_a_message_may_be_is_refused_before_it_blocks_the_queue(spool: SqliteSpool) -> None:
    spool.put(TOPIC, bytes(16_384), is_state=False)
    with pytest.raises(InputTooLarge):
        spool.put(TOPIC, bytes(16_385), is_state=False)


def test_the_wait_after_failures_grows_is_bounded_and_jittered() -> None:
    assert [retry_delay(failures, 0.0) for failures in (1, 2, 3, 6, 60, 10_000)] == [0.5, 1.0, 2.0, 15.0, 15.0, 15.0]
    assert retry_delay(3, 1.0) == 1.0
