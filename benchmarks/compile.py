"""The whole search beside NNCF's accuracy-aware quantization and ONNX Runtime's own, on the same machine in the same run.

``python -m benchmarks.compile [MODEL]`` with a model of ``benchmarks.zoo`` (EfficientNet-Lite0 by default, PP-LCNet where
that is missing). Every contender is a process of its own: its wall time and peak memory are those of the whole process,
imports, calibration and search included, for the search also the proof on the device's runtime and the package.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import zoo
from benchmarks.goals import Goal, print_goals

CAP_S: Final = 600.0
VALIDATED: Final = 200
"""Images that NNCF validates on; all 800 would take it four times as long."""
PERCENTILE_IMAGES: Final = 100
MAX_DROP: Final = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """One contender; ``score`` None where it did not finish within ten minutes."""

    name: str
    seconds: float
    peak_mib: float
    score: float | None


def run(name: str, command: list[str]) -> Run:
    """Run ``command``, whose last line of output is JSON with ``score``, for at most ten minutes."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            peak = _waited(child, began + CAP_S)
        finally:
            child.kill()
        seconds = time.monotonic() - began
        output.seek(0)
        lines = output.read().decode().strip().splitlines()
    if child.returncode == -signal.SIGKILL:
        return Run(name, seconds, peak, None)
    if child.returncode != 0:
        raise SystemExit(f"{name} failed with {child.returncode}: {lines[-1] if lines else 'it said nothing'}")
    return Run(name, seconds, peak, float(json.loads(lines[-1])["score"]))


def _waited(child: subprocess.Popen[bytes], deadline: float) -> float:
    """Peak resident MiB of the child, which is ended at the deadline."""
    while time.monotonic() < deadline:
        ended, status, usage = os.wait4(child.pid, os.WNOHANG)
        if ended:
            child.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_maxrss / 1024
        time.sleep(0.05)
    child.kill()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / 1024


class Case:
    """One model of the zoo, normalised, with its images as the contenders want them."""

    def __init__(self, recipe: Path) -> None:
        from model_compiler import inputs as gathering
        from model_compiler.samples import CalibrationSet
        from model_compiler.stages import load, normalise

        self.inputs = gathering.gather(recipe)
        wanted = self.inputs.recipe.preprocessing
        self.model = normalise.normalise(load.load(self.inputs.source), wanted, self.inputs.task, recipe)
        self.samples = CalibrationSet(self.inputs.calibration, wanted)

    def score(self, session: Any) -> float:
        """Top-1 on all evaluation images."""
        from model_compiler.parallel import default_jobs
        from model_compiler.stages import evaluate

        wanted, samples = self.inputs.recipe.preprocessing, self.inputs.evaluation
        found = evaluate.evaluate({"": session}, samples, wanted, default_jobs(), lambda _: None)
        return found[""].accuracy([sample.label for sample in samples])


def compiled(recipe: Path) -> float:
    """What ``model-compiler compile`` reaches for one int8 variant with default settings and an empty cache."""
    from model_compiler import cli

    recipe.write_text(recipe.read_text().replace('variants = ["int8", "fp16", "fp32"]', 'variants = ["int8"]'))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made.efpkg"
        if cli.run(["compile", str(recipe), "--out", str(out), "--cache", folder]) != 0:
            raise SystemExit(1)
        from fleet_protocol import package

        with out.open("rb") as stream:
            return package.read(stream).variants[0].manifest.measured.value


def static(recipe: Path, method: str) -> float:
    """``quantize_static`` per channel with one of ONNX Runtime's own calibrators."""
    import onnxruntime.quantization as ort

    from model_compiler.onnx_session import OnnxSession

    case = Case(recipe)
    shown = case.samples if method == "MinMax" else case.samples.some(PERCENTILE_IMAGES)
    tensors = shown.tensors()

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]  # untyped library
        def get_next(self) -> dict[str, Any] | None:
            tensor = next(tensors, None)
            return None if tensor is None else {case.model.input.name: tensor}

    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "source.onnx", Path(folder) / "made.onnx"
        source.write_bytes(case.model.content)
        ort.quantize_static(
            source, made, Reader(), per_channel=True,
            activation_type=ort.QuantType.QUInt8, weight_type=ort.QuantType.QInt8,
            calibrate_method=ort.CalibrationMethod[method],
        )  # fmt: skip
        return case.score(OnnxSession(made.read_bytes()))


