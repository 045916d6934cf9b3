"""From the values of a compilation to its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet_protocol.identifiers import Digest
from fleet_protocol.manifest import MODEL_PART, Manifest, digest_of_manifest
from model_compiler import toolchain
from model_compiler.inputs import Inputs
from model_compiler.metrics.noise import decibel
from model_compiler.report import findings
from model_compiler.report.record import SCHEMA, Layer, Made, Origin, Record, Timing, Trial
from model_compiler.stages import gate
from model_compiler.stages.compete import Outcome
from model_compiler.stages.evaluate import Answers
from model_compiler.targets import target


def record(
    inputs: Inputs,
    package: Digest,
    variants: Sequence[Made],
    trials: Sequence[Trial],
    found: Outcome,
    answers: Mapping[str, Answers],
) -> Record:
    """The record of the compilation that made ``package``; ``answers``: those of the packaged variants, by name."""
    panel = findings.panel(inputs, found.baseline, answers)
    flips, seen = findings.flips(panel)
    return Record(
        schema=SCHEMA,
        package_sha256=package,
        model=inputs.recipe.model,
        version=inputs.recipe.version,
        labels=inputs.classes,
        metric=found.metric,
        baseline=round(found.baseline_score, 6),
        samples=len(inputs.evaluation),
        max_drop=inputs.recipe.gate.max_drop,
        variants=tuple(variants),
        trials=tuple(trials),
        layers=tuple(_layers(found)),
        flips=flips,
        flips_seen=seen,
        changes=findings.changes(panel),
        confusions=findings.confusions(panel),
        agreement=findings.agreement(panel),
        origin=_origin(inputs),
        notes=inputs.notes,
        layer_noise=found.layer_noise,
    )


def made(manifest: Manifest, timing: Timing, share_second: float | None = None) -> Made:
    """What the record says of a packaged variant; ``share_second``: how often a cascade asked its second model."""
    return Made(
        variant=manifest.variant,
        digest=digest_of_manifest(manifest),
        model_sha256=manifest.part(MODEL_PART).sha256,
        runtime=manifest.runtime.name,
        precision=manifest.runtime.precision,
        method=manifest.provenance.toolchain.get("method", ""),
        boards=manifest.boards,
        accuracy=manifest.measured.value,
        model_bytes=manifest.measured.model_bytes,
        timing=timing,
        share_second=share_second,
    )


def tried(trial: gate.Trial, model_bytes: int, *, is_chosen: bool) -> Trial:
    """What the record says of a candidate."""
    return Trial(
        variant=trial.variant,
        method=trial.method,
        accuracy=round(trial.accuracy, 6),
        agreement=round(trial.agreement, 6),
        model_bytes=model_bytes,
        is_chosen=is_chosen,
    )


def _layers(found: Outcome) -> list[Layer]:
    """What the search learned about single layers: by how many dB the noise falls where one stays in float."""
    return [
        Layer(
            variant=variant,
            name=effect.layer,
            operator=effect.layer.rpartition("_")[0],
            effect=round(decibel(effect.factor), 3),
            unit="dB",
            is_excluded=effect.layer in found.excluded.get(variant, ()),
        )
        for variant, effects in found.effects.items()
        for effect in effects
    ]


def _origin(inputs: Inputs) -> Origin:
    return Origin(
        source_sha256=inputs.source.digest,
        calibration_sha256=inputs.calibration_digest,
        evaluation_sha256=inputs.evaluation_digest,
        settings_sha256=inputs.settings_digest,
        toolchain_sha256=toolchain.fingerprint(),
        toolchain=toolchain.versions({each for board in inputs.boards for each in target(board.runtime.name).PACKAGES}),
        machine=toolchain.machine(),
        calibration_images=len(inputs.calibration),
    )
