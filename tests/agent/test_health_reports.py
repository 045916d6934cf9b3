"""What a device says of itself: every registered metric, in time, cheap."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.adapters.sensors import PsutilSensors, hottest
from edge_agent.health import Backlog, HealthLoop, Identity, build_report
from edge_agent.ports import Standing, Vitals
from edge_agent.runtimes import measure_fingerprint
from edge_agent.spool import MIN_BYTES, SqliteSpool
from fleet_protocol import messages, topics
from fleet_protocol.identifiers import DeviceId
from fleet_protocol.messages import HealthReport
from fleet_protocol.sketch import Sketch
from fleet_protocol.telemetry import DEVICE_METRICS, SLOT_METRICS
from tests.agent.inference_world import CAM, eventually, folder_of_pictures, running, slot, the_board
from tests.agent.tiny_model import TinyRelease

STANDING = Standing(assignment_seq=7, root_version=2, timestamp_version=40, trusted_time_s=1_700_000_000.0)
VITALS = Vitals(12.5, 1000, 4000, 200, 9000, 51.0)


def identity() -> Identity:
    return Identity(DeviceId("cam-7"), "boot-1", measure_fingerprint(the_board()), started_at=time.monotonic())


def reports_in(spool: SqliteSpool) -> list[HealthReport]:
    return [messages.decode(each.payload, HealthReport) for each in spool.oldest(1000)]


def report_at(now: float, standing: Standing = STANDING) -> HealthReport:
    return build_report(
        identity(), VITALS, standing, Backlog(3, 4), (), seq=1, now=now, monotonic=time.monotonic() + 60.0
    )


def test_a_report_repeats_what_it_was_given() -> None:
    report = report_at(1_800_000_000.0)
    assert (report.cpu_percent, report.memory_used_bytes, report.temperature_celsius) == (12.5, 1000, 51.0)
    assert (report.assignment_seq, report.root_version, report.timestamp_version) == (7, 2, 40)
    assert (report.spool_depth, report.spool_dropped) == (3, 4)
    assert report.uptime_s == pytest.approx(60.0, abs=5.0)


@pytest.mark.parametrize(
    ("now", "at", "offset"), [(0.0, 1_700_000_000.0, 1_700_000_000.0), (1_800_000_000.0, 1_800_000_000.0, 0.0)]
)
def test_a_clock_in_1970_is_corrected_to_the_trusted_time(now: float, at: float, offset: float) -> None:
    report = report_at(now)
    assert (report.at, report.clock_offset_s, report.trusted_time) == (at, offset, 1_700_000_000.0)


def test_every_registered_metric_is_measured_on_this_machine(tmp_path: Path) -> None:
    """With a real model, real sensors and the real spool; only the temperature may be missing."""
    camera, model = folder_of_pictures(tmp_path / "camera"), TinyRelease().seal(tmp_path / "blobs")
    spool = SqliteSpool(tmp_path / "spool.db", MIN_BYTES)
    with running(tmp_path, slot(camera, fps=200.0)) as engine:
        loop = HealthLoop(identity(), PsutilSensors(tmp_path), engine, lambda: STANDING, spool, 30.0)
        engine.serve(model)
        eventually(lambda: engine.bake_window(CAM).frames > 5, "six frames")
        loop.report()
    (report,) = reports_in(spool)
    spool.close()

    (served,) = report.slots
    assert {metric.name for metric in DEVICE_METRICS} == set(HealthReport.__struct_fields__) - {"schema"}
    assert {metric.name for metric in SLOT_METRICS} == set(type(served).__struct_fields__)
    may_be_zero = {"cpu_percent", "clock_offset_s", "spool_depth", "spool_dropped", "errors", "dropped"}
    for source, metrics in ((report, DEVICE_METRICS), (served, SLOT_METRICS)):
        empty = {metric.name for metric in metrics if not getattr(source, metric.name)}
        assert empty <= may_be_zero | {"temperature_celsius"}
    assert served.served_sha256 == model.digest
    assert Sketch.decode(served.latency).total == served.frames
    assert report.agent_rss_bytes > 50 * 1024**2, "a worker with a runtime counts"
    assert report.fingerprint.board == "generic-x86_64"


def test_a_report_follows_a_change_of_what_is_served_at_once(tmp_path: Path) -> None:
    camera, model = folder_of_pictures(tmp_path / "camera"), TinyRelease().seal(tmp_path / "blobs")
    spool = SqliteSpool(tmp_path / "spool.db", MIN_BYTES)
    woken = threading.Event()
    with running(tmp_path, slot(camera), served_changed=woken.set) as engine:
        loop = HealthLoop(identity(), PsutilSensors(tmp_path), engine, lambda: STANDING, spool, 3600.0)
        with reporting(loop):
            eventually(lambda: len(reports_in(spool)) == 1, "the first report comes at the start")
            engine.serve(model)
            assert woken.wait(5)
            loop.wake()
            eventually(lambda: len(reports_in(spool)) == 2, "the second does not wait for an hour")
    first, second = reports_in(spool)
    spool.close()
    assert (first.slots[0].served_sha256, second.slots[0].served_sha256) == ("", model.digest)
    assert second.seq == first.seq + 1
    assert spool_topic() == "edgefleet/v1/d/cam-7/up/health"


@contextmanager
def reporting(loop: HealthLoop) -> Iterator[None]:
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield
    finally:
        loop.stop()
        thread.join(10)
    assert not thread.is_alive()


def spool_topic() -> str:
    return topics.HEALTH.of(DeviceId("cam-7"))


def test_a_report_costs_far_less_than_a_hundredth_of_a_core(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "spool.db", MIN_BYTES)
    with running(tmp_path, slot(tmp_path)) as engine:
        loop = HealthLoop(identity(), PsutilSensors(tmp_path), engine, lambda: STANDING, spool, 30.0)
        before = time.process_time()
        for _ in range(20):
            loop.report()
        cost_s = (time.process_time() - before) / 20
    spool.close()
    assert cost_s < 0.01 * 30.0


@pytest.mark.parametrize(
    ("celsius", "found"), [([], None), ([41.0, 63.5], 63.5), ([-273.15, 0.0, 4000.0], None), ([0.0, 20.0], 20.0)]
)
def test_broken_sensors_do_not_count(celsius: list[float], found: float | None) -> None:
    assert hottest(celsius) == found
