"""The manifest: all that is promised about one variant of a model, signed before the payload exists anywhere else (SPEC 3).

The payload is the plain concatenation of the parts that the manifest lists: no container format, so nothing to parse.
Part ``model`` is the runtime's file, part ``weights`` its second file where it has two, part ``golden`` the golden frames
as raw little-endian tensors (SPEC 3.4).
"""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

from fleet_protocol import strict_json, tasks
from fleet_protocol.board import RuntimeName
from fleet_protocol.errors import MalformedIdentifier, MalformedManifest
from fleet_protocol.identifiers import (
    Digest,
    ModelName,
    ModelVersion,
    SlotName,
    VariantName,
    board_name,
    digest,
    digest_of,
    model_name,
    model_version,
    slot_name,
    variant_name,
)
from fleet_protocol.tasks import Postprocessing

SCHEMA: Final = 1
MAX_BYTES: Final = strict_json.MAX_BYTES
MAX_PAYLOAD_BYTES: Final = 2 * 1024**3
MODEL_PART: Final = "model"
WEIGHTS_PART: Final = "weights"
GOLDEN_PART: Final = "golden"

Precision = Literal["fp32", "fp16", "int8"]
DType = Literal["float32", "float16", "uint8", "int8", "int32", "int64"]
ITEM_BYTES: Final[dict[str, int]] = {"float32": 4, "float16": 2, "uint8": 1, "int8": 1, "int32": 4, "int64": 8}


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every part of the manifest is immutable and refuses what it does not know."""


class Part(_Struct, frozen=True):
    """A byte range of the payload. ``offset`` and ``length`` in bytes."""

    name: str
    offset: int
    length: int
    sha256: str


class Payload(_Struct, frozen=True):
    """The plaintext payload: ``length`` in bytes, SHA-256 over all of it, and its parts in order without gaps."""

    length: int
    sha256: str
    parts: tuple[Part, ...]


class TensorSpec(_Struct, frozen=True):
    """One input or output of the model, with a static shape (SPEC 3.3)."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of one tensor in bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class RuntimeRequirement(_Struct, frozen=True):
    """The runtime fingerprint that a device must have (SPEC 3.5). Versions compare as tuples of integers."""

    name: RuntimeName
    min_version: str
    architectures: tuple[str, ...]
    precision: Precision


class Baked(_Struct, frozen=True):
    """The steps of :class:`Preprocessing` are inside the model: it takes the 8-bit BGR frame itself (SPEC 3.9).

    ``width``, ``height``: the frame that it takes, in pixels; a frame of another size is stretched to it first.
    """

    width: int
    height: int


