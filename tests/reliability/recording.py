"""A pytest plugin: which rows of the attack table each test proves, and how it ended, as one JSON file (works under xdist)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--attacks-to", type=Path, required=True, help="file for the results by row")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config.getoption("--attacks-to")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties += [("attack", marker.args[0]) for marker in item.iter_markers("attack")]


class Recorder:
    """Collects reports; a test that did not pass in any of its phases has failed its rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, dict[str, bool]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        for name, row in report.user_properties:
            if name == "attack":
                tests = self._rows.setdefault(str(row), {})
                tests[report.nodeid] = tests.get(report.nodeid, True) and report.passed

    def pytest_sessionfinish(self, session: Any) -> None:
        self._path.write_text(json.dumps(self._rows))
