"""The attack table and the tests that prove it name the same rows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.reliability.attack_table import ROWS

_MARK = re.compile(r'pytest\.mark\.attack\("(\w+)"\)')


def marked_rows() -> set[str]:
    tests = Path(__file__).parents[1]
    return {row for path in tests.rglob("test_*.py") for row in _MARK.findall(path.read_text())}


def test_every_row_has_a_test_and_every_mark_a_row() -> None:
    assert marked_rows() == set(ROWS)


def test_the_table_is_whole() -> None:
    assert set(ROWS) == {str(number) for number in range(1, 35)} | {"26b", "26c"}