def accuracy_aware(recipe: Path) -> float:
    """NNCF's own loop: it reverts layers until the drop on its validation images is small enough."""
    import nncf
    import numpy as np
    import openvino

    from fleet_protocol.imaging import preprocess
    from model_compiler import images

    case = Case(recipe)
    wanted = case.inputs.recipe.preprocessing
    step = max(1, len(case.inputs.evaluation) // VALIDATED)
    judged = [(preprocess(images.decode(s.image), wanted), s.label) for s in case.inputs.evaluation[::step]]

    def validate(model: Any, rows: Iterable[Any]) -> tuple[float, list[float]]:
        right = [float(model(tensor)[0].argmax() == label) for tensor, label in rows]
        return float(np.mean(right)), right

    made = nncf.quantize_with_accuracy_control(
        openvino.Core().read_model(model=case.model.content),
        calibration_dataset=nncf.Dataset(case.samples.pictures, case.samples.tensor),
        validation_dataset=nncf.Dataset(judged),
        validation_fn=validate,
        max_drop=MAX_DROP,
        subset_size=len(case.samples.pictures),
    )
    return case.score(_Loaded(openvino.Core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})))


class _Loaded:
    """OpenVINO's own model, to be asked by several threads."""

    def __init__(self, model: Any) -> None:
        self._model, self._own = model, threading.local()

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        return [self._own.request.infer(list(inputs))[self._model.outputs[0]].copy()]


CONTENDERS: Final = {
    "search": compiled,
    "quantize_static MinMax": lambda recipe: static(recipe, "MinMax"),
    "quantize_static Percentile": lambda recipe: static(recipe, "Percentile"),
    "NNCF accuracy-aware": accuracy_aware,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile", description=__doc__)
    parser.add_argument("model", nargs="?", help="a classifier of benchmarks.zoo")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--recipe", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.contender:
        score = CONTENDERS[wanted.contender](wanted.recipe)
        print(json.dumps({"score": score}))
        return
    animal, home = _case(wanted.model)
    runs = []
    for name in CONTENDERS:
        command = [sys.executable, "-m", "benchmarks.compile", "--contender", name]
        runs.append(run(name, [*command, "--recipe", str(zoo.recipe(animal, home, "onnxruntime"))]))
        score = "did not finish" if runs[-1].score is None else f"{runs[-1].score:.4f}"
        print(
            f"{animal.name}: {name:<27} {runs[-1].seconds:>6.0f} s {runs[-1].peak_mib:>7.0f} MiB   {score}", flush=True
        )
    _judge(*runs)


def _judge(search: Run, minmax: Run, percentile: Run, aware: Run) -> None:
    ours = search.score or 0.0
    print_goals(
        [
            Goal("time of the search / NNCF accuracy-aware", search.seconds / aware.seconds, "x", 1 / 3),
            Goal("score of the search - NNCF's", ours - (aware.score or 0.0), "", 0.0, at_most=False),
            Goal("score of the search - quantize_static's", ours - (minmax.score or 0.0), "", 0.0, at_most=False),
            Goal("peak memory of the search / Percentile", search.peak_mib / percentile.peak_mib, "x", 0.1),
        ]
    )


def _case(name: str | None) -> tuple[zoo.Animal, Path]:
    folder = Path(tempfile.gettempdir()) / "edgefleet-zoo"
    for animal in sorted(zoo.ANIMALS, key=lambda each: each.name != "efficientnet-lite0"):
        if name not in {None, animal.name} or not animal.labels or (name is None and animal.name == "digits"):
            continue
        try:
            return animal, zoo.settled(animal, folder)
        except zoo.Missing as lack:
            print(f"{animal.name} is left out: {lack}", file=sys.stderr)
    raise SystemExit("no classifier of the zoo is on this machine")


if __name__ == "__main__":
    main()
