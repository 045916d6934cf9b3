"""The agent is killed after each of its journal writes in turn; it ends on the old or the new model, never on neither."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_protocol import package
from fleet_server.demo.programs import AgentPrograms, wait_until
from tests.e2e.conftest import World

KILLING_AGENT = Path(__file__).with_name("killing_agent.py")
COMMITS_OF_AN_INSTALL = 20
"""At least as many as an undisturbed install makes; ``test_the_list_of_cuts_is_complete`` holds it to that."""


class Laboratory:
    """One server and one device that goes back and forth between two good versions."""

    def __init__(self, world: World, device: AgentPrograms, digests: dict[str, str]) -> None:
        self.world, self.device, self.digests = world, device, digests
        self.count_file = world.root / "commits"

    def other_version(self) -> str:
        served = self.world.served("cam-1")
        return next(version for version, digest in self.digests.items() if digest != served)

    def start_killing_agent(self, after: int) -> None:
        self.device.stop()
        self.count_file.unlink(missing_ok=True)
        self.device.start([sys.executable, str(KILLING_AGENT), str(after), str(self.count_file)])

    def settle(self, rollout: str) -> dict:
        """Power is back: the ordinary agent, until the rollout has come to an end."""
        self.device.stop()
        self.device.start()
        return self.world.wait_state(rollout, "FINISHED", "ROLLED_BACK")


@pytest.fixture(scope="module")
def laboratory(
    tmp_path_factory: pytest.TempPathFactory, author: Path, package_v1: Path, package_v3: Path
) -> Iterator[Laboratory]:
    world = World(tmp_path_factory.mktemp("power"), author / "frames")
    world.server.init("acme")
    world.server.start()
    try:
        device = world.device("cam-1", bake_s=1.0)
        digests = {}
        for version, path in (("1.0.0", package_v1), ("3.0.0", package_v3)):
            world.release(path)
            with path.open("rb") as stream:
                digests[version] = package.read(stream).variants[0].digest
        world.wait_state(world.roll_out("1.0.0"), "FINISHED")
        yield Laboratory(world, device, digests)
    finally:
        world.close()


def test_the_list_of_cuts_is_complete(laboratory: Laboratory) -> None:
    """An undisturbed install makes no more journal writes than the tests below cut after."""
    version = laboratory.other_version()
    laboratory.start_killing_agent(after=1_000_000)
    laboratory.world.wait_state(laboratory.world.roll_out(version), "FINISHED")
    assert 5 <= int(laboratory.count_file.read_text()) <= COMMITS_OF_AN_INSTALL


@pytest.mark.parametrize("after", range(1, COMMITS_OF_AN_INSTALL + 1))
def test_a_power_cut_leaves_one_working_model(laboratory: Laboratory, after: int) -> None:
    world, device = laboratory.world, laboratory.device
    version = laboratory.other_version()
    old, new = world.served("cam-1"), laboratory.digests[version]

    laboratory.start_killing_agent(after)
    rollout = world.roll_out(version)
    agent = device.process
    assert agent is not None
    wait_until(
        lambda: not agent.is_running or world.rollout(rollout)["state"] == "FINISHED",
        "the cut came or the install ended",
    )
    if world.rollout(rollout)["state"] == "FINISHED":
        assert world.served("cam-1") == new, "the server showed a success that is none"

    ended = laboratory.settle(rollout)

    served = wait_until(lambda: world.served("cam-1"), "the device served something")
    assert served == (new if ended["state"] == "FINISHED" else old)
    assert ended["state"] == "FINISHED", ended["waves"]
    wait_until(lambda: device.results(1)[0]["manifest"] == served, "results come from the model that is reported")
