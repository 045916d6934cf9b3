"""Images on disk: listed, read, decoded, always bounded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fleet_protocol.detect import Boxes
from fleet_protocol.identifiers import Digest
from model_compiler.errors import MalformedDataset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
MAX_IMAGES: Final = 100_000
MAX_FILE_BYTES: Final = 64 << 20
MAX_PIXELS: Final = 1 << 27


UNLABELLED: Final = -1


@dataclass(frozen=True, slots=True)
class Image:
    """One image file; ``name`` is its path below the directory it was listed from, with slashes."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image and the index of its true class, ``UNLABELLED`` where it has none; ``boxes``: what a detector should find."""

    image: Image
    label: int
    boxes: Boxes | None = None


def list_images(directory: Path) -> tuple[Image, ...]:
    """Every image below ``directory``, sorted by name; raises MalformedDataset where there is none, or too many."""
    if not directory.is_dir():
        raise MalformedDataset(f"{directory} is not a directory of images")
    found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not 0 < len(found) <= MAX_IMAGES:
        raise MalformedDataset(
            f"{directory} should hold 1 to {MAX_IMAGES} images ({', '.join(sorted(SUFFIXES))}), it has {len(found)}"
        )
    return tuple(Image(path.relative_to(directory).as_posix(), path) for path in found)


def read(image: Image) -> bytes:
    """The file's bytes; raises MalformedDataset where it cannot be read or has more than 64 MiB."""
    try:
        with image.path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise MalformedDataset(f"image {image.path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise MalformedDataset(f"image {image.path} has more than {MAX_FILE_BYTES} bytes")
    return content


def decode(image: Image) -> NDArray[np.uint8]:
    """The picture as 8-bit BGR, shape (H, W, 3); raises MalformedDataset where the file is cut, damaged or no image."""
    content = read(image)
    # OpenCV reads its limit once, when it is loaded: a small file must not unpack to gigabytes.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
    import cv2
    import numpy as np

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the refusal below says it in one sentence
    try:
        frame: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise MalformedDataset(f"image {image.path} is empty or too large to decode; replace or remove it") from error
    if frame is None:
        raise MalformedDataset(f"image {image.path} is cut or damaged; replace or remove it")
    return frame


def digest(images: Iterable[Image], *more: bytes) -> Digest:
    """SHA-256 over the names and contents of ``images`` in order, then over ``more``; each length-prefixed."""
    total = hashlib.sha256()
    for image in images:
        _add(total, image.name.encode(), hashlib.sha256(read(image)).digest())
    _add(total, *more)
    return Digest(total.hexdigest())


def _add(total: hashlib._Hash, *fields: bytes) -> None:
    for each in fields:
        total.update(len(each).to_bytes(8, "big") + each)


def sample(images: Sequence[Image], count: int) -> list[Image]:
    """At most ``count`` of ``images``, evenly spread over the list."""
    step = max(1, len(images) // count)
    return list(images[::step][:count])
