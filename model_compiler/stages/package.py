"""Stage 10: the manifest and the payload of one variant, checked as every reader will check them."""

from __future__ import annotations

from collections.abc import Mapping

from fleet_protocol import manifest as manifests
from fleet_protocol.manifest import Manifest, Measured, Provenance, TensorSpec
from fleet_protocol.tasks import Classification
from model_compiler.inputs import Inputs
from model_compiler.stages.golden import GoldenSet
from model_compiler.stages.plan import Build


def manifest_of(
    inputs: Inputs,
    build: Build,
    model: bytes,
    tensors: tuple[TensorSpec, tuple[TensorSpec, ...]],
    golden: GoldenSet,
    measured: Measured,
    toolchain: Mapping[str, str],
) -> tuple[Manifest, bytes]:
    """The variant's manifest and payload; ``tensors``: input and outputs. Raises MalformedManifest or InputTooLarge."""
    recipe = inputs.recipe
    payload, content = manifests.payload_of([(manifests.MODEL_PART, model), (manifests.GOLDEN_PART, golden.part)])
    manifest = Manifest(
        schema=manifests.SCHEMA,
        model=recipe.model,
        version=recipe.version,
        variant=build.variant,
        slot=recipe.slot,
        counter=recipe.counter,
        boards=tuple(board.name for board in build.boards),
        runtime=build.requirement,
        payload=payload,
        inputs=(tensors[0],),
        outputs=tensors[1],
        preprocessing=recipe.preprocessing,
        postprocessing=Classification(labels=inputs.classes, activation=recipe.postprocessing.activation),
        golden=golden.golden,
        measured=measured,
        provenance=Provenance(
            source_sha256=inputs.source.digest,
            calibration_sha256=inputs.calibration_digest,
            evaluation_sha256=inputs.evaluation_digest,
            toolchain=dict(toolchain),
        ),
    )
    return manifests.parse(manifest.encode()), content
