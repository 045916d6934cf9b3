"""Power cuts after every write: the device ends on the old or the new model, never on neither, and never says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edge_agent.journal import Journal
from edge_agent.ports import BakeWindow
from fleet_protocol.states import DeploymentState
from tests.agent.tuf_world import SLOT, Clock, Device, SimulatedInference, World

S = DeploymentState
MOST_WRITES = 24
"""More than an install makes; ``test_every_write_of_an_install_is_cut_after`` holds it to that."""
BAD = BakeWindow(0, 100, None, is_alive=True)


class PowerCut(BaseException):
    """Nothing after this point happens."""


class DyingJournal(Journal):
    """A journal whose device loses power right after write number ``dies_after`` is on the disk."""

    dies_after: ClassVar[int] = 1_000_000
    writes: ClassVar[int] = 0

    def _commit(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        super()._commit(statements)
        DyingJournal.writes += 1
        if DyingJournal.writes == DyingJournal.dies_after:
            raise PowerCut


def prepared(tmp_path: Path) -> tuple[World, Path, Clock]:
    """A device that served 1.0.0 and is off, and a fleet that wants 2.0.0 on it."""
    world, clock = World(), Clock()
    world.assign(world.release("1.0.0", model_bytes=100_000))
    device = Device(world, tmp_path / "state", clock=clock).start().run(10)
    assert device.serves == "1.0.0"
    device.close()
    world.assign(world.release("2.0.0", model_bytes=100_000))
    return world, tmp_path / "state", clock


def run_until_cut(world: World, state: Path, clock: Clock, dies_after: int, window: BakeWindow | None = None) -> Device:
    DyingJournal.dies_after, DyingJournal.writes = dies_after, 0
    device = Device(world, state, clock=clock, journal=DyingJournal)
    if window is not None:
        device.inference.window = window
    try:
        device.start().run(10)
    except PowerCut:
        pass
    device.close()
    return device


def truthful(device: Device) -> None:
    """COMMITTED is only ever said of what the journal has as committed at that moment or later replaced."""
    for each in device.reports():
        if each.state is S.COMMITTED:
            assert each.served_sha256 == each.manifest_sha256


def test_every_write_of_an_install_is_cut_after(tmp_path: Path) -> None:
    world, state, clock = prepared(tmp_path)
    device = run_until_cut(world, state, clock, 1_000_000)
    assert 8 <= DyingJournal.writes <= MOST_WRITES
    assert device.serves == "2.0.0"


@pytest.mark.attack("33")
@pytest.mark.parametrize("dies_after", range(1, MOST_WRITES + 1))
def test_after_any_cut_the_device_boots_with_a_model_and_reaches_the_new_one(tmp_path: Path, dies_after: int) -> None:
    world, state, clock = prepared(tmp_path)
    cut = run_until_cut(world, state, clock, dies_after)
    truthful_cut = DyingJournal.writes

    again = Device(world, state, clock=clock, inference=SimulatedInference())
    again.runner.boot()
    committed = again.journal.committed(SLOT)
    assert committed is not None
    assert again.serves in {"1.0.0", "2.0.0"}, "whatever was cut, a model serves before any network"
    again.link.connect()
    again.run(12)

    assert again.serves == "2.0.0"
    assert again.last.state is S.COMMITTED
    truthful(again)
    assert truthful_cut <= MOST_WRITES
    assert again.journal.remembered.seq == cut.world.seq


@pytest.mark.attack("33")
@pytest.mark.parametrize("dies_after", range(1, MOST_WRITES + 1))
def test_after_any_cut_of_a_bad_install_the_old_model_serves_and_no_success_was_ever_said(
    tmp_path: Path, dies_after: int
) -> None:
    world, state, clock = prepared(tmp_path)
    run_until_cut(world, state, clock, dies_after, BAD)

    again = Device(world, state, clock=clock, inference=SimulatedInference(window=BAD))
    again.start().run(12)

    assert again.serves == "1.0.0"
    assert (again.last.state, again.last.code) == (S.ROLLED_BACK, "bake-failed")
    assert S.COMMITTED not in again.states(2)


@pytest.mark.attack("33")
def test_a_cut_between_the_floors_and_the_install_leaves_no_window_for_a_replay(tmp_path: Path) -> None:
    world, state, clock = prepared(tmp_path)
    old = world.envelope()
    world.assign(world.release("3.0.0", model_bytes=100_000))
    run_until_cut(world, state, clock, 4)
    again = Device(world, state, clock=clock, inference=SimulatedInference())
    again.start().run(1)
    seq = again.journal.remembered.seq
    world.broker.retain("edgefleet/v1/d/cam-7/down/assignment", old)
    again.run(12)
    assert seq == again.journal.remembered.seq == world.seq
    assert again.refusal == "replayed-assignment"
    assert again.serves == "3.0.0"


def test_a_model_that_takes_the_whole_agent_down_is_given_up_after_three_tries(tmp_path: Path) -> None:
    world, state, clock = prepared(tmp_path)

    class Killer(SimulatedInference):
        def bake_window(self, slot: Any) -> BakeWindow:
            raise PowerCut

    for _ in range(4):
        device = Device(world, state, clock=clock, inference=Killer())
        try:
            device.start().run(10)
        except PowerCut:
            pass
        device.close()
    last = Device(world, state, clock=clock, inference=SimulatedInference()).start().run(2)
    assert (last.last.state, last.last.code, last.serves) == (S.ROLLED_BACK, "loop-detected", "1.0.0")
