"""A record with everything in it that a report can show, and text that would be markup if it were not escaped."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from model_compiler.report.record import (
    SCHEMA,
    Agreement,
    Change,
    Confusion,
    Flip,
    Layer,
    Made,
    Origin,
    Record,
    Saying,
    Timing,
    Trial,
)  # fmt: skip

LABELS = ("up", "<script>alert(1)</script>", 'square "&" round')
SAYINGS = (
    Saying(name="fp32", said=LABELS[0], is_right=True),
    Saying(name="ort-int8", said=LABELS[1], is_right=False),
    Saying(name="ov-fp16", said=LABELS[0], is_right=True),
)
DIGEST = "ab" * 32


def made(variant: str, runtime: str, accuracy: float, p50_ms: float, model_bytes: int) -> Made:
    return Made(
        variant=variant, digest=DIGEST, model_sha256=DIGEST, runtime=runtime, precision="int8", method="qdq", boards=("b",),
        accuracy=accuracy, model_bytes=model_bytes, timing=Timing(p50_ms=p50_ms, p95_ms=2 * p50_ms, resident_bytes=8 << 20),
    )  # fmt: skip


def trial(method: str, accuracy: float, p50_ms: float | None) -> Trial:
    return Trial(
        variant="ort-int8", method=method, accuracy=accuracy, agreement=accuracy, model_bytes=10_000,
        is_chosen=False, p50_ms=p50_ms,
    )  # fmt: skip


def thumbnail() -> str:
    _, content = cv2.imencode(".jpg", np.full((20, 30, 3), 90, np.uint8))
    return base64.b64encode(content.tobytes()).decode()


def full() -> Record:
    layers = [("Conv_3", 0.04, True), ("Gemm_9", -0.01, False)]
    return Record(
        schema=SCHEMA, package_sha256=DIGEST, model="shapes", version="1.0.0", labels=LABELS, metric="top-1", baseline=0.95,
        samples=200, max_drop=0.02, notes=("a note",),
        variants=(made("ort-int8", "onnxruntime", 0.94, 1.5, 20_000), made("ov-fp16", "openvino", 0.95, 3.0, 60_000)),
        trials=(trial("min-max", 0.9, 1.4), trial("p99.9", 0.7, None)),
        layers=tuple(
            Layer(variant="ort-int8", name=name, operator="Conv", effect=effect, unit="top-1", is_excluded=out)
            for name, effect, out in layers
        ),
        flips=(Flip(image="a/<b>.png", truth=LABELS[0], sayings=SAYINGS, thumbnail=thumbnail()),),
        flips_seen=70,
        layer_noise={"ort-int8": {"Conv_3": 21.5, "Gemm_9": 18.25}},
        changes=(Change(variant="ort-int8", broken=50, mended=12, otherwise=8),),
        confusions=(Confusion(variant="ort-int8", label=LABELS[0], baseline=LABELS[0], answer=LABELS[1], images=50),),
        agreement=Agreement(names=("fp32", "ort-int8"), shares=((1.0, 0.65), (0.65, 1.0))),
        origin=Origin(
            source_sha256=DIGEST, calibration_sha256=DIGEST, evaluation_sha256=DIGEST, settings_sha256=DIGEST,
            toolchain_sha256=DIGEST, toolchain={"onnx": "1.23.2", "python": "3.11.7", "edgefleet": "0.1.0"},
            machine="one CPU", calibration_images=24,
        ),
    )  # fmt: skip
