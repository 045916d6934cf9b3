"""From a camera's frame to the model's input: the one implementation that compiler and device share (SPEC 3.6).

numpy and OpenCV are imported by the functions, not by the module: the contract stays light for those who only read it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.errors import MalformedInput
from fleet_protocol.manifest import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LETTERBOX_GRAY: Final = 114
"""Value of the bars that a letterbox adds, in every channel of the 8-bit frame (SPEC 3.6)."""


def preprocess(frame: NDArray[np.uint8], wanted: Preprocessing) -> NDArray[Any]:
    """The model's input, shape (1, C, H, W) or (1, H, W, C), for one 8-bit BGR ``frame`` of shape (H, W, 3).

    Order of SPEC 3.6: resize on 8 bits, reorder colours, ``(x * scale - mean) / std``, lay out. Where ``wanted.baked``,
    the frame itself, uint8 of shape (1, H, W, 3), only stretched where it has another size than the model takes.
    Raises MalformedInput where ``frame`` is something else.
    """
    _check(frame)
    if wanted.baked:
        return _resize(frame, wanted, wanted.baked.width, wanted.baked.height)[None]
    resized = (
        _letterbox(frame, wanted)
        if wanted.resize == "letterbox"
        else _resize(frame, wanted, wanted.width, wanted.height)
    )
    return _normalise(_recolour(resized, wanted), wanted)


def _check(frame: NDArray[np.uint8]) -> None:
    if frame.dtype != "uint8" or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise MalformedInput(f"a frame is 8-bit BGR of shape (H, W, 3), got {frame.dtype} {frame.shape}")


def _resize(frame: NDArray[np.uint8], wanted: Preprocessing, width: int, height: int) -> NDArray[np.uint8]:
    import cv2

    if frame.shape[:2] == (height, width):
        return frame
    methods = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "nearest": cv2.INTER_NEAREST}
    resized: NDArray[np.uint8] = cv2.resize(frame, (width, height), interpolation=methods[wanted.interpolation])
    return resized


def _letterbox(frame: NDArray[np.uint8], wanted: Preprocessing) -> NDArray[np.uint8]:
    import numpy as np

    width, height = letterbox_size(frame.shape[1], frame.shape[0], wanted)
    left, top = (wanted.width - width) // 2, (wanted.height - height) // 2
    canvas = np.full((wanted.height, wanted.width, 3), LETTERBOX_GRAY, np.uint8)
    canvas[top : top + height, left : left + width] = _resize(frame, wanted, width, height)
    return canvas


def letterbox_size(width: int, height: int, wanted: Preprocessing) -> tuple[int, int]:
    """Width and height of the picture inside its bars: the largest that keeps the aspect ratio, at least 1 by 1 pixel."""
    # Integer arithmetic (round half up), so that two machines never disagree about a pixel.
    if wanted.width * height <= wanted.height * width:
        return wanted.width, max(1, (2 * height * wanted.width + width) // (2 * width))
    return max(1, (2 * width * wanted.height + height) // (2 * height)), wanted.height


def _recolour(frame: NDArray[np.uint8], wanted: Preprocessing) -> NDArray[np.uint8]:
    import cv2

    if wanted.color == "bgr":
        return frame
    code = cv2.COLOR_BGR2RGB if wanted.color == "rgb" else cv2.COLOR_BGR2GRAY
    recoloured: NDArray[np.uint8] = cv2.cvtColor(frame, code)
    return recoloured


def _normalise(picture: NDArray[np.uint8], wanted: Preprocessing) -> NDArray[np.float32]:
    import cv2
    import numpy as np

    table = _table(wanted.scale, wanted.mean, wanted.std)
    planes = [picture] if wanted.color == "gray" else cv2.split(picture)
    if wanted.layout == "nhwc":
        return np.stack([cv2.LUT(plane, row) for plane, row in zip(planes, table, strict=True)], axis=-1)[np.newaxis]
    tensor = np.empty((1, len(planes), wanted.height, wanted.width), np.float32)
    for plane, row, out in zip(planes, table, tensor[0], strict=True):
        cv2.LUT(plane, row, out)
    return tensor


@lru_cache(maxsize=16)
def _table(scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    # A frame has 256 values: looked up, each is rounded once from float64 (the same on every machine), 10 times faster
    # than arithmetic on the whole picture.
    import numpy as np

    values = np.arange(256, dtype=np.float64) * scale
    return np.stack([((values - m) / s).astype(np.float32) for m, s in zip(mean, std, strict=True)])
