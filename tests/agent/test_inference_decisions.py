"""The decisions of the inference side as values: who serves after which move, when a worker is started again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.inference.residents import Resident, Residents
from edge_agent.inference.results import Result, ResultLog
from edge_agent.inference.tally import MAX_CLASSES, Tally, bake_window, restart_delay, slot_health
from fleet_protocol.identifiers import SlotName


def resident() -> Resident:
    """The moves never look inside a resident."""
    return Resident(cast("Any", None), cast("Any", None))


OLD, NEW, NEWER = resident(), resident(), resident()


def baking(old: Resident | None = OLD) -> Residents:
    return Residents(serving=old).stage(NEW)[0].switch()[0]


def test_a_switch_keeps_the_old_one_and_a_commit_lets_it_go() -> None:
    after, leaving = Residents(serving=OLD, staged=NEW).switch()
    assert (after.serving, after.kept, after.staged, leaving) == (NEW, OLD, None, ())
    after, leaving = after.commit()
    assert (after.serving, after.kept, leaving) == (NEW, None, (OLD,))
    assert after.revert() == (after, ())


@pytest.mark.parametrize("old", [OLD, None])
def test_a_revert_returns_to_the_old_one_and_the_second_revert_does_nothing(old: Resident | None) -> None:
    after, leaving = baking(old).revert()
    assert (after.serving, leaving) == (old, (NEW,))
    assert after.revert() == (after, ())


def test_a_switch_with_nothing_staged_is_a_mistake_of_the_program() -> None:
    with pytest.raises(RuntimeError, match="without a staged model"):
        Residents(serving=OLD).switch()


def test_staging_twice_lets_the_first_go_and_so_does_a_second_switch_with_the_kept() -> None:
    after, leaving = Residents(serving=OLD, staged=NEW).stage(NEWER)
    assert (after.staged, leaving) == (NEWER, (NEW,))
    after, leaving = baking().stage(NEWER)[0].switch()
    assert (after.serving, after.kept, leaving) == (NEWER, NEW, (OLD,))


def test_a_worker_started_again_takes_its_place_only_if_it_is_still_its_place() -> None:
    assert Residents(serving=OLD).revive(OLD, NEWER) == (Residents(serving=NEWER), (OLD,))
    moved_on = Residents(serving=NEW)
    assert moved_on.revive(OLD, NEWER) == (moved_on, (NEWER,))
    assert moved_on.give_up(OLD) == (moved_on, ())
    assert Residents(serving=OLD).give_up(OLD) == (Residents(), (OLD,))


def test_clearing_lets_everybody_go() -> None:
    after, leaving = baking().stage(NEWER)[0].clear()
    assert after == Residents()
    assert set(leaving) == {OLD, NEW, NEWER}


@pytest.mark.parametrize(
    ("deaths", "delay"),
    [([100.0], 0.0), ([70.0, 100.0], 2.0), ([60.0, 80.0, 100.0], None), ([10.0, 20.0, 39.0, 100.0], 0.0)],
)
def test_three_deaths_within_a_minute_are_too_many(deaths: list[float], delay: float | None) -> None:
    assert restart_delay(deaths, 100.0) == delay


def test_a_bake_window_counts_failed_frames_among_its_frames() -> None:
    tally = Tally()
    for latency in (1.0, 2.0, 3.0):
        tally.count(latency, 0)
    tally.count_error()
    window = bake_window(tally, "")
    assert (window.frames, window.errors, window.is_alive) == (4, 1, True)
    assert window.p95_ms == pytest.approx(2.0, rel=0.03) or window.p95_ms == pytest.approx(3.0, rel=0.03)
    assert bake_window(Tally(), "SIGSEGV").p95_ms is None
    assert not bake_window(Tally(), "SIGSEGV").is_alive


def test_predictions_beyond_the_last_counted_class_are_frames_all_the_same() -> None:
    tally = Tally()
    for index in (0, MAX_CLASSES - 1, MAX_CLASSES, 5000):
        tally.count(1.0, index)
    health = slot_health(SlotName("cam"), None, tally, 7, 2.0)
    assert len(health.predictions) == MAX_CLASSES
    assert (sum(health.predictions), health.frames, health.fps, health.dropped) == (2, 4, 2.0, 7)
    assert (health.served_sha256, health.model, health.version) == ("", "", "")


def result(frame: int) -> Result:
    return Result(
        at=1.5, frame=frame, source="a.png", label="red", index=2, confidence=0.9, latency_ms=3.0, model="tint",
        version="1", manifest="ab",
    )  # fmt: skip


def test_results_fill_two_files_and_never_more(tmp_path: Path) -> None:
    log = ResultLog(tmp_path / "deep" / "results.jsonl", max_bytes=1000)
    for frame in range(100):
        log.append(result(frame))

    files = sorted((tmp_path / "deep").iterdir())
    assert [file.name for file in files] == ["results.jsonl", "results.jsonl.1"]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert json.loads(files[0].read_text().splitlines()[-1])["frame"] == 99
    newest = [json.loads(line)["frame"] for file in reversed(files) for line in file.read_text().splitlines()]
    assert newest == list(range(newest[0], 100))


def test_a_place_that_takes_no_results_costs_the_results_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "occupied").write_text("a file where a folder should be")
    log = ResultLog(tmp_path / "occupied" / "results.jsonl")
    log.append(result(1))
    log.append(result(2))
    assert len([each for each in caplog.records if "cannot be written" in each.message]) == 1
    (tmp_path / "occupied").unlink()
    log.append(result(3))
    assert (tmp_path / "occupied" / "results.jsonl").read_text().count("\n") == 1
