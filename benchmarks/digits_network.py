"""A small network for handwritten digits, fitted in closed form: random convolutions, then ridge regression."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CLASSES: Final = tuple(str(number) for number in range(10))
_WIDTH: Final = 48
_BRIGHTEST: Final = 15
"""The images have values from 0 to 16; times this they use an 8-bit image."""


def settle(folder: Path) -> None:
    """Write the network and 1797 images: two thirds train it, 100 of these calibrate it, the others judge."""
    import cv2
    from sklearn.datasets import load_digits

    from benchmarks.zoo import write_labels

    images, targets = load_digits(return_X_y=True)
    pictures = (images.reshape(-1, 8, 8) * _BRIGHTEST).astype(np.uint8)
    held_out = np.arange(len(pictures)) % 3 == 2
    onnx.save(fitted(pictures[~held_out], targets[~held_out]), folder / "model.onnx")
    labels = {}
    for part in ("calibration", "evaluation"):
        (folder / part).mkdir(exist_ok=True)
    for number, (picture, target) in enumerate(zip(pictures, targets, strict=True)):
        name = f"{number:04d}.png"
        if held_out[number]:
            labels[name] = int(target)
            cv2.imwrite(str(folder / "evaluation" / name), picture)
        elif number < 150:
            cv2.imwrite(str(folder / "calibration" / name), picture)
    write_labels(folder, labels, CLASSES)


def fitted(pictures: NDArray[np.uint8], targets: NDArray[Any]) -> onnx.ModelProto:
    """The classifier: float32 [1, 1, 8, 8] of 0..1 to ten scores."""
    trunk = onnxruntime.InferenceSession(_model(None).SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = pictures[:, None, None].astype(np.float32) / np.float32(255)
    features = np.concatenate([trunk.run(None, {"image": each})[0] for each in inputs]).astype(np.float64)
    wanted, mean = np.eye(len(CLASSES))[targets] * 2 - 1, features.mean(0)
    centred = features - mean
    strength = 1e-3 * np.trace(centred.T @ centred) / len(mean)
    weights = np.linalg.solve(centred.T @ centred + strength * np.eye(len(mean)), centred.T @ (wanted - wanted.mean(0)))
    return _model((weights, wanted.mean(0) - mean @ weights))


def _model(head: tuple[NDArray[Any], NDArray[Any]] | None) -> onnx.ModelProto:
    random = np.random.default_rng(11)
    weights = {
        "w1": random.standard_normal((_WIDTH, 1, 3, 3)),
        "b1": random.uniform(-0.5, 0.5, _WIDTH),
        "w2": random.standard_normal((_WIDTH, 1, 3, 3)) / 2,
        "w3": random.standard_normal((_WIDTH, _WIDTH, 1, 1)) / np.sqrt(_WIDTH),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=_WIDTH),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"]),
        helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("AveragePool", ["r3"], ["p3"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p3"], ["features"]),
    ]
    outputs = _WIDTH * 4 * 4
    if head is not None:
        weights |= {"w4": head[0], "b4": head[1]}
        nodes.append(helper.make_node("Gemm", ["features", "w4", "b4"], ["scores"]))
        outputs = len(CLASSES)
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
