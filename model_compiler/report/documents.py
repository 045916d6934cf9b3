"""The files that a record becomes: for people, for programs, for auditors."""

from __future__ import annotations

from typing import Final

from model_compiler.report import page, sbom
from model_compiler.report import record as records
from model_compiler.report.record import Record

PAGE: Final = ".report.html"
RECORD: Final = ".report.json"
SBOM: Final = ".cdx.json"


def all_of(record: Record) -> list[tuple[str, bytes]]:
    """Suffix and content of each document."""
    return [(PAGE, page.render(record).encode()), (RECORD, records.encode(record)), (SBOM, sbom.render(record))]
