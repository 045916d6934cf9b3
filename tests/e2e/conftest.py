"""Real programs as separate processes, a real broker with mutual TLS, a real production model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_server.demo.author import BAD, GOOD, MODEL, compile_recipe, prepare, write_recipe
from fleet_server.demo.dataset import write_frames
from fleet_server.demo.programs import AgentPrograms, ServerPrograms, wait_until

CACHE = Path(tempfile.gettempdir()) / "edgefleet-test-compile-cache"
"""Shared by workers and runs: the compiler's own cache, keyed by the content of everything that goes in."""


@pytest.fixture(scope="session")
def author(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The author's folder, and a camera's frames by day and by night."""
    work = tmp_path_factory.mktemp("author")
    prepare(work, calibration=range(10_000, 10_040), evaluation=range(120))
    write_frames(work / "frames", range(50_000, 50_020), night_every=4)
    return work


def compiled(author: Path, version: str, counter: int, source: str) -> Path:
    package = author / f"{MODEL}-{version}.efpkg"
    compile_recipe(write_recipe(author, version, counter, source), package, "--cache", str(CACHE))
    return package


@pytest.fixture(scope="session")
def package_v1(author: Path) -> Path:
    return compiled(author, "1.0.0", 1, GOOD)


@pytest.fixture(scope="session")
def package_v2(author: Path) -> Path:
    """Good on its author's pictures, failing on night frames."""
    return compiled(author, "2.0.0", 2, BAD)


@pytest.fixture(scope="session")
def package_v3(author: Path) -> Path:
    """Version 1 again under a new number: good."""
    return compiled(author, "3.0.0", 3, GOOD)


class World:
    """One fleet in one folder, with devices that are added as a test needs them."""

    def __init__(self, root: Path, frames: Path) -> None:
        self.frames = frames
        self.root = root
        self.server = ServerPrograms(root)
        self.devices: list[AgentPrograms] = []

    def device(self, name: str, *, bake_s: float = 2.0, start: bool = True) -> AgentPrograms:
        """An enrolled device; its agent runs where ``start``."""
        agent = AgentPrograms(self.root, name)
        agent.configure(self.server.url, self.frames, fps=20.0, bake_s=bake_s)
        claim = self.server.ask("claim", "create", name, "--board", "generic-x86_64")["claim"]
        agent.enrol(claim)
        self.devices.append(agent)
        if start:
            agent.start()
            self.wait_online(name)
        return agent

    def wait_online(self, name: str) -> None:
        wait_until(lambda: self.row(name)["online"], f"{name} was online")

    def row(self, name: str) -> dict:
        return next(row for row in self.server.ask("device", "list") if row["id"] == name)

    def release(self, package: Path) -> None:
        self.server.ctl("release", "create", str(package), "--keys", str(self.server.offline_keys))

    def roll_out(self, version: str, *extra: str, waves: str = "100%") -> str:
        made = self.server.ask(
            "rollout", "create", f"{MODEL}@{version}", "--waves", waves, "--bake", "1s", "--reason", "test", "--start",
            *extra,
        )  # fmt: skip
        return str(made["id"])

    def rollout(self, rollout: str) -> dict:
        return self.server.ask("rollout", "get", rollout)

    def wait_state(self, rollout: str, *states: str, limit_s: float = 90.0) -> dict:
        return wait_until(
            lambda: found if (found := self.rollout(rollout))["state"] in states else None,
            f"rollout {rollout} was {' or '.join(states)}",
            limit_s,
        )

    def served(self, name: str, slot: str = "textline") -> str:
        slots = {each["slot"]: each["serves"] for each in self.row(name)["slots"]}
        served = slots.get(slot)
        return served["manifest_sha256"] if served else ""

    def close(self) -> None:
        for device in self.devices:
            device.stop()
        self.server.stop()


@pytest.fixture
def world(tmp_path: Path, author: Path) -> Iterator[World]:
    made = World(tmp_path, author / "frames")
    made.server.init("acme")
    made.server.start()
    try:
        yield made
    finally:
        made.close()
