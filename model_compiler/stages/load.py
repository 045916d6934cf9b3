"""Stage 1: from a file to an intact ONNX model, whole in memory. Other formats are brought into ONNX here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fleet_protocol.identifiers import Digest
from fleet_protocol.manifest import MAX_PAYLOAD_BYTES
from model_compiler.errors import MalformedModel
from model_compiler.sources import Kind, kind_of, weights_beside

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_EXTERNAL_MARK: Final = b"location"
_WEIGHING: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})


@dataclass(frozen=True, slots=True)
class Source:
    """A model file, unparsed, with the weight files that it names. ``digest`` covers all of them."""

    path: Path
    content: bytes
    weights: tuple[Path, ...]
    digest: Digest
    kind: Kind = "onnx"


def read(path: Path) -> Source:
    """Read the model file and find its weight files; raises MalformedModel, with the cure."""
    content = _read_bounded(path)
    # Parsing costs half a second, needed here only where weights lie outside: such a model has the key "location".
    kind = kind_of(content)
    if kind == "onnx":
        weights = tuple(_weight_files(_parse(path, content), path)) if _EXTERNAL_MARK in content else ()
    else:
        beside = weights_beside(path, kind)
        weights = (beside,) if beside else ()
    total = hashlib.sha256(content)
    for each in weights:
        total.update(hashlib.sha256(_read_bounded(each)).digest())
    return Source(path, content, weights, Digest(total.hexdigest()), kind)


def load(source: Source) -> ModelProto:
    """The model with all weights inside; raises MalformedModel where it is cut, not ONNX, inconsistent or holds NaN."""
    import onnx

    model = _in_onnx(source)
    try:
        if source.weights and source.kind == "onnx":
            onnx.load_external_data_for_model(model, str(source.path.parent))
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise MalformedModel(f"{source.path} is not a valid ONNX model ({reason}); export it again") from error
    _refuse_outside(model, source.path)
    _refuse_nan(model, source.path)
    _refuse_infinite(model, source.path)
    return model


def _in_onnx(source: Source) -> ModelProto:
    if source.kind == "onnx":
        return _parse(source.path, source.content)
    from model_compiler.sources.imported import to_onnx

    weights = b"".join(_read_bounded(each) for each in source.weights)
    return to_onnx(source.path, source.kind, source.content, weights)


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant tensor of ``model``, also those inside nodes, their graphs and the model's own functions."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        yield from _in_nodes(function.node)


def _in_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _in_graph(inner)


def _read_bounded(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_PAYLOAD_BYTES:
            raise MalformedModel(f"{path} has more than {MAX_PAYLOAD_BYTES} bytes; no manifest can carry it")
        return path.read_bytes()
    except OSError as error:
        raise MalformedModel(f"model file {path} cannot be read: {error.strerror}") from error


def _parse(path: Path, content: bytes) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise MalformedModel(f"{path} is not an ONNX model, or it was cut; export or copy it again") from error
    if not model.graph.node:
        raise MalformedModel(f"{path} is not an ONNX model: it has no operators; export it again")
    return model


def _weight_files(model: ModelProto, path: Path) -> Iterator[Path]:
    """The files named by external tensors, each once, sorted; raises MalformedModel where one is outside or missing."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    names = {ExternalDataInfo(each).location for each in tensors_of(model) if uses_external_data(each)}
    folder = path.parent.resolve()
    for name in sorted(names):
        # A model from elsewhere must not be able to pull any file of this machine into a package.
        found = (folder / name).resolve()
        if not found.is_relative_to(folder):
            raise MalformedModel(f"{path} wants weights from {name!r}, outside its own directory; save it as one file")
        if not found.is_file():
            raise MalformedModel(f"{path} wants weights from {name!r}, which is missing; copy it beside the model")
        yield found


def _refuse_outside(model: ModelProto, path: Path) -> None:
    from onnx.external_data_helper import uses_external_data

    # Whatever onnx left outside, the runtime would look for in the directory that it happens to be started from.
    if any(uses_external_data(each) for each in tensors_of(model)):
        raise MalformedModel(f"{path} keeps weights in other files in a way that cannot be read; save it as one file")


def _refuse_nan(model: ModelProto, path: Path) -> None:
    import numpy as np
    from onnx import numpy_helper

    for each in tensors_of(model):
        values: Any = numpy_helper.to_array(each)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise MalformedModel(
                f"{path}: weight {each.name!r} holds NaN; the training diverged, choose another checkpoint"
            )


def _refuse_infinite(model: ModelProto, path: Path) -> None:
    import numpy as np
    from onnx import numpy_helper

    # A mask may be infinite on purpose; what is multiplied with may not.
    weighing = {name for node in model.graph.node if node.op_type in _WEIGHING for name in node.input}
    for each in model.graph.initializer:
        if each.name in weighing and np.isinf(numpy_helper.to_array(each)).any():
            raise MalformedModel(
                f"{path}: weight {each.name!r} is infinite; the training diverged, choose another checkpoint"
            )
