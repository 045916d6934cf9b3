"""What the tests of the inference side share: pictures on disk, an engine on a real board, waiting for a condition."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import cv2
import msgspec

from edge_agent.config import SlotConfig, SourceConfig
from edge_agent.inference.engine import InferenceEngine
from edge_agent.inference.results import Result
from edge_agent.worker.client import WorkerLimits
from fleet_protocol import board as boards
from fleet_protocol.identifiers import SlotName
from tests.agent.tiny_model import BOARD, LABELS, picture

CAM = SlotName("cam")
RESULTS = "results.jsonl"


def the_board(**limits: float) -> boards.Board:
    """The generic board, with other ``limits`` where given."""
    board = boards.parse(resources.files("firmware_configs").joinpath(f"{BOARD}.toml").read_text(encoding="utf-8"))
    return msgspec.structs.replace(board, limits=msgspec.structs.replace(board.limits, **limits))


def eventually(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    """Wait until ``condition`` holds; fail with ``what`` after ``limit_s``."""
    pause = threading.Event()
    for _ in range(int(limit_s / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError(f"not within {limit_s:g} s: {what}")


def folder_of_pictures(folder: Path, colors: Iterable[str] = LABELS, level: int = 220) -> Path:
    """A folder with one PNG per colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, color in enumerate(colors):
        assert cv2.imwrite(str(folder / f"{number}-{color}.png"), picture(color, level))
    return folder


def slot(source: Path, fps: float = 50.0, name: str = CAM, results: str = RESULTS) -> SlotConfig:
    return SlotConfig(name=name, source=SourceConfig(kind="directory", path=str(source), fps=fps), results=results)


@contextmanager
def running(
    state_dir: Path,
    *slots: SlotConfig,
    limits: WorkerLimits = WorkerLimits(),
    served_changed: Callable[[], None] = lambda: None,
) -> Iterator[InferenceEngine]:
    engine = InferenceEngine(the_board(), slots, state_dir, limits=limits, served_changed=served_changed)
    try:
        yield engine
    finally:
        engine.close()


def results_of(state_dir: Path, name: str = RESULTS) -> list[Result]:
    """What the slot wrote so far, whole lines only."""
    path = state_dir / name
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [msgspec.json.decode(line, type=Result) for line in lines]


def shares_a_run(secret: bytes, files: Iterable[Path], run: int = 64) -> list[Path]:
    """Those of ``files`` that contain any ``run`` consecutive bytes of ``secret``, trivial runs left out."""
    windows = {secret[at : at + run] for at in range(len(secret) - run + 1)}
    telling = {window for window in windows if len(set(window)) > 8}
    return [path for path in files if _contains(path.read_bytes(), telling, run)]


def _contains(content: bytes, windows: set[bytes], run: int) -> bool:
    return any(content[at : at + run] in windows for at in range(len(content) - run + 1))
