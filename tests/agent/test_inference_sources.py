"""Frames from folders and videos, at their pace; damage is skipped or retried, never fatal."""

from __future__ import annotations

import itertools
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest

from edge_agent.config import SourceConfig
from edge_agent.errors import SourceUnavailable
from edge_agent.inference.capture import Capture, Frame, Mailbox, next_due
from edge_agent.inference.sources import pictures
from tests.agent.inference_world import CAM, eventually, folder_of_pictures, results_of, running
from tests.agent.inference_world import slot as folder_slot
from tests.agent.tiny_model import LABELS, TinyRelease, picture


def folder(path: Path, *, loop: bool = True, fps: float = 200.0) -> SourceConfig:
    return SourceConfig(kind="directory", path=str(path), fps=fps, loop=loop)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A real video: six frames, two of each colour."""
    path = tmp_path / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for color in (color for color in LABELS for _ in range(2)):
            frame = av.VideoFrame.from_ndarray(picture(color, height=48, width=64), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@contextmanager
def capturing(config: SourceConfig) -> Iterator[tuple[Capture, Mailbox]]:
    mailbox = Mailbox()
    capture = Capture(config, mailbox, clock=time.monotonic)
    thread = threading.Thread(target=capture.run)
    thread.start()
    mailbox.want(True)
    try:
        yield capture, mailbox
    finally:
        mailbox.close()
        thread.join(10)
    assert not thread.is_alive()


def dominant(pixels: np.ndarray) -> str:
    return LABELS[int(pixels.mean(axis=(0, 1)).argmax())]


def test_a_folder_is_read_by_name_and_over_again(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("not a picture")

    names = [each.name for each in itertools.islice(pictures(folder(tmp_path / "in")), 4)]

    assert names == ["0-blue.png", "1-green.png", "2-red.png", "0-blue.png"]


def test_a_folder_without_loop_ends(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in")
    assert len(list(pictures(folder(tmp_path / "in", loop=False)))) == len(LABELS)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n cut"])
def test_a_damaged_picture_is_counted_and_skipped(tmp_path: Path, content: bytes) -> None:
    folder_of_pictures(tmp_path / "in")
    (tmp_path / "in" / "0-damaged.png").write_bytes(content)
    with capturing(folder(tmp_path / "in")) as (capture, mailbox):
        eventually(lambda: capture.unreadable >= 2, "met in two passes")
        frame = mailbox.take(5)
        assert frame is not None
        assert frame.origin != "0-damaged.png"


def test_a_small_file_that_claims_a_gigantic_picture_is_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bomb.png").write_bytes(png_claiming(30_000, 30_000))
    # In a process of its own, like the agent's: OpenCV reads its limit once, when it is loaded.
    script = (
        "import sys\n"
        "from edge_agent.config import SourceConfig\n"
        "from edge_agent.inference.sources import pictures\n"
        "(only,) = pictures(SourceConfig(kind='directory', path=sys.argv[1], loop=False))\n"
        "assert only.pixels is None\n"
        "print('skipped')\n"
    )
    run = subprocess.run([sys.executable, "-c", script, tmp_path / "in"], check=True, capture_output=True, timeout=60)
    assert run.stdout == b"skipped\n"


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes(height * (width // 8 + 1)), 9)  # one bit per pixel, all zero
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("directory", "nowhere", "cannot be read: No such file"),
        ("directory", ".", "holds no image"),
        ("video", "nowhere.mp4", "cannot be read: No such file"),
        ("video", "text.mp4", "cannot be decoded"),
    ],
)
def test_a_source_that_cannot_be_read_says_why(tmp_path: Path, kind: str, name: str, sentence: str) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(SourceUnavailable, match=sentence):
        next(pictures(SourceConfig(kind=kind, path=str(tmp_path / name))))


def test_a_folder_that_appears_later_is_found(tmp_path: Path) -> None:
    with capturing(folder(tmp_path / "late")) as (_, mailbox):
        assert mailbox.take(0.05) is None
        folder_of_pictures(tmp_path / "late")
        frame = mailbox.take(20)
        assert frame is not None
        assert frame.number == 1


def test_a_video_gives_its_frames_in_order_and_over_again(clip: Path) -> None:
    source = SourceConfig(kind="video", path=str(clip), fps=30)
    frames = list(itertools.islice(pictures(source), 8))

    assert [dominant(each.pixels) for each in frames if each.pixels is not None] == [
        "blue", "blue", "green", "green", "red", "red", "blue", "blue",
    ]  # fmt: skip
    assert frames[5].name == "clip.mp4#5"
    assert frames[0].pixels is not None
    assert frames[0].pixels.shape == (48, 64, 3)


def test_a_model_serves_a_video(tmp_path: Path, clip: Path) -> None:
    model = TinyRelease().seal(tmp_path / "blobs")
    config = folder_slot(clip)
    config = type(config)(name=CAM, source=SourceConfig(kind="video", path=str(clip), fps=50), results=config.results)
    with running(tmp_path, config) as engine:
        engine.serve(model)
        eventually(lambda: len(results_of(tmp_path)) >= 12, "two passes")
    assert {result.label for result in results_of(tmp_path)} == set(LABELS)


def test_pictures_come_at_their_pace(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in")
    with capturing(folder(tmp_path / "in", fps=40.0)) as (_, mailbox):
        frames = [mailbox.take(5) for _ in range(12)]
    first, last = frames[0], frames[-1]
    assert first is not None
    assert last is not None
    assert last.at - first.at >= (last.number - first.number) / 40.0 - 0.01


def test_a_source_that_fell_behind_does_not_catch_up_in_a_burst() -> None:
    assert next_due(10.0, 10.01, 0.2) == 10.2
    assert next_due(10.0, 13.0, 0.2) == 13.0


def test_nothing_is_captured_while_nobody_looks(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in")
    with capturing(folder(tmp_path / "in")) as (_, mailbox):
        eventually(lambda: mailbox.take(1) is not None, "a frame")
        mailbox.want(False)
        eventually(lambda: mailbox.take(0.2) is None, "the source rests")
        mailbox.want(True)
        eventually(lambda: mailbox.take(1) is not None, "and goes on")


def test_the_newest_frame_wins_and_the_replaced_ones_are_counted() -> None:
    mailbox = Mailbox()
    for number in (1, 2, 3):
        mailbox.put(Frame(number, 0.0, "x", picture("red")))
    newest = mailbox.take(0)
    assert newest is not None
    assert newest.number == 3
    assert mailbox.take_dropped() == 2
    assert mailbox.take_dropped() == 0
