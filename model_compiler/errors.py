"""What only the compiler refuses. Each error extends the contract's tree with a code of its own.

MalformedInput ─┬─ MalformedRecipe      the recipe cannot be read as one
                ├─ MalformedModel       the file is no intact ONNX model
                ├─ UnsupportedModel     an intact model that this compiler cannot take as it is
                ├─ MalformedDataset     images or labels that cannot be used
                └─ MalformedRecord      the record of a compilation cannot be read as one
NotFound ──────── UnknownBoard          a board that firmware_configs/ does not know
NoMatchingVariant ─ UnwantedVariant     a variant that no board of the recipe would run
ProofError ────┬─ ParityBroken          the normalised model does not compute what the source computes
               └─ IndecisiveModel       no golden frame could tell a good runtime from a bad one
FleetError ────┬─ CannotWrite           the package cannot be put where it was asked for
               ├─ MissingExtra          something optional is wanted that is not installed
               └─ FarmUnreachable       no scheduler of compile workers answers
"""

from __future__ import annotations

from fleet_protocol.errors import (
    FleetError,
    MalformedConfig,
    MalformedInput,
    NoMatchingVariant,
    NotFound,
    ProofError,
)


class MalformedRecipe(MalformedConfig):
    code = "malformed-recipe"


class MalformedModel(MalformedInput):
    code = "malformed-model"


class UnsupportedModel(MalformedInput):
    code = "unsupported-model"


class MalformedDataset(MalformedInput):
    code = "malformed-dataset"


class MalformedRecord(MalformedInput):
    code = "malformed-record"


class UnknownBoard(NotFound):
    code = "unknown-board"


class UnwantedVariant(NoMatchingVariant):
    code = "unwanted-variant"


class ParityBroken(ProofError):
    code = "parity-broken"


class IndecisiveModel(ProofError):
    code = "indecisive-model"


class CannotWrite(FleetError):
    code = "cannot-write"


class MissingExtra(FleetError):
    code = "missing-extra"


class FarmUnreachable(FleetError):
    code = "farm-unreachable"
