"""Where frames come from: a folder of images or a video file. Read frame by frame; the caller sets the pace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from edge_agent.config import SourceConfig
from edge_agent.errors import SourceUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MAX_IMAGE_FILE_BYTES: Final = 64 * 1024**2
_MAX_PIXELS: Final = 44_739_242
"""What fits into a worker's frame memory (128 MiB of BGR): a picture with more is not decoded at all."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One 8-bit BGR picture (H, W, 3) and where it is from; ``pixels`` is None where it could not be read."""

    name: str
    pixels: NDArray[np.uint8] | None


def pictures(config: SourceConfig) -> Iterator[Picture]:
    """The source's pictures in order, for ever where ``config.loop``. Raises SourceUnavailable."""
    one_pass = _images if config.kind == "directory" else _video
    while True:
        read_any = False
        for picture in one_pass(Path(config.path)):
            read_any = True
            yield picture
        if not read_any:
            raise SourceUnavailable(f"{config.path} holds no {'image' if config.kind == 'directory' else 'frame'}")
        if not config.loop:
            return


def _images(folder: Path) -> Iterator[Picture]:
    """Every image file of ``folder`` by name; the folder is listed anew at each pass."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                entry.name for entry in entries if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and entry.is_file()
            )
    except OSError as error:
        raise SourceUnavailable(f"the image folder {folder} cannot be read: {error.strerror or error}") from error
    for name in found:
        yield Picture(name, _image(folder / name))


def _image(path: Path) -> NDArray[np.uint8] | None:
    cv2 = _opencv()
    import numpy as np

    try:
        if path.stat().st_size > MAX_IMAGE_FILE_BYTES:
            return None
        content = np.frombuffer(path.read_bytes(), np.uint8)
        pixels: NDArray[np.uint8] | None = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None  # the caller counts it; a damaged picture must not stop the camera
    return pixels


def _opencv() -> ModuleType:
    # OpenCV reads this once, when it is loaded; its own limit would let a small file unpack to 3 GB.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(_MAX_PIXELS))
    import cv2

    return cv2


def _video(path: Path) -> Iterator[Picture]:
    """Every frame of the file's first video stream."""
    import av

    try:
        # Opened by us and handed over: a playlist that names other files or addresses gets none of them.
        with path.open("rb") as file, av.open(file) as container:
            if not container.streams.video:
                raise SourceUnavailable(f"{path} has no video stream")
            for number, frame in enumerate(container.decode(container.streams.video[0])):
                yield Picture(f"{path.name}#{number}", frame.to_ndarray(format="bgr24"))
    except av.FFmpegError as error:
        raise SourceUnavailable(f"the video {path} cannot be decoded: {error.strerror}") from error
    except OSError as error:
        raise SourceUnavailable(f"the video {path} cannot be read: {error.strerror or error}") from error
