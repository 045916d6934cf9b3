"""Slots at work with real workers and real pictures: no gap at a switch, nothing lost when a worker dies, no plaintext."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from edge_agent.worker.client import WorkerLimits
from fleet_protocol.errors import GoldenFramesDiffer, ModelNotLoadable
from fleet_protocol.sketch import Sketch
from tests.agent.inference_world import (
    CAM,
    eventually,
    folder_of_pictures,
    results_of,
    running,
    shares_a_run,
    slot,
)
from tests.agent.tiny_model import (
    LABELS,
    TinyRelease,
    classifier,
    fails_on_dark_frames,
    golden_frames,
    hangs_on_dark_frames,
)

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    return folder_of_pictures(tmp_path / "camera")


def second_release() -> TinyRelease:
    return TinyRelease(version="2.0.0", model=classifier(seed=2))


def test_a_served_model_answers_every_picture_of_its_source(tmp_path: Path, camera: Path) -> None:
    model = TinyRelease().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera)) as engine:
        assert engine.serving(CAM) is None
        engine.serve(model)
        assert engine.serving(CAM) == model.digest
        eventually(lambda: len(results_of(tmp_path)) >= 6, "six results")

    for result in results_of(tmp_path):
        assert result.label == result.source.removesuffix(".png").split("-")[1]
        assert (result.model, result.version, result.manifest) == ("tint", "1.0.0", model.digest)
        assert result.latency_ms > 0


def test_a_switch_loses_no_frame_and_a_revert_neither(tmp_path: Path, camera: Path) -> None:
    """From the last answer of one model to the first of the other, at most the next frame number is missing."""
    old, new = TinyRelease().seal(tmp_path / "blobs"), second_release().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera, fps=100.0)) as engine:
        engine.serve(old)
        eventually(lambda: len(results_of(tmp_path)) > 10, "the old model serves")
        assert engine.stage(new).frames == 3
        assert engine.serving(CAM) == old.digest
        engine.switch(CAM)
        eventually(lambda: engine.bake_window(CAM).frames > 10, "the new model serves")
        assert engine.serving(CAM) == new.digest
        engine.revert(CAM)
        assert engine.serving(CAM) == old.digest
        eventually(lambda: engine.bake_window(CAM).frames > 10, "the old model serves again")
        engine.revert(CAM)
        assert engine.serving(CAM) == old.digest

    results = results_of(tmp_path)
    changes = [(a, b) for a, b in itertools.pairwise(results) if a.manifest != b.manifest]
    assert [(a.version, b.version) for a, b in changes] == [("1.0.0", "2.0.0"), ("2.0.0", "1.0.0")]
    for before, after in changes:
        assert after.frame - before.frame <= 2


def test_the_old_worker_stays_until_the_commit_and_not_longer(tmp_path: Path, camera: Path) -> None:
    old, new = TinyRelease().seal(tmp_path / "blobs"), second_release().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera)) as engine:
        engine.serve(old)
        (old_pid,) = engine.worker_pids()
        engine.stage(new)
        engine.switch(CAM)
        assert psutil.pid_exists(old_pid)
        assert len(engine.worker_pids()) == 2
        engine.commit(CAM)
        assert not psutil.pid_exists(old_pid)
        assert engine.serving(CAM) == new.digest
        engine.revert(CAM)
        assert engine.serving(CAM) == new.digest, "after the commit there is nothing to return to"


def test_the_first_model_of_a_slot_can_be_taken_back_to_nothing(tmp_path: Path, camera: Path) -> None:
    model = TinyRelease().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera)) as engine:
        engine.stage(model)
        engine.switch(CAM)
        eventually(lambda: engine.bake_window(CAM).frames > 0, "the first model serves")
        engine.revert(CAM)
        engine.revert(CAM)
        assert engine.serving(CAM) is None
        assert engine.worker_pids() == []


def test_a_refused_model_leaves_nothing_staged_and_the_old_one_serving(tmp_path: Path, camera: Path) -> None:
    old = TinyRelease().seal(tmp_path / "blobs")
    bad = TinyRelease(version="2.0.0", frames=golden_frames(classifier(seed=99))).seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera)) as engine:
        engine.serve(old)
        workers = engine.worker_pids()
        with pytest.raises(GoldenFramesDiffer):
            engine.stage(bad)
        assert engine.worker_pids() == workers
        assert engine.serving(CAM) == old.digest


@pytest.mark.attack("32")
def test_a_blob_swapped_on_disk_is_refused_at_boot_and_what_serves_goes_on(tmp_path: Path, camera: Path) -> None:
    old, new = TinyRelease().seal(tmp_path / "blobs"), second_release().seal(tmp_path / "blobs")
    new.blob.write_bytes(old.blob.read_bytes())
    with running(tmp_path, slot(camera)) as engine:
        engine.serve(old)
        with pytest.raises(ModelNotLoadable):
            engine.serve(new)
        assert engine.serving(CAM) == old.digest


def test_a_staged_worker_can_be_discarded_and_a_slot_stopped(tmp_path: Path, camera: Path) -> None:
    old, new = TinyRelease().seal(tmp_path / "blobs"), second_release().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera)) as engine:
        engine.serve(old)
        engine.stage(new)
        engine.discard(CAM)
        engine.discard(CAM)
        assert len(engine.worker_pids()) == 1
        engine.stop(CAM)
        engine.stop(CAM)
        assert engine.worker_pids() == []
        assert engine.serving(CAM) is None


def test_a_killed_worker_is_started_again_and_the_agent_lives(tmp_path: Path, camera: Path) -> None:
    model = TinyRelease().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera)) as engine:
        engine.serve(model)
        (pid,) = engine.worker_pids()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: engine.worker_pids() not in ([], [pid]), "another worker")
        eventually(lambda: engine.serving(CAM) == model.digest, "it serves the same model")
        before = len(results_of(tmp_path))
        eventually(lambda: len(results_of(tmp_path)) > before + 3, "results go on")
        window = engine.bake_window(CAM)
        assert not window.is_alive, "one death is enough to judge a model by"
        assert "SIGKILL" in window.cause_of_death
        assert engine.slot_health()[0].errors >= 1


def test_a_worker_that_keeps_dying_is_given_up_and_health_says_that_nothing_is_served(
    tmp_path: Path, camera: Path
) -> None:
    model = TinyRelease().seal(tmp_path / "blobs")
    told = threading.Semaphore(0)
    with running(tmp_path, slot(camera), served_changed=told.release) as engine:
        engine.serve(model)
        for _ in range(3):
            eventually(lambda: engine.serving(CAM) is not None, "it was started again")
            for pid in engine.worker_pids():
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: engine.serving(CAM) is None, "the death was noticed")
        eventually(lambda: engine.worker_pids() == [], "it was given up")
        assert engine.slot_health()[0].served_sha256 == ""
        assert told.acquire(timeout=1), "the health loop hears of changes"
        engine.serve(model)
        assert engine.serving(CAM) == model.digest, "another deployment starts with a clean record"


def test_a_worker_that_dies_without_frames_is_noticed(tmp_path: Path) -> None:
    """A heartbeat must not claim a model that nobody holds, even where the camera shows nothing."""
    model = TinyRelease().seal(tmp_path / "blobs")
    with running(tmp_path, slot(tmp_path / "no-such-camera")) as engine:
        engine.serve(model)
        (pid,) = engine.worker_pids()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: engine.worker_pids() not in ([], [pid]), "another worker")
        eventually(lambda: engine.serving(CAM) == model.digest, "it serves again")


@pytest.mark.attack("31")
def test_a_new_model_that_dies_in_the_bake_waits_for_the_verdict_and_the_old_one_returns(
    tmp_path: Path, camera: Path
) -> None:
    old = TinyRelease().seal(tmp_path / "blobs")
    new = TinyRelease(version="2.0.0", model=hangs_on_dark_frames()).seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera), limits=WorkerLimits(infer_s=0.5)) as engine:
        engine.serve(old)
        engine.stage(new)
        engine.switch(CAM)
        eventually(lambda: engine.bake_window(CAM).frames > 3, "the new model serves bright frames")
        folder_of_pictures(camera, level=5)
        eventually(lambda: not engine.bake_window(CAM).is_alive, "it hangs on the first dark one")
        assert "did not answer within 0.5 s" in engine.bake_window(CAM).cause_of_death
        assert engine.serving(CAM) is None
        engine.revert(CAM)
        assert engine.serving(CAM) == old.digest
        assert engine.bake_window(CAM).is_alive
        eventually(lambda: engine.bake_window(CAM).frames > 3, "the old model serves")


def test_frames_on_which_the_model_raises_are_counted_and_the_worker_stays(tmp_path: Path, camera: Path) -> None:
    folder_of_pictures(camera, colors=["red"], level=5)  # one of three is dark now
    (camera / "0-red.png").rename(camera / "0-blue.png")
    model = TinyRelease(model=fails_on_dark_frames()).seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera, fps=100.0)) as engine:
        engine.stage(model)
        engine.switch(CAM)
        (pid,) = engine.worker_pids()
        eventually(lambda: engine.bake_window(CAM).frames >= 30, "thirty frames")
        window = engine.bake_window(CAM)
        assert engine.worker_pids() == [pid]

    assert window.is_alive
    assert 0.2 < window.errors / window.frames < 0.5
    assert window.p95_ms is not None
    assert {result.label for result in results_of(tmp_path)} == {"green", "red"}


def test_health_counts_one_interval_and_begins_the_next(tmp_path: Path, camera: Path) -> None:
    model = TinyRelease().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera)) as engine:
        engine.serve(model)
        eventually(lambda: engine.bake_window(CAM).frames >= 9, "nine frames")
        (health,) = engine.slot_health()
        (next_health,) = engine.slot_health()

    assert (health.slot, health.served_sha256) == (CAM, model.digest)
    assert health.frames >= 9
    assert sum(health.predictions) == health.frames
    assert len(health.predictions) == len(LABELS)
    assert Sketch.decode(health.latency).total == health.frames
    assert health.fps > 0
    assert next_health.frames < health.frames


def test_a_slow_model_drops_older_frames_and_never_answers_one_late(tmp_path: Path, camera: Path) -> None:
    """The newest frame wins: offered far more than it can take, a slot skips, it does not queue."""
    model = TinyRelease().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera, fps=5000.0)) as engine:
        engine.serve(model)
        eventually(lambda: engine.bake_window(CAM).frames > 50, "fifty frames")
        (health,) = engine.slot_health()
    assert health.dropped > 0
    frames = [result.frame for result in results_of(tmp_path)]
    assert frames == sorted(set(frames))


def test_two_slots_serve_side_by_side(tmp_path: Path, camera: Path) -> None:
    door = TinyRelease(slot="door").seal(tmp_path / "blobs")
    cam = TinyRelease().seal(tmp_path / "blobs")
    door_slot = slot(camera, name="door", results="door.jsonl")
    with running(tmp_path, slot(camera), door_slot) as engine:
        engine.serve(cam)
        engine.serve(door)
        eventually(lambda: bool(results_of(tmp_path)) and bool(results_of(tmp_path, "door.jsonl")), "both answer")
        assert [each.served_sha256 for each in engine.slot_health()] == [cam.digest, door.digest]


def test_no_file_ever_holds_a_run_of_the_plaintext_model(tmp_path: Path, camera: Path) -> None:
    release, planted, before = TinyRelease(), tmp_path / "planted", set(SHARED_MEMORY.rglob("*"))
    model = release.seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera)) as engine:
        engine.serve(model)
        engine.stage(second_release().seal(tmp_path / "blobs"))
        eventually(lambda: len(results_of(tmp_path)) > 3, "it serves")
        found = {*tmp_path.rglob("*"), *SHARED_MEMORY.rglob("*")} - before
        written = [path for path in found if path.is_file() and path.stat().st_uid == os.getuid()]
        assert shares_a_run(release.model, written) == []

    planted.write_bytes(b"-" * 100 + release.model[500:570])
    assert shares_a_run(release.model, [planted]) == [planted], "the search itself works"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_slot_whose_own_thread_broke_is_not_reported_as_serving(tmp_path: Path, camera: Path) -> None:
    """No file can have such a name; whatever breaks the thread that feeds a model, health must not claim that model."""
    model = TinyRelease().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera, results="a\0b")) as engine:
        engine.serve(model)
        eventually(lambda: engine.serving(CAM) is None, "the break shows")
        assert engine.slot_health()[0].served_sha256 == ""
        assert not engine.bake_window(CAM).is_alive


def test_closing_ends_every_worker(tmp_path: Path, camera: Path) -> None:
    model = TinyRelease().seal(tmp_path / "blobs")
    with running(tmp_path, slot(camera)) as engine:
        engine.serve(model)
        engine.stage(second_release().seal(tmp_path / "blobs"))
        pids = engine.worker_pids()
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
