"""Stage 8: pre-processing inside the model, so that a device hands over the camera's frame as it is (SPEC 3.9).

The steps are written once, as an ONNX graph; a target joins it to its own files. Both paths are then compared on images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fleet_protocol import detect, embed, segment
from fleet_protocol.imaging import LETTERBOX_GRAY, letterbox_size, preprocess
from fleet_protocol.manifest import Baked, Preprocessing
from fleet_protocol.tasks import Anomaly, Classification, Detection, Postprocessing, Segmentation
from model_compiler import images
from model_compiler.errors import ParityBroken, UnsupportedModel
from model_compiler.images import Image
from model_compiler.stages.plan import Build
from model_compiler.stages.quantize import Candidate
from model_compiler.targets import Session, target

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto, TensorProto

IMAGES: Final = 200
MIN_AGREEMENT: Final = 0.97
"""Share of answers that must not change. Inside the model pictures are scaled in float, outside in fixed point: one step in
256 apart, which changes one answer in some hundred."""
FRAME: Final = "frame"
_OPSET: Final = 17
_IR_VERSION: Final = 9
_GRAY: Final = (0.114, 0.587, 0.299)
"""Shares of blue, green and red in gray, as OpenCV has them."""
_SAME_BOX: Final = 0.5
_SAME_PIXELS: Final = 0.95
_SAME_DIRECTION: Final = 0.98


def baked(
    build: Build,
    candidate: Candidate,
    wanted: Preprocessing,
    size: Baked | None,
    task: Postprocessing,
    pictures: Sequence[Image],
) -> tuple[Candidate, Preprocessing]:
    """The candidate that takes frames of ``size``, and what is left for the device to do.

    Without ``size``, or where the runtime's files cannot hold the steps: the candidate as it is, and all of them. Raises
    ParityBroken where the two paths answer differently, UnsupportedModel where the steps cannot be written as a graph.
    """
    runtime = target(build.runtime)
    outside = runtime.preprocessing(wanted)
    if size is None:
        return candidate, outside
    inside = msgspec.structs.replace(wanted, baked=size)
    content = runtime.joined(graph_of(inside), candidate.model)
    if content is None:
        return candidate, outside
    ways = [(runtime.open_session(model, threads=1, optimised=True), steps)
            for model, steps in ((candidate.model, outside), (content, inside))]  # fmt: skip
    check_agreement(ways, task, images.sample(pictures, IMAGES))
    return replace(candidate, method=f"{candidate.method}-baked", model=content), inside


def check_agreement(
    ways: Sequence[tuple[Session, Preprocessing]], task: Postprocessing, pictures: Sequence[Image]
) -> float:
    """The share (0..1) of ``pictures`` on which two ways, each a model and what is done before it, answer alike.

    Raises ParityBroken below ``MIN_AGREEMENT``.
    """
    alike = 0
    for picture in pictures:
        frame = images.decode(picture)
        first, second = (session.run([preprocess(frame, steps)]) for session, steps in ways)
        alike += is_same(first, second, task, ways[0][1])
    share = alike / len(pictures)
    if share < MIN_AGREEMENT:
        raise ParityBroken(
            f"with its pre-processing inside the model answers alike on {share:.1%} of {len(pictures)} images (at least "
            f"{MIN_AGREEMENT:.0%}); give [baked] the size of the cameras' frames, or leave it out"
        )
    return share


def is_same(
    first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]], task: Postprocessing, wanted: Preprocessing
) -> bool:
    """Whether two models' outputs for a frame mean the same to whoever asked."""
    if isinstance(task, Classification):
        return int(first[0].argmax()) == int(second[0].argmax())
    if isinstance(task, Detection):
        size = wanted.width, wanted.height
        return _same_boxes(detect.detect(first, task, size), detect.detect(second, task, size), task.score_threshold)
    if isinstance(task, Segmentation):
        return float((segment.segment(first, task) == segment.segment(second, task)).mean()) >= _SAME_PIXELS
    if isinstance(task, Anomaly):
        return embed.judge(first, task)[0] == embed.judge(second, task)[0]
    return embed.similarity(first[0].ravel(), second[0].ravel()) >= _SAME_DIRECTION


def _same_boxes(first: detect.Boxes, second: detect.Boxes, threshold: float) -> bool:
    # A box at the very threshold comes and goes with the last digit.
    clear = threshold + 0.1
    return _covers(first, second, clear) and _covers(second, first, clear)


def _covers(all_of: detect.Boxes, by: detect.Boxes, clear: float) -> bool:
    return all(
        bool(((by.classes == index) & (detect.iou(box, by.corners) >= _SAME_BOX)).any())
        for box, index, score in zip(all_of.corners, all_of.classes, all_of.scores, strict=True)
        if score >= clear
    )


