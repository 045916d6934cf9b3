"""A real, tiny ONNX classifier, sealed as the server seals it: which of blue, green and red fills a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_agent.ports import SealedModel
from fleet_protocol import envelope, golden
from fleet_protocol import manifest as manifests
from fleet_protocol.imaging import preprocess
from fleet_protocol.tasks import Classification

LABELS = ("blue", "green", "red")
SIDE = 32
BOARD = "generic-x86_64"
PREPROCESSING = manifests.Preprocessing(
    width=SIDE, height=SIDE, color="bgr", layout="nchw", resize="stretch", interpolation="bilinear", scale=1 / 255,
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
)  # fmt: skip

_Nodes = list[Any]


def picture(color: str, level: int = 220, height: int = 40, width: int = 48) -> NDArray[np.uint8]:
    """A BGR picture whose ``color`` is at ``level``, with a little structure so that no two frames are constant."""
    frame = np.random.default_rng(level).integers(0, 20, (height, width, 3), np.uint8)
    frame[:, :, LABELS.index(color)] += np.uint8(level)
    return frame


def classifier(seed: int = 1, ballast_mib: int = 0) -> bytes:
    """Mean colour through a Gemm, beside a convolution with random weights that contributes a little.

    ``ballast_mib``: weights that no node uses.
    """
    ballast = {"ballast": np.random.default_rng(seed).random((ballast_mib, 2**18), np.float32)} if ballast_mib else {}
    return _model(seed, [], **ballast)


def fails_on_dark_frames() -> bytes:
    """Gathers element 10 of 3 where the frame is dark: ONNX Runtime raises on such frames only."""
    nodes = [
        *_is_dark("dark"),
        helper.make_node("Cast", ["dark"], ["dark_i"], to=TensorProto.INT64),
        helper.make_node("Mul", ["dark_i", "ten"], ["offset"]),
        helper.make_node("Add", ["offset", "order"], ["index"]),
        helper.make_node("Gather", ["scores_before", "index"], ["scores"], axis=1),
    ]
    return _model(1, nodes, ten=np.array([10], np.int64), order=np.arange(3, dtype=np.int64))


def hangs_on_dark_frames() -> bytes:
    """Loops for ever, in effect, where the frame is dark."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Tanh", ["value"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, [1, 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 3]),
        ],
    )
    nodes = [
        *_is_dark("dark"),
        helper.make_node("Cast", ["dark"], ["dark_i"], to=TensorProto.INT64),
        helper.make_node("Mul", ["dark_i", "eternity"], ["turns_1d"]),
        helper.make_node("Squeeze", ["turns_1d"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "scores_before"], ["scores"], body=body),
    ]
    return _model(1, nodes, eternity=np.array([2**50], np.int64))


def _is_dark(name: str) -> _Nodes:
    return [
        helper.make_node("ReduceMax", ["mean"], ["brightest"], keepdims=0),
        helper.make_node("Reshape", ["brightest", "one_element"], ["brightest_1d"]),
        helper.make_node("Less", ["brightest_1d", "threshold"], [name]),
    ]


def _model(seed: int, tail: _Nodes, **constants: NDArray[Any]) -> bytes:
    random = np.random.default_rng(seed)
    weights: dict[str, NDArray[Any]] = {
        "kernel": random.normal(0, 0.2, (16, 3, 3, 3)).astype(np.float32),
        "mix": random.normal(0, 0.01, (16, 3)).astype(np.float32),
        "gain": np.eye(3, dtype=np.float32) * 8,
    }
    weights |= constants
    if tail:
        weights |= {"threshold": np.array([0.2], np.float32), "one_element": np.array([1], np.int64)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
        helper.make_node("Conv", ["image", "kernel"], ["edges"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["edges"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["texture_4d"]),
        helper.make_node("Flatten", ["texture_4d"], ["texture"]),
        helper.make_node("MatMul", ["texture", "mix"], ["texture_scores"]),
        helper.make_node("Gemm", ["mean", "gain", "texture_scores"], ["scores_before" if tail else "scores"]),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def golden_frames(model: bytes) -> list[golden.Frame]:
    """One frame per colour with what ONNX Runtime really answers."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = [preprocess(picture(color), PREPROCESSING) for color in LABELS]
    return [([each], list(session.run(None, {"image": each}))) for each in inputs]


@dataclass
class TinyRelease:
    """One release of a tiny model, to be changed before it is sealed."""

    version: str = "1.0.0"
    slot: str = "cam"
    model: bytes = field(default_factory=classifier)
    frames: list[golden.Frame] | None = None
    budget_ms: float = 1000.0
    labels: tuple[str, ...] = LABELS
    change: Callable[[manifests.Manifest], manifests.Manifest] = lambda manifest: manifest

    def seal(self, folder: Path) -> SealedModel:
        """Write the ciphertext below ``folder`` as the updater does, and give what a worker needs to open it."""
        frames = golden_frames(self.model) if self.frames is None else self.frames
        payload, content = manifests.payload_of([("model", self.model), ("golden", golden.pack(frames))])
        manifest = manifests.parse(self.change(self._manifest(payload, len(frames))).encode())
        digest, key = manifests.digest_of_manifest(manifest), envelope.generate_key()
        folder.mkdir(parents=True, exist_ok=True)
        blob = folder / f"{digest}.blob"
        blob.write_bytes(b"".join(envelope.seal([content], key, digest)))
        return SealedModel(manifest, digest, blob, key)

    def _manifest(self, payload: manifests.Payload, frames: int) -> manifests.Manifest:
        nowhere = "0" * 64
        return manifests.Manifest(
            schema=manifests.SCHEMA, model="tint", version=self.version, variant="ort-fp32", slot=self.slot, counter=1,
            boards=(BOARD,), payload=payload, preprocessing=PREPROCESSING,
            runtime=manifests.RuntimeRequirement(
                name="onnxruntime", min_version="1.17", architectures=("x86_64", "aarch64"), precision="fp32"
            ),
            inputs=(manifests.TensorSpec(name="image", dtype="float32", shape=(1, 3, SIDE, SIDE)),),
            outputs=(manifests.TensorSpec(name="scores", dtype="float32", shape=(1, 3)),),
            postprocessing=Classification(labels=self.labels, activation="softmax"),
            golden=manifests.Golden(
                frames=frames, atol=1e-4, rtol=1e-4, max_outliers=0.0, decisive=(True,) * frames,
                latency_budget_ms={BOARD: self.budget_ms},
            ),
            measured=manifests.Measured(
                metric="accuracy", value=1.0, baseline=1.0, samples=3, latency_p50_ms=1.0, latency_p95_ms=1.0,
                model_bytes=len(self.model), resident_bytes=0,
            ),
            provenance=manifests.Provenance(
                source_sha256=nowhere, calibration_sha256=nowhere, evaluation_sha256=nowhere, toolchain={}
            ),
        )  # fmt: skip
