"""SPEC.md tells the truth: its tables are the code's, and every clause that code cites exists."""

import re
from pathlib import Path

from fleet_protocol.spec_tables import render

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "fleet_protocol" / "SPEC.md"
PACKAGES = ("fleet_protocol", "model_compiler", "fleet_server", "edge_agent")


def test_the_tables_are_made_from_the_code() -> None:
    """Mend with ``make docs``."""
    assert render(SPEC.read_text()) == SPEC.read_text()


def test_every_cited_clause_exists() -> None:
    clauses = set(re.findall(r"(?:^|\s)(\d+(?:\.\d+)+)\s", SPEC.read_text())) | {str(number) for number in range(1, 12)}
    cited = {
        (clause, path.name)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for clause in re.findall(r"SPEC (\d+(?:\.\d+)*)", path.read_text())
    }
    assert {(clause, name) for clause, name in cited if clause not in clauses} == set()


def test_topics_are_spelt_in_one_place() -> None:
    found = [
        path.name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"edgefleet/v1/", path.read_text())
    ]
    assert found == []
