"""The whole compilation on one screen: from inputs to variants that passed their gate."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

from fleet_protocol import package as packages
from fleet_protocol.identifiers import digest_of
from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Manifest, Measured
from model_compiler import images, toolchain
from model_compiler.inputs import Inputs
from model_compiler.progress import Report, tracked
from model_compiler.report import assemble
from model_compiler.report.record import Record, Timing
from model_compiler.samples import CalibrationSet
from model_compiler.stages import calibrate, evaluate, gate, golden, load, measure, normalise, package, parity, quantize
from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.evaluate import Answers
from model_compiler.stages.gate import Trial
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.plan import Build, plan
from model_compiler.stages.quantize import Candidate
from model_compiler.targets import target

_BASELINE: Final = "onnxruntime/fp32"

Made = dict[str, tuple[Build, Candidate]]
"""Every candidate that competes, by a name of its own."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The package file, the same for the same inputs, and the record of how it came about, which is not."""

    package: bytes
    record: Record


@dataclass(frozen=True, slots=True)
class Proved:
    """One variant as it is packaged, with what it took on this machine."""

    manifest: Manifest
    payload: bytes
    timing: Timing


def compile_inputs(inputs: Inputs, jobs: int, report: Report) -> Compiled:
    """The package with every variant, in order of preference, and its record.

    Raises MalformedInput on a bad model or image, AccuracyRefused where a variant fails the recipe's gate, other
    ProofErrors where a model does not load, compute or answer decisively. Nothing is written.
    """
    builds = plan(inputs.recipe.variants, inputs.boards)
    model = _normalised(inputs, report)
    ranges = _ranges(model, builds, inputs, jobs, report)
    made = _candidates(model, ranges, builds, inputs, report)
    answers = _answers(model, made, inputs, jobs, report)
    trials, chosen = _gated(made, answers, inputs)
    proved = [
        _variant(inputs, model, *made[name], answers[name], answers[_BASELINE])
        for name in tracked(report, "prove", chosen, len(chosen))
    ]
    content = _packed(proved)
    finished = {each.manifest.variant: answers[name] for name, each in zip(chosen, proved, strict=True)}
    made_variants = [assemble.made(each.manifest, each.timing) for each in proved]
    tried = [
        assemble.tried(trial, len(made[name][1].model), is_chosen=name in chosen) for name, trial in trials.items()
    ]
    record = assemble.record(inputs, digest_of(content), made_variants, tried, answers[_BASELINE], finished)
    return Compiled(content, record)


def _normalised(inputs: Inputs, report: Report) -> FloatModel:
    """A model in the common form that computes what the source computes."""
    wanted, path = inputs.recipe.preprocessing, inputs.source.path
    for _ in tracked(report, "normalise", [path], 1):
        source = load.load(inputs.source)
        original = parity.runnable(source)
        model = normalise.normalise(source, wanted, len(inputs.classes), path)
        pictures = images.sample(inputs.calibration, parity.IMAGES)
        parity.check_parity(original, model.content, (preprocess(images.decode(each), wanted) for each in pictures))
    return model


def _ranges(model: FloatModel, builds: list[Build], inputs: Inputs, jobs: int, report: Report) -> Ranges | None:
    if not any(build.precision in target(build.runtime).CALIBRATED for build in builds):
        return None
    names = quantize.activations(model)
    return calibrate.calibrate(model, names, inputs.calibration, inputs.recipe.preprocessing, jobs, report)


def _candidates(model: FloatModel, ranges: Ranges | None, builds: list[Build], inputs: Inputs, report: Report) -> Made:
    made: Made = {}
    samples = CalibrationSet(inputs.calibration, inputs.recipe.preprocessing)
    for build in tracked(report, "build", builds, len(builds)):
        for candidate in target(build.runtime).candidates(model, build.precision, ranges, samples):
            made[f"{build.variant}/{candidate.method}"] = build, candidate
    return made


def _answers(model: FloatModel, made: Made, inputs: Inputs, jobs: int, report: Report) -> dict[str, Answers]:
    """What every candidate and the fp32 baseline answer; all in one pass, so each image is decoded once."""
    contenders = {name: (build.runtime, candidate.model) for name, (build, candidate) in made.items()}
    contenders[_BASELINE] = "onnxruntime", model.content
    # The fp32 variant is the baseline's own file: equal files on one runtime are run once.
    same = {name: f"{runtime}/{digest_of(content)}" for name, (runtime, content) in contenders.items()}
    sessions = {
        same[name]: target(runtime).open_session(content, threads=1, optimised=True)
        for name, (runtime, content) in contenders.items()
    }
    found = evaluate.evaluate(sessions, inputs.evaluation, inputs.recipe.preprocessing, jobs, report)
    return {name: found[same[name]] for name in contenders}


def _gated(made: Made, answers: dict[str, Answers], inputs: Inputs) -> tuple[dict[str, Trial], list[str]]:
    """How every candidate did, and the name of the best of each variant; raises AccuracyRefused where one is not good
    enough.
    """
    labels = [sample.label for sample in inputs.evaluation]
    baseline = answers[_BASELINE]
    trials: dict[str, Trial] = {}
    for name, (build, candidate) in made.items():
        accuracy, agreement = answers[name].accuracy(labels), answers[name].agreement(baseline.top1)
        trials[name] = Trial(build.variant, candidate.method, accuracy, agreement)
    variants = dict.fromkeys(trial.variant for trial in trials.values())
    chosen = [gate.choose([trial for trial in trials.values() if trial.variant == each]) for each in variants]
    gate.check(chosen, baseline.accuracy(labels), inputs.recipe.gate, len(labels))
    return trials, [f"{trial.variant}/{trial.method}" for trial in chosen]


def _variant(
    inputs: Inputs, model: FloatModel, build: Build, candidate: Candidate, answers: Answers, baseline: Answers
) -> Proved:
    recipe, labels = inputs.recipe, [sample.label for sample in inputs.evaluation]
    wanted = target(build.runtime).preprocessing(recipe.preprocessing)
    frames = golden.make(build, candidate.model, inputs.evaluation, answers, wanted, recipe.golden.frames)
    timing = measure.measure(build.runtime, candidate.model, [tensors[0] for tensors, _ in frames.frames])
    measured = Measured(
        metric=evaluate.METRIC,
        value=round(answers.accuracy(labels), 6),
        baseline=round(baseline.accuracy(labels), 6),
        samples=len(labels),
        model_bytes=len(candidate.model),
    )
    versions = {**toolchain.versions(target(build.runtime).PACKAGES), "method": candidate.method}
    manifest, payload = package.manifest_of(
        inputs, build, candidate.model, package.tensors(model, frames), frames, measured, versions
    )
    return Proved(
        manifest, payload, Timing(p50_ms=timing.p50_ms, p95_ms=timing.p95_ms, resident_bytes=timing.resident_bytes)
    )


def _packed(proved: list[Proved]) -> bytes:
    stream = io.BytesIO()
    packages.write(stream, [(each.manifest, each.payload) for each in proved])
    return stream.getvalue()
