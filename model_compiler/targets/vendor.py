"""Accelerators whose makers ship their own compiler: it is called where it is installed, and asked for where it is not.

What comes out runs on the accelerator only, so a variant is proved where one is attached; here it is built, not believed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fleet_protocol.board import RuntimeName
from fleet_protocol.errors import ModelNotLoadable
from fleet_protocol.manifest import MODEL_PART, Precision, Preprocessing
from model_compiler.errors import MissingExtra, UnsupportedModel, UnwantedVariant
from model_compiler.samples import CalibrationSet
from model_compiler.stages import quantize
from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.quantize import Candidate
from model_compiler.targets import litert
from model_compiler.targets.refusals import refusal

if TYPE_CHECKING:
    from model_compiler.targets import Session

LIMIT_S: Final = 3600.0
CALIBRATION_IMAGES: Final = 256

Prepare = Callable[[Path, FloatModel, Precision, "Ranges | None", CalibrationSet], None]


@dataclass(frozen=True, slots=True)
class Vendor:
    """One maker's compiler, a :class:`model_compiler.targets.Target`. ``COMMANDS``: per precision the programs' arguments,
    run one after the other in a directory that ``prepare`` filled; ``made``: the file that is there in the end.
    """

    RUNTIME: RuntimeName
    PREFIX: str
    PACKAGES: tuple[str, ...]
    PRECISIONS: frozenset[Precision]
    CALIBRATED: frozenset[Precision]
    COMMANDS: dict[Precision, tuple[tuple[str, ...], ...]]
    title: str
    hint: str
    made: str
    prepare: Prepare
    layout: str = ""

    def candidates(
        self, model: FloatModel, precision: Precision, ranges: Ranges | None, samples: CalibrationSet
    ) -> list[Candidate]:
        """What the maker's compiler makes; raises MissingExtra with the hint, UnsupportedModel with what it said."""
        for program in dict.fromkeys(command[0] for command in self.COMMANDS[precision]):
            if shutil.which(program) is None:
                raise MissingExtra(
                    f"variants for {self.title} need the program {program}, which is not installed; {self.hint}"
                )
        with tempfile.TemporaryDirectory() as folder:
            self.prepare(Path(folder), model, precision, ranges, samples)
            for command in self.COMMANDS[precision]:
                self._run(command, folder, model)
            made = Path(folder) / self.made
            if not made.is_file():
                raise UnsupportedModel(f"{self.COMMANDS[precision][-1][0]} ended well but made no {self.made}")
            return [Candidate(f"{self.PREFIX}-compiler", made.read_bytes())]

    def from_qdq(self, model: bytes) -> None:
        """None: a maker's compiler is not asked for every step of a search."""
        del model

    def joined(self, steps: bytes, model: bytes) -> None:
        """None: what is compiled takes nothing in front of it."""
        del steps, model

    def open_session(self, model: bytes, *, threads: int, optimised: bool) -> Session:
        """Raises ModelNotLoadable: this machine is no such accelerator."""
        del model, threads, optimised
        raise ModelNotLoadable(
            f"a variant for {self.title} is built, but only a machine with that accelerator can prove it; "
            "compile there, or leave its boards out of the recipe"
        )

    def preprocessing(self, wanted: Preprocessing) -> Preprocessing:
        """Interleaved where the accelerator wants it so."""
        return litert.preprocessing(wanted) if self.layout == "nhwc" else wanted

    def parts(self, model: bytes) -> list[tuple[str, bytes]]:
        """One file."""
        return [(MODEL_PART, model)]

    def _run(self, command: tuple[str, ...], folder: str, model: FloatModel) -> None:
        try:
            ended = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise UnsupportedModel(f"{command[0]} did not end within {LIMIT_S:g} s") from error
        except OSError as error:
            raise MissingExtra(f"{command[0]} cannot be started ({error.strerror}); {self.hint}") from error
        if ended.returncode != 0:
            raise refusal(command[0], model.content, (ended.stdout + ended.stderr).decode(errors="replace"))


