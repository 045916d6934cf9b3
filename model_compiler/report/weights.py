"""The layers of an ONNX file that have weights: enough to say what two files have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fleet_protocol.errors import MalformedPackage

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True, slots=True)
class Weighted:
    """One layer: its operator, whether its weights are integers, their size in bytes and digest."""

    operator: str
    is_integer: bool
    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Names of layers, in the files' order: in one file only, of another precision, with other weights, the same."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    precision: tuple[str, ...]
    weights: tuple[str, ...]
    same: int


def layers(model: bytes) -> dict[str, Weighted]:
    """Every layer with constant inputs, by the name of its node; raises MalformedPackage where ``model`` is not ONNX."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

    try:
        proto: ModelProto = onnx.load_from_string(model)
    except DecodeError as error:
        raise MalformedPackage("the package's model is no ONNX file; compile it again") from error
    constants = {each.name: each for each in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    found = {}
    for node in proto.graph.node:
        weights = _weights(node, constants, makers)
        if weights and node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            found[node.name or node.output[0]] = _weighted(node, weights)
    return found


def difference(before: Mapping[str, Weighted], after: Mapping[str, Weighted]) -> Difference:
    """What became of the layers of ``before`` in ``after``. Pure."""
    both = [name for name in before if name in after]
    precision = [name for name in both if before[name].is_integer != after[name].is_integer]
    weights = [name for name in both if before[name].sha256 != after[name].sha256 and name not in precision]
    return Difference(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        precision=tuple(precision),
        weights=tuple(weights),
        same=len(both) - len(precision) - len(weights),
    )


def _weights(node: NodeProto, constants: Mapping[str, Any], makers: Mapping[str, NodeProto]) -> list[Any]:
    found = []
    for name in node.input:
        maker = makers.get(name)
        # Integer weights reach their layer through a DequantizeLinear.
        source = maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else name
        if source in constants:
            found.append(constants[source])
    return found


def _weighted(node: NodeProto, weights: list[Any]) -> Weighted:
    from onnx import numpy_helper

    arrays = [numpy_helper.to_array(each) for each in weights]
    total = hashlib.sha256()
    for each in arrays:
        total.update(f"{each.dtype}{each.shape}".encode() + each.tobytes())
    is_integer = any(each.dtype.kind in "iu" and each.dtype.itemsize == 1 for each in arrays)
    return Weighted(node.op_type, is_integer, sum(each.nbytes for each in arrays), total.hexdigest())
