"""The table of mutants still fits the code (running them is ``make test-reliability``)."""

from __future__ import annotations

from pathlib import Path

from tests.reliability.mutants import MUTANTS
from tests.reliability.mutation import stale

_ROOT = Path(__file__).parents[2]


def test_every_mutant_changes_a_text_that_stands_exactly_once() -> None:
    assert stale(_ROOT) == []


def test_every_killing_test_exists() -> None:
    assert [arg for each in MUTANTS for arg in each.tests if arg.endswith(".py") and not (_ROOT / arg).is_file()] == []