def graph_of(wanted: Preprocessing) -> bytes:
    """An ONNX model from the input ``frame``, uint8 (1, H, W, 3) of ``wanted.baked``, to what ``wanted`` says (SPEC 3.6).

    Raises UnsupportedModel for the one step that has no such graph: ``area`` by a factor that is no whole number.
    """
    import onnx
    from onnx import TensorProto, helper

    if wanted.baked is None:
        raise UnsupportedModel("only a frame of a fixed size can be taken in by a model")
    steps = _Steps()
    steps.add("Cast", to=TensorProto.FLOAT)
    steps.add("Transpose", perm=[0, 3, 1, 2])
    _resize(steps, wanted, wanted.baked)
    _recolour(steps, wanted)
    # (x * scale - mean) / std in one multiplication and one addition.
    steps.add("Mul", _planes([wanted.scale / std for std in wanted.std]))
    steps.add("Add", _planes([-mean / std for mean, std in zip(wanted.mean, wanted.std, strict=True)]))
    if wanted.layout == "nhwc":
        steps.add("Transpose", perm=[0, 2, 3, 1])
    taken = helper.make_tensor_value_info(FRAME, TensorProto.UINT8, list(wanted.input_shape))
    given = helper.make_tensor_value_info(steps.last, TensorProto.FLOAT, list(_plain(wanted).input_shape))
    graph = helper.make_graph(steps.nodes, "pre-processing", [taken], [given], steps.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class _Steps:
    """Nodes in a row, each taking what the one before gave."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.last = FRAME

    def add(self, operator: str, *constants: NDArray[Any] | None, **attributes: Any) -> None:
        """One operator on the tensor so far; ``None`` stands for an input that is left out."""
        from onnx import helper

        name = f"edgefleet_{len(self.nodes)}"
        more = [self._constant(f"{name}_{place}", each) for place, each in enumerate(constants)]
        self.nodes.append(helper.make_node(operator, [self.last, *more], [name], name=name, **attributes))
        self.last = name

    def _constant(self, name: str, value: NDArray[Any] | None) -> str:
        from onnx import numpy_helper

        if value is None:
            return ""
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _resize(steps: _Steps, wanted: Preprocessing, size: Baked) -> None:
    import numpy as np

    inner = wanted.width, wanted.height
    if wanted.resize == "letterbox":
        inner = letterbox_size(size.width, size.height, wanted)
    if inner != (size.width, size.height):
        _scale(steps, wanted, size, *inner)
        _round(steps)
    left, top = (wanted.width - inner[0]) // 2, (wanted.height - inner[1]) // 2
    right, bottom = wanted.width - inner[0] - left, wanted.height - inner[1] - top
    if left or top or right or bottom:
        bars = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        steps.add("Pad", bars, np.array(LETTERBOX_GRAY, np.float32), mode="constant")


def _scale(steps: _Steps, wanted: Preprocessing, size: Baked, width: int, height: int) -> None:
    import numpy as np

    sides = np.array([1, 3, height, width], np.int64)
    if wanted.interpolation == "bilinear":
        steps.add("Resize", None, None, sides, mode="linear", coordinate_transformation_mode="half_pixel")
    elif wanted.interpolation == "nearest":
        rules = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        steps.add("Resize", None, None, sides, mode="nearest", **rules)
    elif size.width % width or size.height % height:
        raise UnsupportedModel(
            f"area interpolation from {size.width}x{size.height} to {width}x{height} cannot be taken into the model; "
            "give [baked] a multiple of the model's size, or use bilinear"
        )
    else:
        factor = [size.height // height, size.width // width]
        steps.add("AveragePool", kernel_shape=factor, strides=factor)


def _round(steps: _Steps) -> None:
    # OpenCV scales 8-bit pictures into 8-bit pictures.
    import numpy as np

    steps.add("Round")
    steps.add("Clip", np.array(0, np.float32), np.array(255, np.float32))


def _recolour(steps: _Steps, wanted: Preprocessing) -> None:
    import numpy as np

    if wanted.color == "rgb":
        steps.add("Gather", np.array([2, 1, 0], np.int64), axis=1)
    if wanted.color == "gray":
        steps.add("Conv", np.array(_GRAY, np.float32).reshape(1, 3, 1, 1))
        _round(steps)


def _planes(values: Sequence[float]) -> NDArray[Any]:
    import numpy as np

    return np.array(values, np.float32).reshape(1, -1, 1, 1)


def _plain(wanted: Preprocessing) -> Preprocessing:
    return msgspec.structs.replace(wanted, baked=None)
