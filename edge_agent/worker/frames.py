"""Memory that agent and worker both map, in which one frame's pixels lie: no copy through the socket, no name to leak."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Final

import numpy as np

from fleet_protocol.errors import InputTooLarge

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANNELS: Final = 3
MAX_FRAME_BYTES: Final = 128 * 1024**2
"""A little more than one frame of 8K video."""


def _checked_size(height: int, width: int) -> int:
    size = height * width * CHANNELS
    if not 0 < size <= MAX_FRAME_BYTES:
        raise InputTooLarge(f"a frame has 1 to {MAX_FRAME_BYTES} bytes, got {height} x {width} pixels")
    return size


class FrameWriter:
    """The agent's side. ``fd`` is inherited by the worker."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("edgefleet-frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # It may grow for a larger frame but never shrink: a worker cannot be made to touch memory that is gone.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._view: NDArray[np.uint8] = np.empty(0, np.uint8)

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Put a frame (H, W, 3) in place; raises InputTooLarge."""
        size = _checked_size(*pixels.shape[:2])
        if size > self._view.size:
            os.ftruncate(self.fd, size)
            self._view = np.frombuffer(mmap.mmap(self.fd, size), np.uint8)
        np.copyto(self._view[:size].reshape(pixels.shape), pixels)

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._view = np.empty(0, np.uint8)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class FrameReader:
    """The worker's side; read-only."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._view: NDArray[np.uint8] = np.empty(0, np.uint8)

    def read(self, height: int, width: int) -> NDArray[np.uint8]:
        """The frame as a view (H, W, 3), valid until the next answer; raises InputTooLarge."""
        size = _checked_size(height, width)
        if size > self._view.size:
            if os.fstat(self._fd).st_size < size:
                raise InputTooLarge(f"the shared memory holds no frame of {height} x {width} pixels")
            self._view = np.frombuffer(mmap.mmap(self._fd, size, prot=mmap.PROT_READ), np.uint8)
        return self._view[:size].reshape(height, width, CHANNELS)
