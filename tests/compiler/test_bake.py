"""Pre-processing inside the model answers like pre-processing outside it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fleet_protocol import package
from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Baked, Preprocessing
from fleet_protocol.tasks import Anomaly, Classification, Detection, Embedding, Segmentation
from model_compiler import images
from model_compiler.errors import ParityBroken, UnsupportedModel
from model_compiler.onnx_session import OnnxSession
from model_compiler.stages import bake
from tests.compiler import networks, pictures
from tests.compiler.workshop import Workshop

ONE_STEP = 1.01
"""Largest difference, in steps of the 8-bit picture: OpenCV scales in fixed point, a graph in float."""


def plain(**changes: object) -> Preprocessing:
    """Pre-processing that leaves 8-bit values as they are, so that differences are steps of the picture."""
    rules = Preprocessing(
        width=24, height=16, color="bgr", layout="nchw", resize="stretch", interpolation="bilinear", scale=1.0,
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
    )  # fmt: skip
    return msgspec.structs.replace(rules, **changes)


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def inside(wanted: Preprocessing, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the graph makes of ``frame``, which has the size that it takes."""
    taken = msgspec.structs.replace(wanted, baked=Baked(width=frame.shape[1], height=frame.shape[0]))
    session = OnnxSession(bake.graph_of(taken))
    tensor = preprocess(frame, taken)
    assert tensor.dtype == np.uint8
    return session.run([tensor])[0]


@pytest.mark.parametrize("size", [(24, 16), (48, 32), (61, 47), (13, 9)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_the_graph_makes_the_picture_that_the_device_would_make(
    size: tuple[int, int], resize: str, interpolation: str, color: str
) -> None:
    wanted = plain(resize=resize, interpolation=interpolation, color=color)
    frame = noise(*size)
    assert np.abs(inside(wanted, frame) - preprocess(frame, wanted)).max() <= ONE_STEP


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_gray_pictures_mean_and_scale_are_inside_too(layout: str) -> None:
    wanted = plain(color="gray", layout=layout, scale=1 / 255, mean=(0.5,), std=(0.25,))
    frame = noise(24, 16)
    expected = preprocess(frame, wanted)
    assert inside(wanted, frame).shape == expected.shape
    assert np.abs(inside(wanted, frame) - expected).max() <= ONE_STEP / 255 / 0.25


def test_area_is_taken_in_where_the_factor_is_whole() -> None:
    wanted = plain(interpolation="area")
    frame = noise(72, 48)
    assert np.abs(inside(wanted, frame) - preprocess(frame, wanted)).max() <= ONE_STEP
    with pytest.raises(UnsupportedModel, match="multiple of the model's size"):
        inside(wanted, noise(73, 48))


BOARDS = {"b-ort": "onnxruntime", "b-ov": "openvino", "b-tfl": "litert"}


def test_a_recipe_with_a_frame_size_gives_models_that_take_the_frame(shapes: Workshop) -> None:
    for name, runtime in BOARDS.items():
        shapes.write_board(name, runtime)
    shapes.replace('["generic-x86_64", "raspberry-pi-5"]', str([f"{name}.toml" for name in BOARDS]).replace("'", '"'))
    shapes.replace('["fp32", "int8"]', '["fp32"]')
    shapes.replace("[gate]", "[baked]\nwidth = 64\nheight = 64\n\n[gate]")
    assert shapes.compile() == 0
    (path,) = shapes.out.glob("*.efpkg")
    with path.open("rb") as stream:
        variants = {each.manifest.variant: each.manifest for each in package.read(stream).variants}
    for name in ("ort-fp32", "ov-fp32"):
        manifest = variants[name]
        assert (manifest.inputs[0].dtype, manifest.inputs[0].shape) == ("uint8", (1, 64, 64, 3))
        assert manifest.preprocessing.baked == Baked(width=64, height=64)
    assert variants["tfl-fp32"].preprocessing.baked is None
    assert variants["tfl-fp32"].inputs[0].shape == (1, 32, 32, 3)


def test_a_model_that_answers_otherwise_once_baked_is_refused(tmp_path: Path) -> None:
    pictures.save_all(pictures.shape, range(24), tmp_path / "images")
    right, wrong = networks.PREPROCESSING, msgspec.structs.replace(networks.PREPROCESSING, mean=(5.0, 5.0, 5.0))
    session = OnnxSession(networks.fitted_shapes(range(20_000, 20_100)).SerializeToString())
    found = images.list_images(tmp_path / "images")
    assert bake.check_agreement([(session, right), (session, right)], networks.TASK, found) == 1.0
    with pytest.raises(ParityBroken, match="of 24 images"):
        bake.check_agreement([(session, right), (session, wrong)], networks.TASK, found)


def test_answers_are_compared_as_their_task_reads_them() -> None:
    wanted = plain()
    low, high = np.array([[0.1, 0.9]], np.float32), np.array([[0.9, 0.1]], np.float32)
    classes = Classification(labels=("a", "b"), activation="none")
    strange = Anomaly(labels=("fine", "odd"), threshold=0.5)
    vector = Embedding(labels=("face",))
    assert bake.is_same([low], [low * 2], classes, wanted)
    assert not bake.is_same([low], [high], classes, wanted)
    assert bake.is_same([low], [high], strange, wanted)
    assert not bake.is_same([low], [low / 4], strange, wanted)
    assert bake.is_same([low], [low * 3], vector, wanted)
    assert not bake.is_same([low], [high], vector, wanted)
    pixels = Segmentation(labels=("a", "b"))
    one, other = np.zeros((1, 2, 4, 4), np.float32), np.zeros((1, 2, 4, 4), np.float32)
    other[0, 1, 0, 0] = 1.0
    assert bake.is_same([one], [one], pixels, wanted)
    assert not bake.is_same([one], [other], pixels, wanted)
    boxes = Detection(labels=("cat", "dog"), decoder="boxes")
    corners = np.array([[[0.1, 0.1, 0.5, 0.5]]], np.float32)
    cat, dog, faint = (np.array([[scores]], np.float32) for scores in ([0.9, 0.1], [0.1, 0.9], [0.31, 0.1]))
    assert bake.is_same([corners, cat], [corners + 0.02, cat], boxes, wanted)
    assert not bake.is_same([corners, cat], [corners + 0.3, cat], boxes, wanted)
    assert not bake.is_same([corners, cat], [corners, dog], boxes, wanted)
    assert bake.is_same([corners, faint], [corners, faint * 0.9], boxes, wanted)
