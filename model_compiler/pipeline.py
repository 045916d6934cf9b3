"""The whole compilation on one screen: from inputs to variants that passed their gate."""

from __future__ import annotations

from typing import Final

from fleet_protocol.identifiers import digest_of
from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Manifest, Measured
from model_compiler import images, toolchain
from model_compiler.inputs import Inputs
from model_compiler.progress import Report, tracked
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


def compile_inputs(inputs: Inputs, jobs: int, report: Report) -> list[tuple[Manifest, bytes]]:
    """Manifest and payload of every variant, in order of preference.

    Raises MalformedInput on a bad model or image, AccuracyRefused where a variant fails the recipe's gate, other
    ProofErrors where a model does not load, compute or answer decisively. Nothing is written.
    """
    builds = plan(inputs.recipe.variants, inputs.boards)
    model = _normalised(inputs, report)
    ranges = _ranges(model, builds, inputs, jobs, report)
    made = _candidates(model, ranges, builds, report)
    answers = _answers(model, made, inputs, jobs, report)
    chosen = _gated(made, answers, inputs)
    return [
        _variant(inputs, model, *made[name], answers[name], answers[_BASELINE])
        for name in tracked(report, "prove", chosen, len(chosen))
    ]


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


def _candidates(model: FloatModel, ranges: Ranges | None, builds: list[Build], report: Report) -> Made:
    made: Made = {}
    for build in tracked(report, "build", builds, len(builds)):
        for candidate in target(build.runtime).candidates(model, build.precision, ranges):
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


def _gated(made: Made, answers: dict[str, Answers], inputs: Inputs) -> list[str]:
    """The name of the best candidate of every variant; raises AccuracyRefused where one of them is not good enough."""
    labels = [sample.label for sample in inputs.evaluation]
    baseline = answers[_BASELINE]
    trials: dict[str, list[Trial]] = {}
    for name, (build, candidate) in made.items():
        accuracy, agreement = answers[name].accuracy(labels), answers[name].agreement(baseline.top1)
        trials.setdefault(build.variant, []).append(Trial(build.variant, candidate.method, accuracy, agreement))
    chosen = [gate.choose(each) for each in trials.values()]
    gate.check(chosen, baseline.accuracy(labels), inputs.recipe.gate, len(labels))
    return [f"{trial.variant}/{trial.method}" for trial in chosen]


def _variant(
    inputs: Inputs, model: FloatModel, build: Build, candidate: Candidate, answers: Answers, baseline: Answers
) -> tuple[Manifest, bytes]:
    recipe, labels = inputs.recipe, [sample.label for sample in inputs.evaluation]
    frames = golden.make(build, candidate.model, inputs.evaluation, answers, recipe.preprocessing, recipe.golden.frames)
    timing = measure.measure(build.runtime, candidate.model, [tensors[0] for tensors, _ in frames.frames])
    measured = Measured(
        metric=evaluate.METRIC,
        value=round(answers.accuracy(labels), 6),
        baseline=round(baseline.accuracy(labels), 6),
        samples=len(labels),
        latency_p50_ms=timing.p50_ms,
        latency_p95_ms=timing.p95_ms,
        model_bytes=len(candidate.model),
        resident_bytes=timing.resident_bytes,
    )
    versions = {**toolchain.versions(target(build.runtime).PACKAGES), "method": candidate.method}
    return package.manifest_of(inputs, build, candidate.model, (model.input, model.outputs), frames, measured, versions)
