"""Stage 10: the manifest and the payload of one variant, checked as every reader will check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from fleet_protocol import manifest as manifests
from fleet_protocol.manifest import Manifest, Measured, Preprocessing, Provenance, TensorSpec
from model_compiler.errors import UnsupportedModel
from model_compiler.inputs import Inputs
from model_compiler.stages.golden import GoldenSet
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.plan import Build
from model_compiler.targets import target

if TYPE_CHECKING:
    from numpy.typing import NDArray


def tensors(model: FloatModel, golden: GoldenSet) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """The variant's input and outputs: the names of the normalised model, types and shapes as its runtime had them."""
    taken, given = golden.frames[0]
    inputs = _as_seen(model.input, taken[0])
    return inputs, tuple(_as_seen(spec, tensor) for spec, tensor in zip(model.outputs, given, strict=True))


def _as_seen(spec: TensorSpec, tensor: NDArray[Any]) -> TensorSpec:
    return msgspec.structs.replace(spec, dtype=str(tensor.dtype), shape=tensor.shape)


def check_memory(build: Build, resident_bytes: int) -> None:
    """Raise UnsupportedModel where a process that holds the runtime and the model is too large for one of the boards."""
    for board in build.boards:
        if resident_bytes > board.limits.worker_memory_mib << 20:
            raise UnsupportedModel(
                f"{build.variant} takes {resident_bytes >> 20} MiB with its runtime, more than the "
                f"{board.limits.worker_memory_mib} MiB that the board {board.name} allows a worker; "
                "choose a smaller model, or leave this board out"
            )


def manifest_of(
    inputs: Inputs,
    build: Build,
    model: bytes,
    tensors: tuple[TensorSpec, tuple[TensorSpec, ...]],
    wanted: Preprocessing,
    golden: GoldenSet,
    measured: Measured,
    toolchain: Mapping[str, str],
) -> tuple[Manifest, bytes]:
    """The variant's manifest and payload; ``tensors``: input and outputs; ``wanted``: what the device does.
    Raises MalformedManifest or InputTooLarge.
    """
    recipe = inputs.recipe
    runtime = target(build.runtime)
    payload, content = manifests.payload_of([*runtime.parts(model), (manifests.GOLDEN_PART, golden.part)])
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
        preprocessing=wanted,
        postprocessing=inputs.task,
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
