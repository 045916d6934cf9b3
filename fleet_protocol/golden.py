"""Golden frames: how they lie in the payload, and when a device's outputs agree with them (SPEC 3.4, 8.2).

Pure, apart from importing numpy inside the functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fleet_protocol.errors import GoldenFramesDiffer, MalformedManifest
from fleet_protocol.manifest import Golden, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tensors = list["NDArray[Any]"]
Frame = tuple[Tensors, Tensors]
"""The inputs and the outputs of one frame, in the manifest's order."""


def pack(frames: Sequence[Frame]) -> bytes:
    """The part ``golden``: per frame every input, then every output, raw, little-endian, C order (SPEC 3.4)."""
    import numpy as np

    tensors = [tensor for inputs, outputs in frames for tensor in (*inputs, *outputs)]
    return b"".join(np.ascontiguousarray(each, dtype=each.dtype.newbyteorder("<")).tobytes() for each in tensors)


def unpack(
    content: bytes | memoryview, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], frames: int
) -> list[Frame]:
    """The frames that :func:`pack` wrote, as read-only views on ``content``; raises MalformedManifest on a wrong length."""
    record = sum(spec.nbytes for spec in (*inputs, *outputs))
    if len(content) != frames * record:
        raise MalformedManifest(f"{frames} golden frames have {frames * record} bytes, got {len(content)}")
    view = memoryview(content).toreadonly()
    records = (view[start : start + record] for start in range(0, len(content), record))
    return [_split(each, inputs, outputs) for each in records]


def compare(
    golden: Golden,
    outputs: tuple[TensorSpec, ...],
    expected: Sequence[Sequence[NDArray[Any]]],
    got: Sequence[Sequence[NDArray[Any]]],
) -> float:
    """The largest absolute difference between what the frames expect and what a runtime gave; one entry per frame each.

    Raises GoldenFramesDiffer where a shape or type is wrong, a value is not finite, a decisive frame changes its top-1,
    or more than ``max_outliers`` of all elements are out of tolerance (SPEC 8.2).
    """
    if len(expected) != golden.frames or len(got) != golden.frames:
        raise GoldenFramesDiffer(f"{golden.frames} golden frames are wanted, {len(got)} were replayed")
    for number, (want, have) in enumerate(zip(expected, got, strict=True)):
        _check_shapes(outputs, number, have)
        _check_top1(golden, number, want[0], have[0])
    return _check_elements(golden, expected, got)


def _split(record: memoryview, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Frame:
    import numpy as np

    tensors: Tensors = []
    start = 0
    for spec in (*inputs, *outputs):
        flat = np.frombuffer(record[start : start + spec.nbytes], np.dtype(spec.dtype).newbyteorder("<"))
        tensors.append(flat.reshape(spec.shape))
        start += spec.nbytes
    return tensors[: len(inputs)], tensors[len(inputs) :]


def _check_shapes(outputs: tuple[TensorSpec, ...], number: int, got: Sequence[NDArray[Any]]) -> None:
    import numpy as np

    if len(got) != len(outputs):
        raise GoldenFramesDiffer(f"frame {number}: {len(outputs)} outputs are expected, got {len(got)}")
    for spec, tensor in zip(outputs, got, strict=True):
        if tensor.shape != spec.shape or tensor.dtype != np.dtype(spec.dtype):
            raise GoldenFramesDiffer(
                f"frame {number}: output {spec.name!r} is {spec.dtype} {list(spec.shape)}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
        if not np.isfinite(tensor).all():
            raise GoldenFramesDiffer(f"frame {number}: output {spec.name!r} has values that are not finite")


def _check_top1(golden: Golden, number: int, expected: NDArray[Any], got: NDArray[Any]) -> None:
    wanted, found = int(expected.argmax()), int(got.argmax())
    if golden.decisive[number] and wanted != found:
        raise GoldenFramesDiffer(f"frame {number}: class {wanted} is expected, this device says {found}")


def _check_elements(
    golden: Golden, expected: Sequence[Sequence[NDArray[Any]]], got: Sequence[Sequence[NDArray[Any]]]
) -> float:
    import numpy as np

    want = np.concatenate([tensor.ravel() for frame in expected for tensor in frame]).astype(np.float64)
    have = np.concatenate([tensor.ravel() for frame in got for tensor in frame]).astype(np.float64)
    error = np.abs(have - want)
    share = float((error > golden.atol + golden.rtol * np.abs(want)).mean())
    if share > golden.max_outliers:
        raise GoldenFramesDiffer(
            f"{share:.1%} of the golden outputs are out of tolerance (at most {golden.max_outliers:.1%}), "
            f"the worst by {error.max():.4g}"
        )
    return float(error.max())
