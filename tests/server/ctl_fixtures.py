"""Runs ``fleetctl`` through its true entry against a real server."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fleet_server.fleetctl.cli import main
from tests.server.web_kit import WebServer

TOKEN = "eft_" + "A" * 43


@dataclass(frozen=True)
class Said:
    """What a run of ``fleetctl`` came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ctl = Callable[..., Said]


@pytest.fixture
def ctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ctl:
    """Runs ``fleetctl`` through its true entry, with a home of its own and no terminal."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "EDGE_SERVER", "EDGE_TOKEN", "EDGE_CA", "EDGE_CONTEXT"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "argv", ["fleetctl", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Said(ended.value.code or 0, captured.out, captured.err)  # type: ignore[arg-type]

    return run


@pytest.fixture
def admin(ctl: Ctl, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """``ctl`` pointed at the server by its environment, with the administrator's token."""
    monkeypatch.setenv("EDGE_SERVER", web.url)
    monkeypatch.setenv("EDGE_TOKEN", web.admin)
    monkeypatch.setenv("EDGE_CA", str(web.fleet.layout.ca_certificate))
    return ctl
