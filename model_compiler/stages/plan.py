"""Stage 0: which variants to make, for which boards. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet_protocol.board import Board, RuntimeName
from fleet_protocol.fingerprint import version_key
from fleet_protocol.identifiers import VariantName, variant_name
from fleet_protocol.manifest import Precision, RuntimeRequirement
from model_compiler.errors import UnwantedVariant
from model_compiler.targets import target


@dataclass(frozen=True, slots=True)
class Build:
    """One variant to make: a runtime, a precision, the boards that run it."""

    runtime: RuntimeName
    precision: Precision
    boards: tuple[Board, ...]

    @property
    def variant(self) -> VariantName:
        """``ort-int8`` and the like."""
        return variant_name(f"{target(self.runtime).PREFIX}-{self.precision}")

    @property
    def requirement(self) -> RuntimeRequirement:
        """What a device must have: the newest of the boards' minimum versions, one of their architectures (SPEC 3.5)."""
        return RuntimeRequirement(
            name=self.runtime,
            min_version=max((board.runtime.min_version for board in self.boards), key=version_key),
            architectures=tuple(sorted({board.hardware.architecture for board in self.boards})),
            precision=self.precision,
        )


def plan(precisions: Sequence[Precision], boards: Sequence[Board]) -> list[Build]:
    """The builds in the order of preference of the boards; raises UnwantedVariant where a precision has no board.

    A device takes the first variant of the package that fits it, so the boards' own order decides, the first board's most.
    """
    builds = [build for precision in precisions for build in _builds(precision, boards)]
    return sorted(builds, key=lambda build: [_rank(board, build.precision) for board in boards])


def _builds(precision: Precision, boards: Sequence[Board]) -> list[Build]:
    wanting = [board for board in boards if precision in board.runtime.precisions]
    runtimes = dict.fromkeys(board.runtime.name for board in wanting)
    if not wanting:
        names = ", ".join(board.name for board in boards)
        raise UnwantedVariant(f"no board of the recipe runs {precision} ({names}); leave it out of variants")
    for runtime in runtimes:
        if precision not in target(runtime).PRECISIONS:
            raise UnwantedVariant(f"this compiler makes no {precision} variant for {runtime}; leave it out of variants")
    return [
        Build(runtime, precision, tuple(board for board in wanting if board.runtime.name == runtime))
        for runtime in runtimes
    ]


def _rank(board: Board, precision: Precision) -> int:
    liked = board.runtime.precisions
    return liked.index(precision) if precision in liked else len(liked)
