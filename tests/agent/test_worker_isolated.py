"""One model in one process of its own: what it refuses, what it survives, what it never lets out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_agent.ports import SealedModel
from edge_agent.worker.client import Launcher, Worker, WorkerLimits, worker_environment
from edge_agent.worker.wire import FrameFailed, Inferred, Load
from fleet_protocol.errors import GoldenFramesDiffer, LatencyOverBudget, MalformedManifest, ModelNotLoadable, WorkerDied
from tests.agent.inference_world import eventually, the_board
from tests.agent.tiny_model import (
    LABELS,
    TinyRelease,
    classifier,
    fails_on_dark_frames,
    golden_frames,
    hangs_on_dark_frames,
    picture,
)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    launcher = Launcher(the_board(), WorkerLimits(infer_s=1.0))
    yield launcher
    launcher.close()


@pytest.fixture
def worker(launcher: Launcher) -> Iterator[Worker]:
    worker = launcher.start()
    yield worker
    worker.stop()


@pytest.fixture
def model(tmp_path: Path) -> SealedModel:
    return TinyRelease().seal(tmp_path)


def test_a_sealed_model_loads_proves_itself_and_answers(worker: Worker, model: SealedModel) -> None:
    worker.load(model)
    proof = worker.prove()

    assert proof.frames == len(LABELS)
    assert proof.worst_error <= 1e-4
    assert 0 < proof.latency_p95_ms < 1000
    for index, color in enumerate(LABELS):
        answer = worker.infer(picture(color))
        assert isinstance(answer, Inferred)
        assert answer.index == index
        assert 0.5 < answer.confidence <= 1.0


def test_frames_of_any_size_share_the_same_memory(worker: Worker, model: SealedModel) -> None:
    worker.load(model)
    for side in (8, 900, 64):
        answer = worker.infer(picture("green", height=side, width=side + 1))
        assert isinstance(answer, Inferred)
        assert LABELS[answer.index] == "green"


def test_a_frame_too_large_fails_and_the_next_one_does_not(worker: Worker, model: SealedModel) -> None:
    worker.load(model)
    huge = np.broadcast_to(np.uint8(9), (8000, 8000, 3))

    assert isinstance(worker.infer(huge), FrameFailed)
    assert isinstance(worker.infer(picture("red")), Inferred)


def test_outputs_that_differ_from_the_golden_frames_are_refused(worker: Worker, tmp_path: Path) -> None:
    """The payload is intact and signed, but this runtime does not compute what the compiler promised."""
    worker.load(TinyRelease(frames=golden_frames(classifier(seed=99))).seal(tmp_path))
    with pytest.raises(GoldenFramesDiffer, match="out of tolerance"):
        worker.prove()


def test_a_model_slower_than_its_budget_is_refused(worker: Worker, tmp_path: Path) -> None:
    worker.load(TinyRelease(budget_ms=1e-6).seal(tmp_path))
    with pytest.raises(LatencyOverBudget, match="the budget is 1e-06 ms"):
        worker.prove()


@pytest.mark.attack("32")
@pytest.mark.parametrize("position", [5, 60, 5000, -1])
def test_a_blob_changed_after_it_was_verified_is_refused(worker: Worker, model: SealedModel, position: int) -> None:
    content = bytearray(model.blob.read_bytes())
    content[position] ^= 1
    model.blob.write_bytes(content)
    with pytest.raises(ModelNotLoadable, match="not the one that was verified"):
        worker.load(model)


def test_a_blob_that_is_gone_is_refused(worker: Worker, model: SealedModel) -> None:
    model.blob.unlink()
    with pytest.raises(ModelNotLoadable, match="cannot be read: No such file"):
        worker.load(model)


@pytest.mark.attack("30")
def test_bytes_that_are_no_model_are_refused(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoadable, match=r"ONNX Runtime .* refuses the model"):
        worker.load(TinyRelease(model=b"not a model" * 50, frames=golden_frames(classifier())).seal(tmp_path))


def test_a_model_with_more_classes_than_labels_is_refused(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(MalformedManifest, match="2 labels need as many scores"):
        worker.load(TinyRelease(labels=("a", "b")).seal(tmp_path))


def test_a_model_beyond_the_boards_memory_is_refused_in_a_sentence(tmp_path: Path) -> None:
    launcher = Launcher(the_board(worker_memory_mib=128), WorkerLimits())
    worker = launcher.start()
    try:
        with pytest.raises(ModelNotLoadable, match="needs more than the 128 MiB that the board allows a worker"):
            worker.load(TinyRelease(model=classifier(ballast_mib=48)).seal(tmp_path))
    finally:
        worker.stop()
        launcher.close()


def test_a_frame_on_which_the_model_raises_costs_only_that_frame(worker: Worker, tmp_path: Path) -> None:
    worker.load(TinyRelease(model=fails_on_dark_frames()).seal(tmp_path))

    failed = worker.infer(picture("red", level=5))

    assert isinstance(failed, FrameFailed)
    assert "Gather" in failed.reason
    assert isinstance(worker.infer(picture("red")), Inferred)


@pytest.mark.attack("31")
def test_a_model_that_hangs_is_ended_within_its_limit(worker: Worker, tmp_path: Path) -> None:
    worker.load(TinyRelease(model=hangs_on_dark_frames()).seal(tmp_path))
    assert isinstance(worker.infer(picture("red")), Inferred)

    with pytest.raises(WorkerDied, match="did not answer within 1 s"):
        worker.infer(picture("red", level=5))
    assert not worker.is_alive


def test_a_killed_worker_is_an_error_that_says_how_it_died(worker: Worker, model: SealedModel) -> None:
    worker.load(model)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        worker.infer(picture("red"))


def test_a_stopped_worker_is_gone_and_says_so(worker: Worker, model: SealedModel) -> None:
    worker.load(model)
    worker.stop()
    worker.stop()
    assert not psutil.pid_exists(worker.pid)
    with pytest.raises(WorkerDied):
        worker.infer(picture("red"))


def test_the_content_key_is_in_no_argument_and_no_text(worker: Worker, model: SealedModel) -> None:
    worker.load(model)
    shown = Path(f"/proc/{worker.pid}/cmdline").read_bytes()

    assert b"edge_agent.worker" in shown
    assert model.key not in shown
    assert model.key.hex().encode() not in shown
    assert model.key.hex() not in repr(model)
    assert repr(model.key) not in repr(Load("blob", model.key, b"", "board", 1, 1))


def test_a_worker_inherits_nothing_of_the_agents_secrets() -> None:
    agents = {"PATH": "/usr/bin", "FLEET_TOKEN": "hush", "HOME": "/root", "https_proxy": "user:hush@proxy"}
    environment = worker_environment(agents)
    assert environment["PATH"] == "/usr/bin"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert not {"FLEET_TOKEN", "HOME", "https_proxy"} & set(environment)


def test_a_worker_can_leave_no_core_and_write_no_file(worker: Worker, model: SealedModel) -> None:
    worker.load(model)
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}

    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max file size"] == ["0", "0"]


def test_isolation_really_stops_writes_and_inspection(tmp_path: Path) -> None:
    target = tmp_path / "leak"
    script = (
        "import ctypes, pathlib, sys\n"
        "from edge_agent.worker.isolation import isolate\n"
        "isolate()\n"
        "assert ctypes.CDLL(None).prctl(3) == 0, 'still dumpable'\n"
        "pathlib.Path(sys.argv[1]).write_bytes(b'plaintext')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, target], check=False, capture_output=True, text=True, timeout=30
    )

    assert "File too large" in run.stderr
    assert target.read_bytes() == b""


def test_a_worker_dies_with_its_agent(tmp_path: Path, model: SealedModel) -> None:
    """Also when the agent gets no chance to say goodbye."""
    script = (
        "import sys\n"
        "from edge_agent.worker.client import Launcher, WorkerLimits\n"
        "from tests.agent.inference_world import the_board\n"
        "worker = Launcher(the_board(), WorkerLimits()).start()\n"
        "print(worker.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert psutil.pid_exists(pid)
        agent.kill()
        agent.wait(10)
    eventually(lambda: _is_gone(pid), "the worker follows its agent")


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
