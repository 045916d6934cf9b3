"""The images that a quantizer is shown, as the tensors that it wants, decoded anew each time: memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Preprocessing
from model_compiler import images
from model_compiler.images import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Images and the pre-processing that they go through; cheap to send to another process."""

    pictures: tuple[Image, ...]
    wanted: Preprocessing

    def tensor(self, picture: Image) -> NDArray[Any]:
        """One image as the model's input; raises MalformedDataset."""
        return preprocess(images.decode(picture), self.wanted)

    def tensors(self) -> Iterator[NDArray[Any]]:
        """Every image, in order."""
        return map(self.tensor, self.pictures)

    def some(self, count: int) -> CalibrationSet:
        """At most ``count`` of the images, evenly spread."""
        return CalibrationSet(tuple(images.sample(self.pictures, count)), self.wanted)