def _quantized_tflite(
    folder: Path, model: FloatModel, precision: Precision, ranges: Ranges | None, samples: CalibrationSet
) -> None:
    candidate = litert.candidates(model, precision, ranges, samples)[0]
    (folder / "model.tflite").write_bytes(candidate.model)


def _onnx(
    folder: Path, model: FloatModel, precision: Precision, ranges: Ranges | None, samples: CalibrationSet
) -> None:
    """int8 as a graph with explicit scales: the maker's own calibration is not needed, ours is measured."""
    del samples
    content = model.content
    if precision == "int8":
        if ranges is None:
            raise UnwantedVariant("int8 for TensorRT needs calibrated ranges")
        content = quantize.candidates(model, ranges)[0].model
    (folder / "model.onnx").write_bytes(content)


def _onnx_and_pictures(
    folder: Path, model: FloatModel, precision: Precision, ranges: Ranges | None, samples: CalibrationSet
) -> None:
    """The float model, and the images as one array (N, H, W, C): Hailo's compiler calibrates by itself."""
    import numpy as np

    del precision, ranges
    (folder / "model.onnx").write_bytes(model.content)
    shown = CalibrationSet(samples.some(CALIBRATION_IMAGES).pictures, litert.preprocessing(samples.wanted))
    shape = (len(shown.pictures), *shown.wanted.input_shape[1:])
    array = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.float32, shape=shape)
    for place, tensor in enumerate(shown.tensors()):
        array[place] = tensor[0]
    array.flush()


EDGETPU: Final = Vendor(
    RUNTIME="edgetpu", PREFIX="tpu", PACKAGES=litert.PACKAGES, PRECISIONS=frozenset({"int8"}), CALIBRATED=frozenset(),
    COMMANDS={"int8": (("edgetpu_compiler", "--out_dir", "made", "--show_operations", "model.tflite"),)},
    title="the Coral Edge TPU",
    hint="add Coral's apt repository (coral.ai/docs/edgetpu/compiler) and install the package edgetpu-compiler",
    made="made/model_edgetpu.tflite", prepare=_quantized_tflite, layout="nhwc",
)  # fmt: skip

HAILO: Final = Vendor(
    RUNTIME="hailo", PREFIX="hailo", PACKAGES=(), PRECISIONS=frozenset({"int8"}), CALIBRATED=frozenset(),
    COMMANDS={"int8": (
        ("hailo", "parser", "onnx", "model.onnx", "--hw-arch", "hailo8", "--net-name", "model", "--har-path", "model.har", "-y"),
        ("hailo", "optimize", "model.har", "--hw-arch", "hailo8", "--calib-set-path", "images.npy",
         "--output-har-path", "quantized.har"),
        ("hailo", "compiler", "quantized.har", "--hw-arch", "hailo8", "--output-dir", "made"),
    )},
    title="Hailo-8",
    hint="register at the Hailo Developer Zone and install its Dataflow Compiler wheel",
    made="made/model.hef", prepare=_onnx_and_pictures, layout="nhwc",
)  # fmt: skip

_TRTEXEC: Final = ("trtexec", "--onnx=model.onnx", "--saveEngine=model.engine", "--skipInference")
TENSORRT: Final = Vendor(
    RUNTIME="tensorrt", PREFIX="trt", PACKAGES=("onnxruntime",), PRECISIONS=frozenset({"fp32", "fp16", "int8"}),
    CALIBRATED=frozenset({"int8"}),
    COMMANDS={
        "fp32": ((*_TRTEXEC, "--noTF32"),),
        "fp16": ((*_TRTEXEC, "--fp16"),),
        "int8": ((*_TRTEXEC, "--int8", "--fp16"),),
    },
    title="NVIDIA TensorRT",
    hint="install JetPack on the Jetson itself, or TensorRT from developer.nvidia.com/tensorrt: engines fit one GPU and version",
    made="model.engine", prepare=_onnx,
)  # fmt: skip
