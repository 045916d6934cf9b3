"""The API's description is a golden file: changing the API changes a file that is reviewed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fleet_server.fleet import Fleet
from fleet_server.web.api import create_app

GOLDEN = Path(__file__).parents[1] / "vectors" / "openapi.json"


def test_the_api_is_what_the_golden_file_says(fleet: Fleet) -> None:
    """EDGE_WRITE_VECTORS=1 writes it anew, to be read in review."""
    described = create_app(fleet).openapi()
    described["info"].pop("version")
    text = json.dumps(described, indent=1, sort_keys=True) + "\n"
    if os.environ.get("EDGE_WRITE_VECTORS") == "1":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_pages_are_no_part_of_the_api() -> None:
    assert all(path.startswith("/v1/") for path in json.loads(GOLDEN.read_text())["paths"])