class Preprocessing(_Struct, frozen=True, omit_defaults=True):
    """From an 8-bit BGR frame (H, W, 3) to the model's input: resize, reorder, ``(x * scale - mean) / std``, lay out.

    ``mean`` and ``std`` are per channel in the order of ``color``; SPEC 3.6 fixes the order of the steps. Where ``baked``
    is given the device takes none of them.
    """

    width: int
    height: int
    color: Literal["rgb", "bgr", "gray"]
    layout: Literal["nchw", "nhwc"]
    resize: Literal["stretch", "letterbox"]
    interpolation: Literal["bilinear", "area", "nearest"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    baked: Baked | None = None

    @property
    def channels(self) -> int:
        """Channels of the picture that the model looks at."""
        return 1 if self.color == "gray" else 3

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the tensor that a device gives to the model."""
        if self.baked:
            return 1, self.baked.height, self.baked.width, 3
        planar, interleaved = (self.channels, self.height, self.width), (self.height, self.width, self.channels)
        return (1, *planar) if self.layout == "nchw" else (1, *interleaved)

    @property
    def input_dtype(self) -> DType:
        """Type of its elements."""
        return "uint8" if self.baked else "float32"


class Golden(_Struct, frozen=True):
    """Frames that the device replays before it switches (SPEC 8.2).

    The part ``golden`` holds ``frames`` records of every input then every output tensor, raw, little-endian, C order.
    An element agrees when ``abs(got - expected) <= atol + rtol * abs(expected)``; ``max_outliers`` is the share of
    elements (0..1) that may not; every frame's top-1 must agree where ``decisive`` says so for that frame.
    ``latency_budget_ms`` is the p95 that each board may not exceed.
    """

    frames: int
    atol: float
    rtol: float
    max_outliers: float
    decisive: tuple[bool, ...]
    latency_budget_ms: dict[str, float]


class Measured(_Struct, frozen=True):
    """What the compiler measured on the true runtime of its own machine (SPEC 3.7).

    Timings and memory differ from run to run; a compiler that makes the same bytes every time leaves them out.
    """

    metric: str
    value: float
    baseline: float
    samples: int
    model_bytes: int
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    resident_bytes: int | None = None


class Provenance(_Struct, frozen=True):
    """What the variant was made from and with: digests of the source and of the calibration and evaluation sets."""

    source_sha256: str
    calibration_sha256: str
    evaluation_sha256: str
    toolchain: dict[str, str]


class Manifest(_Struct, frozen=True):
    """One variant of one version of a model. Made by the compiler, parsed by :func:`parse`, never edited."""

    schema: int
    model: str
    version: str
    variant: str
    slot: str
    counter: int
    boards: tuple[str, ...]
    runtime: RuntimeRequirement
    payload: Payload
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    golden: Golden
    measured: Measured
    provenance: Provenance

    @property
    def target_path(self) -> str:
        """Path of this manifest as a TUF target (SPEC 4.2)."""
        return target_path(ModelName(self.model), ModelVersion(self.version), VariantName(self.variant))

    def part(self, name: str) -> Part:
        """The part called ``name``; :func:`parse` made sure that ``model`` and ``golden`` exist."""
        return next(part for part in self.payload.parts if part.name == name)

    def encode(self) -> bytes:
        """Canonical bytes: the ones that are hashed and signed (SPEC 1.4)."""
        return strict_json.dumps(msgspec.to_builtins(self))


def target_path(model: ModelName, version: ModelVersion, variant: VariantName) -> str:
    """``models/<model>/<version>-<variant>.json`` (SPEC 4.2)."""
    return f"models/{model}/{version}-{variant}.json"


def parse(content: bytes) -> Manifest:
    """Parse and check a manifest; raises MalformedManifest, MalformedJson or InputTooLarge. Trust is not decided here."""
    raw = strict_json.loads(content, max_bytes=MAX_BYTES)
    try:
        manifest = msgspec.convert(raw, Manifest, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedManifest(f"manifest does not match SPEC 3: {error}") from error
    _check_names(manifest)
    _check_payload(manifest.payload)
    _check_tensors(manifest)
    _check_golden(manifest)
    return manifest


def payload_of(parts: list[tuple[str, bytes]]) -> tuple[Payload, bytes]:
    """Lay ``parts`` end to end: the payload's description and its bytes."""
    described, offset = [], 0
    for name, content in parts:
        described.append(Part(name=name, offset=offset, length=len(content), sha256=digest_of(content)))
        offset += len(content)
    payload = b"".join(content for _, content in parts)
    return Payload(length=offset, sha256=digest_of(payload), parts=tuple(described)), payload


def _check_names(manifest: Manifest) -> None:
    if manifest.schema != SCHEMA:
        raise MalformedManifest(f"expected manifest schema {SCHEMA}, got {manifest.schema}")
    try:
        model_name(manifest.model)
        model_version(manifest.version)
        variant_name(manifest.variant)
        slot_name(manifest.slot)
        for board in manifest.boards:
            board_name(board)
    except MalformedIdentifier as error:
        raise MalformedManifest(str(error)) from error
    if not manifest.boards:
        raise MalformedManifest("a manifest names at least one board")
    if not 0 < manifest.counter < 2**53:
        raise MalformedManifest(f"a release counter is 1 to 2^53-1, got {manifest.counter}")


def _check_payload(payload: Payload) -> None:
    if not 0 < payload.length <= MAX_PAYLOAD_BYTES:
        raise MalformedManifest(f"a payload has 1 to {MAX_PAYLOAD_BYTES} bytes, got {payload.length}")
    end = 0
    for part in payload.parts:
        if part.offset != end or part.length <= 0:
            raise MalformedManifest(f"part {part.name!r} should start at byte {end} and not be empty")
        end += part.length
    if end != payload.length:
        raise MalformedManifest(f"parts end at byte {end}, the payload at {payload.length}")
    names = [part.name for part in payload.parts]
    if names not in ([MODEL_PART, GOLDEN_PART], [MODEL_PART, WEIGHTS_PART, GOLDEN_PART]):
        raise MalformedManifest(f"a payload has the parts model, perhaps weights, and golden, got {names}")
    try:
        for text in (payload.sha256, *(part.sha256 for part in payload.parts)):
            digest(text)
    except MalformedIdentifier as error:
        raise MalformedManifest(str(error)) from error


def _check_tensors(manifest: Manifest) -> None:
    for tensor in (*manifest.inputs, *manifest.outputs):
        if not tensor.shape or any(not 0 < side <= 65_536 for side in tensor.shape):
            raise MalformedManifest(f"tensor {tensor.name!r} needs a static shape, got {list(tensor.shape)}")
        if tensor.nbytes > 256 * 1024**2:
            raise MalformedManifest(f"tensor {tensor.name!r} has more than 256 MiB")
    if len(manifest.inputs) != 1 or not manifest.outputs:
        raise MalformedManifest("a manifest has exactly one input and at least one output")
    pre, taken = manifest.preprocessing, manifest.inputs[0]
    if (taken.shape, taken.dtype) != (pre.input_shape, pre.input_dtype):
        raise MalformedManifest(
            f"pre-processing makes {pre.input_dtype} {pre.input_shape}, the model takes {taken.dtype} {taken.shape}"
        )
    if len(pre.mean) != pre.channels or len(pre.std) != pre.channels or any(std == 0 for std in pre.std):
        raise MalformedManifest(f"mean and std have {pre.channels} values each and no std is zero")
    if objection := tasks.objection(manifest.postprocessing, tuple(each.shape for each in manifest.outputs)):
        raise MalformedManifest(f"postprocessing: {objection}")


def _check_golden(manifest: Manifest) -> None:
    golden = manifest.golden
    record = sum(tensor.nbytes for tensor in (*manifest.inputs, *manifest.outputs))
    if golden.frames <= 0 or golden.frames * record != manifest.part(GOLDEN_PART).length:
        raise MalformedManifest(f"{golden.frames} golden frames of {record} bytes do not fill the golden part")
    if len(golden.decisive) != golden.frames:
        raise MalformedManifest("golden.decisive has one entry per frame")
    if not (golden.atol >= 0 and golden.rtol >= 0 and 0 <= golden.max_outliers < 1):
        raise MalformedManifest("golden tolerances are not negative and max_outliers is below 1")
    if set(golden.latency_budget_ms) != set(manifest.boards):
        raise MalformedManifest("golden.latency_budget_ms names exactly the manifest's boards")


def digest_of_manifest(manifest: Manifest) -> Digest:
    """SHA-256 of the canonical bytes; the release's identity everywhere: targets, blobs, reports, dashboards (SPEC 1.5)."""
    return digest_of(manifest.encode())


def slot_of(manifest: Manifest) -> SlotName:
    """The slot that the manifest was checked for."""
    return SlotName(manifest.slot)
