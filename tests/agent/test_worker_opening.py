"""From ciphertext to runtime, without a process: every digest is compared once more, nothing outside the bytes is read."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.runtimes import InferenceFailed, measure_fingerprint, runtime_for
from edge_agent.runtimes.onnxruntime import OnnxRuntime
from edge_agent.worker.model import percentile_95
from edge_agent.worker.opening import open_payload
from fleet_protocol import envelope
from fleet_protocol.errors import MalformedConfig, ModelNotLoadable
from fleet_protocol.fingerprint import mismatch
from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Manifest
from tests.agent.inference_world import the_board
from tests.agent.tiny_model import LABELS, PREPROCESSING, SIDE, TinyRelease, classifier, golden_frames, picture


def manifest_of(tmp_path: Path) -> Manifest:
    return TinyRelease().seal(tmp_path).manifest


def test_the_parts_come_out_as_they_went_in(tmp_path: Path) -> None:
    """Also where a part spans many pieces of the decryption and begins in the middle of one."""
    big = random.Random(3).randbytes(3_000_001)
    sealed = TinyRelease(model=big, frames=golden_frames(classifier())).seal(tmp_path)

    opened = open_payload(sealed.blob, sealed.key, sealed.manifest)

    assert opened.model == big
    assert len(opened.golden) == sealed.manifest.part("golden").length
    assert repr(opened) == "OpenedPayload()"


@pytest.mark.attack("32")
def test_another_payload_of_the_same_length_under_the_same_key_is_refused(tmp_path: Path) -> None:
    """Whoever has the content key still cannot serve other weights: the signed manifest names their digest."""
    sealed = TinyRelease().seal(tmp_path)
    other = [bytes(sealed.manifest.payload.length)]
    sealed.blob.write_bytes(b"".join(envelope.seal(other, sealed.key, sealed.digest)))

    with pytest.raises(ModelNotLoadable, match="do not have the payload's digest"):
        open_payload(sealed.blob, sealed.key, sealed.manifest)


@pytest.mark.parametrize("change", [lambda blob: blob[:-1], lambda blob: blob + b"\0", lambda blob: b""])
def test_a_blob_of_another_length_is_refused_before_it_is_read(tmp_path: Path, change: Any) -> None:
    sealed = TinyRelease().seal(tmp_path)
    sealed.blob.write_bytes(change(sealed.blob.read_bytes()))

    with pytest.raises(ModelNotLoadable, match=r"it should have \d+ bytes"):
        open_payload(sealed.blob, sealed.key, sealed.manifest)


def test_a_blob_sealed_for_another_manifest_is_refused(tmp_path: Path) -> None:
    one, other = TinyRelease().seal(tmp_path), TinyRelease(version="9.0.0").seal(tmp_path)
    with pytest.raises(ModelNotLoadable, match="sealed for another manifest"):
        open_payload(one.blob, one.key, other.manifest)


@pytest.mark.attack("30")
def test_external_data_beside_the_agent_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in memory has no folder; without our option ONNX Runtime would take the working directory for it."""
    model = onnx.load_from_string(classifier())
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "weights.bin").exists()

    with pytest.raises(ModelNotLoadable, match="External data"):
        OnnxRuntime.load((tmp_path / "m.onnx").read_bytes(), manifest_of(tmp_path), 1)


@pytest.mark.attack("30")
def test_an_operator_that_the_runtime_does_not_know_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Surprise", ["image"], ["scores"], domain="custom")],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()

    with pytest.raises(ModelNotLoadable, match=r"custom:Surprise.* is not a registered function/op"):
        OnnxRuntime.load(model, manifest_of(tmp_path), 1)


class Bomb:
    """A pickle that writes a file as soon as somebody unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Path, str]]:
        return Path.write_text, (self.target, "run")


@pytest.mark.attack("30")
def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    content, target = pickle.dumps(Bomb(tmp_path / "run")), tmp_path / "run"
    with pytest.raises(ModelNotLoadable):
        OnnxRuntime.load(content, manifest_of(tmp_path), 1)
    assert not target.exists()
    pickle.loads(content)
    assert target.exists(), "the bomb is a real one"


def test_a_model_with_other_tensors_than_the_manifests_is_refused(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    renamed = msgspec.structs.replace(manifest.outputs[0], name="logits")

    with pytest.raises(ModelNotLoadable, match="the manifest promises the outputs"):
        OnnxRuntime.load(classifier(), msgspec.structs.replace(manifest, outputs=(renamed,)), 1)


def test_the_same_session_answers_each_input_on_its_own(tmp_path: Path) -> None:
    session = OnnxRuntime.load(classifier(), manifest_of(tmp_path), 1)
    inputs = [preprocess(picture(color), PREPROCESSING) for color in LABELS]
    expected = [outputs[0] for _, outputs in golden_frames(classifier())]

    answers = [session.run(each)[0].copy() for each in inputs]

    for got, wanted in zip(answers, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_an_input_of_the_wrong_shape_is_refused_and_the_session_goes_on(tmp_path: Path) -> None:
    session = OnnxRuntime.load(classifier(), manifest_of(tmp_path), 1)
    with pytest.raises(InferenceFailed, match="got \\[1, 3, 5, 5\\]"):
        session.run(np.zeros((1, 3, 5, 5), np.float32))
    assert session.run(preprocess(picture("red"), PREPROCESSING))[0].argmax() == LABELS.index("red")


def test_the_fingerprint_is_what_is_installed_here_and_fits_a_release_for_this_board(tmp_path: Path) -> None:
    import onnxruntime

    fingerprint = measure_fingerprint(the_board())

    assert fingerprint.runtime_version == onnxruntime.__version__
    assert mismatch(manifest_of(tmp_path), fingerprint) is None


def test_a_board_whose_runtime_the_agent_does_not_drive_is_named() -> None:
    board = the_board()
    null = msgspec.structs.replace(board, runtime=msgspec.structs.replace(board.runtime, name="null"))
    with pytest.raises(MalformedConfig, match="asks for null, this agent drives onnxruntime"):
        measure_fingerprint(null)
    with pytest.raises(ModelNotLoadable, match="the model needs null"):
        runtime_for("null")


@pytest.mark.parametrize(("values", "p95"), [([3.0], 3.0), (list(range(1, 21)), 19), (list(range(1, 101)), 95)])
def test_p95_is_the_nearest_rank(values: list[float], p95: float) -> None:
    assert percentile_95(values) == p95


def test_the_random_part_of_the_tiny_model_is_not_folded_away() -> None:
    """The search for plaintext on disk needs weights that look like nothing else."""
    kernel = next(each for each in onnx.load_from_string(classifier()).graph.initializer if each.name == "kernel")
    assert numpy_helper.to_array(kernel).tobytes() in classifier()
