"""The whole compilation on one screen: from inputs to variants that passed their gate."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fleet_protocol import package as packages
from fleet_protocol.identifiers import digest_of
from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Manifest, Measured
from fleet_protocol.tasks import Classification
from model_compiler import images, toolchain
from model_compiler.inputs import Inputs
from model_compiler.progress import Report, tracked
from model_compiler.range_store import RangeStore
from model_compiler.report import assemble
from model_compiler.report.record import Record, Timing
from model_compiler.stages import (
    bake,
    calibrate,
    compete,
    ensemble,
    golden,
    load,
    measure,
    normalise,
    package,
    parity,
    quantize,
)
from model_compiler.stages.calibrate import Ranges
from model_compiler.stages.compete import Outcome
from model_compiler.stages.load import Source
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.plan import Build, plan
from model_compiler.targets import target


@dataclass(frozen=True, slots=True)
class Compiled:
    """The package file, the same for the same inputs, and the record of how it came about, which is not.

    ``is_complete``: the search went to its end; otherwise this is the best that it had found when it was interrupted.
    """

    package: bytes
    record: Record
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Proved:
    """One variant as it is packaged, with what it took on this machine."""

    manifest: Manifest
    payload: bytes
    timing: Timing
    share_second: float | None


def compile_inputs(
    inputs: Inputs, jobs: int, report: Report, journal: Path | None = None, kept: Path | None = None
) -> Compiled:
    """The package with every variant, in order of preference, and its record.

    Raises MalformedInput on a bad model or image, AccuracyRefused where a variant fails the recipe's gate, other
    ProofErrors where a model does not load, compute or answer decisively. Nothing is written but the ``journal`` of a search,
    which an interrupted compilation leaves and the next one goes on from, and the ranges ``kept`` for later compilations.
    """
    builds = plan(inputs.recipe.variants, inputs.boards)
    model = _normalised(inputs, report)
    ranges = _ranges(model, builds, inputs, jobs, report, RangeStore(kept, toolchain.fingerprint()))
    found = compete.compete(model, ranges, builds, inputs, jobs, report, journal)
    proved = [
        _variant(inputs, model, name, found) for name in tracked(report, "prove", found.chosen, len(found.chosen))
    ]
    content = _packed(proved)
    finished = {each.manifest.variant: found.answers[name] for name, each in zip(found.chosen, proved, strict=True)}
    made = [assemble.made(each.manifest, each.timing, each.share_second) for each in proved]
    tried = [
        assemble.tried(trial, len(found.made[name][1].model), is_chosen=name in found.chosen)
        for name, trial in found.trials.items()
    ]
    record = assemble.record(inputs, digest_of(content), made, tried, found, finished)
    return Compiled(content, record, found.is_complete)


def _normalised(inputs: Inputs, report: Report) -> FloatModel:
    """A model in the common form that computes what the source computes."""
    sources = inputs.members or (inputs.source,)
    models = [_one(inputs, source) for source in tracked(report, "normalise", sources, len(sources))]
    if inputs.recipe.ensemble is None:
        return models[0]
    rule = inputs.recipe.combination
    return ensemble.joined(models, rule, inputs.recipe.preprocessing, inputs.task, inputs.calibration)


def _one(inputs: Inputs, source: Source) -> FloatModel:
    wanted = inputs.recipe.preprocessing
    loaded = load.load(source)
    original = parity.runnable(loaded)
    model = normalise.normalise(loaded, wanted, inputs.task, source.path)
    pictures = images.sample(inputs.calibration, parity.IMAGES)
    parity.check_parity(original, model.content, (preprocess(images.decode(each), wanted) for each in pictures))
    return model


def _ranges(
    model: FloatModel, builds: list[Build], inputs: Inputs, jobs: int, report: Report, store: RangeStore
) -> Ranges | None:
    if not any(build.precision in target(build.runtime).CALIBRATED for build in builds):
        return None
    names, wanted = quantize.activations(model), inputs.recipe.preprocessing
    identity = model.content, msgspec.json.encode(wanted), inputs.calibration_digest.encode()
    known = store.ranges(*identity)
    if known is not None and known.names == names:
        return known
    ranges = calibrate.calibrate(model, names, inputs.calibration, wanted, jobs, report)
    store.keep(ranges, *identity)
    return ranges


def _variant(inputs: Inputs, model: FloatModel, name: str, found: Outcome) -> Proved:
    (build, candidate), recipe = found.made[name], inputs.recipe
    evaluated = [sample.image for sample in inputs.evaluation]
    candidate, wanted = bake.baked(build, candidate, recipe.preprocessing, recipe.baked, inputs.task, evaluated)
    frames = golden.make(
        build, candidate.model, inputs.evaluation, found.answers[name], wanted, recipe.golden.frames,
        is_choice=isinstance(inputs.task, Classification),
    )  # fmt: skip
    is_lazy = bool(inputs.members) and build.runtime == "onnxruntime"  # elsewhere both models are always computed
    share = ensemble.share_asked(candidate.model, evaluated, wanted) if is_lazy else None
    # Golden frames are chosen to be hard: a cascade is timed on pictures as they come.
    typical = [preprocess(images.decode(each), wanted) for each in images.sample(evaluated, 32)] if share else []
    timing = measure.measure(build.runtime, candidate.model, typical or [tensors[0] for tensors, _ in frames.frames])
    package.check_memory(build, timing.resident_bytes)
    measured = Measured(
        metric=found.metric,
        value=round(found.trials[name].accuracy, 6),
        baseline=round(found.baseline_score, 6),
        samples=len(inputs.evaluation),
        model_bytes=len(candidate.model),
    )
    versions = {**toolchain.versions(target(build.runtime).PACKAGES), "method": candidate.method}
    manifest, payload = package.manifest_of(
        inputs, build, candidate.model, package.tensors(model, frames), wanted, frames, measured, versions
    )
    taken = Timing(p50_ms=timing.p50_ms, p95_ms=timing.p95_ms, resident_bytes=timing.resident_bytes)
    return Proved(manifest, payload, taken, share)


def _packed(proved: list[Proved]) -> bytes:
    stream = io.BytesIO()
    packages.write(stream, [(each.manifest, each.payload) for each in proved])
    return stream.getvalue()
