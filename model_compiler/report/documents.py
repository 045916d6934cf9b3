"""The files that a record becomes: for people, for programs, for auditors."""

from __future__ import annotations

from model_compiler.report import record as records
from model_compiler.report.record import Record

PAGE_SUFFIX = ".report.html"
RECORD_SUFFIX = ".report.json"
SBOM_SUFFIX = ".cdx.json"


def all_of(record: Record) -> list[tuple[str, bytes]]:
    """Suffix and content of each document."""
    return [(RECORD_SUFFIX, records.encode(record))]
