"""From a segmenter's scores to a class per pixel: the one reading that compiler and device share (SPEC 3.8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fleet_protocol.imaging import letterbox_size
from fleet_protocol.manifest import Preprocessing
from fleet_protocol.tasks import Segmentation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def segment(outputs: Sequence[NDArray[Any]], wanted: Segmentation) -> NDArray[np.int32]:
    """The index of the best label of every pixel of the output, shape (H, W); of equal scores the lower index wins."""
    import numpy as np

    scores = outputs[0][0]
    classes: NDArray[np.int32] = scores.argmax(0 if wanted.layout == "nchw" else 2).astype(np.int32)
    return classes


def shares(classes: NDArray[np.int32], labels: int) -> NDArray[np.float64]:
    """The share of pixels (0..1) of each of ``labels`` classes."""
    import numpy as np

    return np.bincount(classes.ravel(), minlength=labels) / classes.size


def in_frame(classes: NDArray[np.int32], wanted: Preprocessing, width: int, height: int) -> NDArray[np.int32]:
    """The same classes for the pixels of the frame of ``width`` by ``height`` that the input was made from (SPEC 3.6)."""
    import numpy as np

    inner = letterbox_size(width, height, wanted) if wanted.resize == "letterbox" else (wanted.width, wanted.height)
    rows = _nearest(height, inner[1], wanted.height, classes.shape[0])
    columns = _nearest(width, inner[0], wanted.width, classes.shape[1])
    return classes[np.ix_(rows, columns)]


def _nearest(side: int, inner: int, outer: int, found: int) -> NDArray[np.int64]:
    """For each of ``side`` pixels of the frame, the index among ``found`` of the output; bars lie around ``inner``."""
    import numpy as np

    # In integers, so that two machines never disagree about a pixel: the pixel's middle, twice over.
    middle = (2 * np.arange(side) + 1) * inner + 2 * side * ((outer - inner) // 2)
    return np.minimum(middle * found // (2 * side * outer), found - 1)
