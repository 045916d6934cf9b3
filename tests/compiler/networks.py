"""A small real classifier, fitted in closed form: random convolutions, then ridge regression on their features.

It is made the awkward way on purpose: opset 11, IR 6, a free batch dimension, batch normalisation not folded.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Preprocessing
from fleet_protocol.tasks import Classification
from tests.compiler import pictures

PREPROCESSING = Preprocessing(
    width=32, height=32, color="rgb", layout="nchw", resize="stretch", interpolation="area",
    scale=1 / 255, mean=(0.4, 0.4, 0.4), std=(0.25, 0.25, 0.25),
)  # fmt: skip
TASK = Classification(labels=pictures.SHAPES, activation="none")
CHANNELS = 16
FEATURES = CHANNELS * 8 * 8


def fitted_shapes(fit_on: range = range(20_000, 20_600), trunk_seed: int = 7) -> onnx.ModelProto:
    """The classifier of tests.compiler.pictures.shape, fitted to the seeds ``fit_on``; its output are scores."""
    drawn = [pictures.shape(seed) for seed in fit_on]
    trunk = onnxruntime.InferenceSession(
        _model(None, trunk_seed).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    tensors = [preprocess(pictures.as_bgr(picture), PREPROCESSING) for picture, _ in drawn]
    features = np.concatenate([trunk.run(None, {"image": tensor})[0] for tensor in tensors])
    targets = np.eye(len(pictures.SHAPES))[[label for _, label in drawn]] * 2 - 1
    return _model(_ridge(features.astype(np.float64), targets), trunk_seed)


def _ridge(
    features: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    centre, mean = features.mean(0), targets.mean(0)
    centred = features - centre
    weights = np.linalg.solve(centred.T @ centred + 30.0 * np.eye(len(centre)), centred.T @ (targets - mean))
    return weights.astype(np.float32), (mean - centre @ weights).astype(np.float32)


def _model(head: tuple[NDArray[np.float32], NDArray[np.float32]] | None, seed: int) -> onnx.ModelProto:
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.standard_normal((CHANNELS, 3, 3, 3)) / 4,
        "w2": random.standard_normal((CHANNELS, 1, 3, 3)) / 2,
        "gamma": random.uniform(0.5, 2.0, CHANNELS),
        "beta": random.standard_normal(CHANNELS) / 4,
        "mean": random.standard_normal(CHANNELS) / 4,
        "var": random.uniform(0.5, 2.0, CHANNELS),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=CHANNELS),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("AveragePool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p2"], ["features"]),
    ]
    width = FEATURES
    if head is not None:
        weights |= {"w3": head[0], "b3": head[1]}
        nodes.append(helper.make_node("Gemm", ["features", "w3", "b3"], ["scores"]))
        width = len(head[1])
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    return model
