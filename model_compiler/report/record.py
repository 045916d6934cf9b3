"""The record of one compilation: everything that was tried, measured and seen, as one JSON document.

The package holds only what depends on its inputs, so that it is the same bytes everywhere; what depends on the day and the
machine (latencies, memory) is here. Records are found by the digest of their package.
"""

from __future__ import annotations

from typing import Final

import msgspec

from model_compiler.errors import MalformedRecord

SCHEMA: Final = 1
MAX_BYTES: Final = 64 << 20
MAX_FLIPS: Final = 60
MAX_CONFUSIONS: Final = 40


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Immutable; unknown keys are errors, so that an old compiler never shows half of a newer record."""


class Timing(_Table, frozen=True):
    """One thread of one CPU: p50 and p95 of a run (ms), resident memory of a process with nothing else in it (bytes)."""

    p50_ms: float
    p95_ms: float
    resident_bytes: int


class Trial(_Table, frozen=True):
    """One way to make ``variant``. ``accuracy`` and ``agreement`` with fp32 are shares; ``p50_ms`` where it was timed."""

    variant: str
    method: str
    accuracy: float
    agreement: float
    model_bytes: int
    is_chosen: bool
    p50_ms: float | None = None


class Layer(_Table, frozen=True):
    """What leaving one layer of ``variant`` in float changes: ``effect`` in ``unit``, larger is more worth it."""

    variant: str
    name: str
    operator: str
    effect: float
    unit: str
    is_excluded: bool


class Made(_Table, frozen=True):
    """A variant of the package. ``share_second`` is the share of images for which a cascade asked its second model."""

    variant: str
    digest: str
    model_sha256: str
    runtime: str
    precision: str
    method: str
    boards: tuple[str, ...]
    accuracy: float
    model_bytes: int
    timing: Timing
    share_second: float | None = None


class Saying(_Table, frozen=True):
    """What ``name`` answers to an image, in words, and whether that is right."""

    name: str
    said: str
    is_right: bool


class Flip(_Table, frozen=True):
    """An image that a variant reads otherwise than fp32 does. fp32's saying is the first; ``thumbnail`` a JPEG in base64."""

    image: str
    truth: str
    sayings: tuple[Saying, ...]
    thumbnail: str


class Change(_Table, frozen=True):
    """How ``variant`` differs from fp32: images that only fp32 reads rightly, that only it does, that both read wrongly."""

    variant: str
    broken: int
    mended: int
    otherwise: int


class Confusion(_Table, frozen=True):
    """On ``images`` images of class ``label``, fp32 answers ``baseline`` where ``variant`` answers ``answer``."""

    variant: str
    label: str
    baseline: str
    answer: str
    images: int


class Agreement(_Table, frozen=True):
    """``shares[i][j]``: on how many of the images ``names[i]`` and ``names[j]`` answer alike (0..1)."""

    names: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]


class Origin(_Table, frozen=True):
    """What the package was made from, with and on: digests, versions of packages, the CPU."""

    source_sha256: str
    calibration_sha256: str
    evaluation_sha256: str
    settings_sha256: str
    toolchain_sha256: str
    toolchain: dict[str, str]
    machine: str
    calibration_images: int


class Record(_Table, frozen=True):
    """One compilation. ``package_sha256`` names the package that it tells about; ``flips_seen`` counts also those not kept."""

    schema: int
    package_sha256: str
    model: str
    version: str
    labels: tuple[str, ...]
    metric: str
    baseline: float
    samples: int
    max_drop: float
    variants: tuple[Made, ...]
    trials: tuple[Trial, ...]
    layers: tuple[Layer, ...]
    flips: tuple[Flip, ...]
    flips_seen: int
    changes: tuple[Change, ...]
    confusions: tuple[Confusion, ...]
    agreement: Agreement
    origin: Origin
    notes: tuple[str, ...] = ()
    layer_noise: dict[str, dict[str, float]] = {}
    """Signal over noise (dB) that has gathered at each layer of a quantized graph, by variant."""

    def variant(self, name: str) -> Made | None:
        """The variant called ``name``, None where there is none."""
        return next((each for each in self.variants if each.variant == name), None)


def encode(record: Record) -> bytes:
    """JSON, sorted keys, for programs and for the page."""
    return msgspec.json.encode(record, order="sorted")


def decode(content: bytes) -> Record:
    """The record in ``content``; raises MalformedRecord."""
    if len(content) > MAX_BYTES:
        raise MalformedRecord(f"a record has at most {MAX_BYTES} bytes, this one has more")
    try:
        record = msgspec.json.decode(content, type=Record, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRecord(f"this is no record of a compilation ({error}); compile the model again") from error
    if record.schema != SCHEMA:
        raise MalformedRecord(f"expected a record of schema {SCHEMA}, got {record.schema}; compile the model again")
    return record
