"""Whatever the exporter wrote, the targets see one form, and it computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fleet_protocol.errors import ModelNotLoadable
from model_compiler.errors import ParityBroken
from model_compiler.stages import parity
from model_compiler.stages.normalise import FloatModel, normalise
from tests.compiler import networks

TENSORS = [np.random.default_rng(seed).standard_normal((1, 3, 32, 32)).astype(np.float32) for seed in range(4)]


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return networks.fitted_shapes(range(20_000, 20_060))


def copy_of(network: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    return copy


def normal(network: onnx.ModelProto) -> FloatModel:
    return normalise(copy_of(network), networks.PREPROCESSING, networks.TASK, Path("model.onnx"))


def test_the_common_form_is_static_modern_folded_and_named(network: onnx.ModelProto) -> None:
    made = normal(network)
    model = onnx.load_from_string(made.content)
    assert (made.input.shape, made.outputs[0].shape) == ((1, 3, 32, 32), (1, 3))
    assert {each.domain: each.version for each in model.opset_import}[""] == 17
    assert model.ir_version == 9
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_the_common_form_computes_what_the_source_computes(network: onnx.ModelProto) -> None:
    assert parity.check_parity(parity.runnable(network), normal(network).content, TENSORS) < 1e-5


def test_another_computation_is_noticed(network: onnx.ModelProto) -> None:
    changed = copy_of(network)
    bias = next(each for each in changed.graph.initializer if each.name == "b3")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * 1.05, "b3"))
    with pytest.raises(ParityBroken, match="differs from the source"):
        parity.check_parity(parity.runnable(network), normal(changed).content, TENSORS)


def test_a_container_newer_than_the_runtime_is_accepted(network: onnx.ModelProto) -> None:
    newer = copy_of(network)
    newer.ir_version = 13
    assert normal(newer) == normal(network)
    parity.check_parity(parity.runnable(newer), normal(newer).content, TENSORS)


def test_operators_newer_than_the_runtime_are_refused(network: onnx.ModelProto) -> None:
    newer = copy_of(network)
    newer.opset_import[0].version = 28
    with pytest.raises(ModelNotLoadable, match="ONNX Runtime"):
        parity.check_parity(parity.runnable(newer), normal(network).content, TENSORS)


def comment(model: onnx.ModelProto) -> None:
    model.doc_string = "made on a Tuesday"
    model.graph.doc_string = "graph"


def sign(model: onnx.ModelProto) -> None:
    model.producer_name, model.producer_version = "exporter", "2.1"
    model.metadata_props.append(onnx.StringStringEntryProto(key="date", value="2026-01-01"))


def rename(model: onnx.ModelProto) -> None:
    for number, node in enumerate(model.graph.node):
        node.name = f"/layer/{number}"
        node.doc_string = "traceback"


def list_weights_as_inputs(model: onnx.ModelProto) -> None:
    for each in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(each.name, each.data_type, list(each.dims)))


@pytest.mark.parametrize("change", [comment, sign, rename])
def test_what_changes_no_result_changes_no_byte(
    network: onnx.ModelProto, change: Callable[[onnx.ModelProto], None]
) -> None:
    changed = copy_of(network)
    change(changed)
    assert normal(changed).content == normal(network).content


def test_weights_listed_as_inputs_are_no_inputs(network: onnx.ModelProto) -> None:
    old = copy_of(network)
    list_weights_as_inputs(old)
    assert parity.check_parity(parity.runnable(network), normal(old).content, TENSORS) < 1e-5
