"""Makers' compilers: called as their contracts say where they are installed, asked for where they are not.

None can be installed here; programs of the same name keep the recorded contract: the arguments that they take, the files
that they read, the file that they leave.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fleet_protocol.errors import ModelNotLoadable
from model_compiler import images
from model_compiler.errors import MissingExtra, UnsupportedModel
from model_compiler.samples import CalibrationSet
from model_compiler.stages import calibrate, quantize
from model_compiler.stages.normalise import FloatModel, normalise
from model_compiler.targets import target
from tests.compiler import networks, pictures

CONTRACT: dict[str, dict[str, list[list[str]]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "vendor_commands.json").read_text()
)
CASES = [(runtime, precision) for runtime, precisions in CONTRACT.items() for precision in precisions]
READS = {"edgetpu": ["model.tflite"], "hailo": ["model.onnx", "images.npy"], "tensorrt": ["model.onnx"]}

PROGRAM = """\
#!{python}
import json, pathlib, shutil, sys
log = pathlib.Path({log!r})
step = len(list(log.glob("*.json")))
(log / f"{{step}}.json").write_text(json.dumps([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]))
for each in pathlib.Path(".").iterdir():
    if each.is_file():
        shutil.copy(each, log / f"read-{{each.name}}")
arguments = dict(zip(sys.argv, sys.argv[1:]))
if "fail" in {behaviour!r}:
    print("ERROR: operator MaxPool is not supported", file=sys.stderr)
    sys.exit(7)
if "idle" not in {behaviour!r}:
    for flag, name in (("--out_dir", "model_edgetpu.tflite"), ("--output-dir", "model.hef")):
        if flag in arguments:
            pathlib.Path(arguments[flag]).mkdir()
            pathlib.Path(arguments[flag], name).write_bytes(b"made by the maker")
    for flag in ("--har-path", "--output-har-path"):
        if flag in arguments:
            pathlib.Path(arguments[flag]).write_bytes(b"archive")
    for each in sys.argv:
        if each.startswith("--saveEngine="):
            pathlib.Path(each.partition("=")[2]).write_bytes(b"made by the maker")
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[FloatModel, calibrate.Ranges, CalibrationSet]:
    folder = tmp_path_factory.mktemp("vendors") / "images"
    pictures.save_all(pictures.shape, range(8), folder)
    samples = CalibrationSet(images.list_images(folder), networks.PREPROCESSING)
    network = networks.fitted_shapes(range(20_000, 20_060))
    model = normalise(network, networks.PREPROCESSING, networks.TASK, folder)
    names = quantize.activations(model)
    return model, calibrate.calibrate(model, names, samples.pictures, samples.wanted, 1, lambda _: None), samples


class Installed:
    """The makers' programs on the path, and what they saw."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.log = folder / "programs", folder / "log"
        self.programs.mkdir()
        self.log.mkdir()

    def install(self, behaviour: str = "good") -> None:
        for name in ("edgetpu_compiler", "hailo", "trtexec"):
            program = self.programs / name
            program.write_text(PROGRAM.format(python=sys.executable, log=str(self.log), behaviour=behaviour))
            program.chmod(0o755)

    def called(self) -> list[list[str]]:
        return [
            json.loads((self.log / f"{step}.json").read_text()) for step in range(len(list(self.log.glob("*.json"))))
        ]

    def read(self, name: str) -> bytes:
        return (self.log / f"read-{name}").read_bytes()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    made = Installed(tmp_path)
    monkeypatch.setenv("PATH", str(made.programs))
    return made


@pytest.mark.parametrize(("runtime", "precision"), CASES)
def test_a_makers_compiler_is_called_as_the_contract_says(
    runtime: Any, precision: Any, material: tuple[FloatModel, calibrate.Ranges, CalibrationSet], installed: Installed
) -> None:
    installed.install()
    (candidate,) = target(runtime).candidates(material[0], precision, material[1], material[2])
    assert candidate.model == b"made by the maker"
    assert installed.called() == CONTRACT[runtime][precision]
    assert all(installed.read(name) for name in READS[runtime])


def test_tensorrt_gets_our_measured_scales_and_hailo_our_images(
    material: tuple[FloatModel, calibrate.Ranges, CalibrationSet], installed: Installed, tmp_path: Path
) -> None:
    installed.install()
    model, ranges, samples = material
    target("tensorrt").candidates(model, "int8", ranges, samples)
    given = onnx.load_from_string(installed.read("model.onnx"))
    assert "QuantizeLinear" in {node.op_type for node in given.graph.node}
    target("hailo").candidates(model, "int8", ranges, samples)
    shown = np.load(installed.log / "read-images.npy")
    assert shown.shape == (8, 32, 32, 3)
    assert np.array_equal(shown[0], next(samples.tensors())[0].transpose(1, 2, 0))


@pytest.mark.parametrize("runtime", list(CONTRACT))
def test_a_compiler_that_is_not_installed_is_asked_for(
    runtime: Any, material: tuple[FloatModel, calibrate.Ranges, CalibrationSet], installed: Installed
) -> None:
    with pytest.raises(
        MissingExtra, match=f"{CONTRACT[runtime]['int8'][0][0]}, which is not installed; .*(install|Install)"
    ):
        target(runtime).candidates(material[0], "int8", material[1], material[2])
    assert installed.called() == []


@pytest.mark.parametrize("runtime", list(CONTRACT))
def test_what_a_compiler_complains_of_is_passed_on_with_the_layer(
    runtime: Any, material: tuple[FloatModel, calibrate.Ranges, CalibrationSet], installed: Installed
) -> None:
    installed.install("fail")
    with pytest.raises(UnsupportedModel, match=r"operator MaxPool \(layer 'MaxPool_\d+'\)"):
        target(runtime).candidates(material[0], "int8", material[1], material[2])
    assert len(installed.called()) == 1


def test_a_compiler_that_makes_nothing_is_not_believed(
    material: tuple[FloatModel, calibrate.Ranges, CalibrationSet], installed: Installed
) -> None:
    installed.install("idle")
    with pytest.raises(UnsupportedModel, match=r"made no made/model\.hef"):
        target("hailo").candidates(material[0], "int8", material[1], material[2])


@pytest.mark.parametrize("runtime", list(CONTRACT))
def test_a_variant_is_not_believed_where_its_accelerator_is_not(runtime: Any) -> None:
    with pytest.raises(ModelNotLoadable, match="only a machine with that accelerator can prove it"):
        target(runtime).open_session(b"made by the maker", threads=1, optimised=True)
