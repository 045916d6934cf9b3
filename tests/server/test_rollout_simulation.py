"""Whole rollouts against simulated fleets, on a bad network, with the server killed and restarted at any point."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fleet_protocol import messages
from fleet_protocol.messages import DeploymentReport, HealthReport
from fleet_protocol.states import TERMINAL, DeploymentState
from fleet_server.ports import Incoming
from fleet_server.rollout.actions import Action
from tests.server.rollout_world import SLOT, Fate, PowerCut, World, incoming, scatter

BAD_ENDS = (Fate.FAILS_GOLDEN_FRAMES, Fate.FAILS_IN_BAKE, Fate.GOES_SILENT, Fate.NEVER_HEARD_OF,
            Fate.SAYS_COMMITTED_BUT_SERVES_OLD, Fate.FALLS_BACK_LATER)  # fmt: skip
LIMITS = {"IDLE": 120.0, "STAGED": 120.0, "COMMITTED": 100.0}


@dataclass(slots=True)
class Witness:
    """Sees what the server was told, and holds every wave that passes against it. Shares no code with the planner."""

    manifest: str
    success: float
    cap: int
    heard: dict[str, tuple[float, str]] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)
    passed: dict[int, int] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    waves_of: dict[str, int] = field(default_factory=dict)

    def listen(self, said: Sequence[Incoming], now: float) -> None:
        for each in said:
            kind = each.topic.message
            assert kind is not None
            match messages.decode(each.payload, kind):
                case HealthReport(slots=slots):
                    self.heard[each.device] = (now, slots[0].served_sha256)
                case DeploymentReport(state=DeploymentState.COMMITTED, manifest_sha256=self.manifest):
                    self.committed.add(each.device)

    def check(self, world: World, rollout: int) -> None:
        rows, waves = world.rows(rollout), world.waves(rollout)
        on_the_way = [row for row in rows.values() if row.state not in TERMINAL]
        assert len(on_the_way) <= self.cap
        for name, row in rows.items():
            assert self.waves_of.setdefault(name, row.wave) == row.wave, "no device is in two waves"
            if row.state in TERMINAL:
                assert self.ended.setdefault(name, row.state) == row.state, "a terminal state never moves"
            before = [wave.state for wave in waves if wave.number < row.wave]
            assert not {"PENDING", "RUNNING", "BAKING", "HELD"} & set(before), (
                "a wave opens after the one before passed"
            )
        for wave in waves:
            if wave.state == "PASSED" and wave.number not in self.passed:
                members = [name for name, row in rows.items() if row.wave == wave.number]
                self._hold_against(members, wave.number, wave.baking_since)

    def _hold_against(self, members: Sequence[str], number: int, baking_since: float | None) -> None:
        assert baking_since is not None
        proven = [
            name
            for name in members
            if name in self.committed
            and self.heard.get(name, (0.0, ""))[1] == self.manifest
            and self.heard[name][0] >= baking_since
        ]
        assert members
        assert len(proven) / len(members) >= self.success, f"wave {number} passed with {len(proven)} of {len(members)}"
        self.passed[number] = len(members)


@dataclass(slots=True)
class Story:
    """One rollout of version 2 over a fleet that serves version 1, with everything that may go wrong on the way."""

    world: World
    rng: random.Random
    size: int
    bad: float
    kill: float = 0.0
    unacknowledged: list[Incoming] = field(default_factory=list)
    kills: int = 0

    def begin(self, **policy: object) -> tuple[int, str, Witness]:
        names = [f"cam-{number}" for number in range(self.size)]
        self.world.enrol(*names)
        first = self.world.release("1.0.0", 1)
        self.world.serve_everywhere(first)
        release = self.world.release("2.0.0", 2)
        manifest = self.world.manifest_of(release)
        for name in names:
            if self.rng.random() < self.bad:
                self.world.devices[name].fates = {manifest: self.rng.choice(BAD_ENDS)}
        rollout = self.world.begin(release, state_limits_s=LIMITS, rollback_limit_s=300.0, **policy)
        checked = self.world.policy(**policy)
        return (
            rollout,
            self.world.manifest_of(first),
            Witness(manifest, checked.success_threshold, checked.max_in_flight),
        )

    def turn(self, rollout: int, witness: Witness, number: int) -> None:
        self.world.now += 10.0
        said = scatter(self.rng, self.world.spoken(heartbeats=number % 4 == 0), lost=0.02, doubled=0.05)
        if number % 8 == 0:
            said.extend(self._repeated())
        self.unacknowledged.extend(said)
        try:
            self._serve(rollout, witness)
        except PowerCut:
            self.kills += 1
            self.world.restart()
        witness.check(self.world, rollout)
        self.world.deliver()

    def _repeated(self) -> list[Incoming]:
        # On every connection a device repeats its newest report (SPEC 8.4); that is what a lost one costs.
        return [
            incoming(device.id, device.report(self.world.now))
            for device in self.world.devices.values()
            if device.version and not device.is_dead and self.rng.random() < 0.5
        ]

    def _serve(self, rollout: int, witness: Witness) -> None:
        """The server's turn; it may be killed before, inside and between any transactions."""
        if self.rng.random() < self.kill:
            self.world.assigner.calls_left = self.rng.randrange(20)
        while self.unacknowledged:
            batch = self.unacknowledged[:200]
            self._maybe_die()
            witness.listen(batch, self.world.now)
            self.world.ingest.apply(batch, self.world.now)
            self._maybe_die()  # committed, not acknowledged: all of it comes again
            del self.unacknowledged[:200]
        while self.world.rollouts.step(rollout, self.world.now):
            witness.check(self.world, rollout)
            self._maybe_die()

    def _maybe_die(self) -> None:
        if self.rng.random() < self.kill / 10:
            raise PowerCut

    def run(self, rollout: int, witness: Witness, turns: int = 400) -> str:
        for number in range(turns):
            self.turn(rollout, witness, number)
            state = self.world.rollout(rollout).state
            if state in {"FINISHED", "ROLLED_BACK"} or "HELD" in self.world.wave_states(rollout):
                return state
        raise AssertionError(self.world.picture(rollout))


@pytest.mark.parametrize(("seed", "bad", "end"), [(1, 0.04, "FINISHED"), (2, 0.5, "ROLLED_BACK")])
def test_five_hundred_devices_come_to_a_true_end_though_the_server_dies(
    tmp_path: Path, seed: int, bad: float, end: str
) -> None:
    world = World(tmp_path, actions_per_transaction=40)
    story = Story(world, random.Random(seed), size=500, bad=bad, kill=0.08)
    rollout, old, witness = story.begin(
        waves="5,10%,50%,100%", success_threshold=0.7, error_threshold=0.25, min_sample=5, max_in_flight=200
    )

    assert story.run(rollout, witness) == end, world.picture(rollout)

    assert story.kills >= 3, "the server was killed on the way"
    if end == "FINISHED":
        assert sorted(witness.passed) == [1, 2, 3, 4]
        assert sum(witness.passed.values()) == 500
    _agrees_with_the_devices(world, rollout, witness.manifest, old)
    world.close()


def _agrees_with_the_devices(world: World, rollout: int, new: str, old: str) -> None:
    """What the registry says in the end is what the devices that can be heard really do."""
    for number in range(30):
        world.turn(heartbeats=number % 10 == 9)
    desired, rows = world.desired(), world.rows(rollout)
    is_back = world.rollout(rollout).state == "ROLLED_BACK"
    for name, row in rows.items():
        is_success = row.state == "COMMITTED" and row.confirmed_at is not None and not row.code
        assert desired[name] == (new if is_success and not is_back else old)
        device = world.devices[name]
        if device.is_dead:
            continue
        if is_success and not is_back and device.fates.get(new) is not Fate.FALLS_BACK_LATER:
            assert device.served == new
        if is_back:
            assert device.served == old
            assert row.restored_at is not None


def test_whichever_action_is_the_last_before_the_kill_the_end_is_the_same(tmp_path: Path) -> None:
    """Small fleets, one action per transaction, killed after action 1, 2, 3, … of the whole rollout; and inside each call."""
    origin, release = _fleet_of_three(tmp_path)
    uncut, whole = _killed_after(origin.copy(tmp_path / "uncut"), release, None, None)
    assert whole >= 15

    for number in range(1, whole + 1):
        assert _killed_after(origin.copy(tmp_path / f"after-{number}"), release, number, None)[0] == uncut
    for call in range(18):  # three assigned, three returned, each before, between and after its two calls
        assert _killed_after(origin.copy(tmp_path / f"inside-{call}"), release, None, call)[0] == uncut


End = tuple[str, list[str], dict[str, tuple[str, str]]]


def _fleet_of_three(path: Path) -> tuple[World, int]:
    """Version 1 everywhere; version 2 will fail on the last device that gets it."""
    world = World(path, actions_per_transaction=1)
    world.enrol("cam-1", "cam-2", "cam-3")
    world.serve_everywhere(world.release("1.0.0", 1))
    release = world.release("2.0.0", 2)
    order = world.rollouts.preview(release, "all", world.policy(), salt=0).devices
    world.devices[order[-1].device].fates = {world.manifest_of(release): Fate.FAILS_IN_BAKE}
    world.close()
    return world, release


def _killed_after(world: World, release: int, actions: int | None, call: int | None) -> tuple[End, int]:
    """How a rollout that breaches in its second wave ends, and in how many actions."""
    rollout = world.begin(release, waves="2,100%")
    world.assigner.calls_left = call
    done: list[Action] = []
    for _ in range(200):
        world.now += 5.0
        world.listen(world.spoken())
        while _step_or_die(world, rollout, done):
            if len(done) == actions:
                world.restart()
        world.deliver()
        if world.rollout(rollout).state == "ROLLED_BACK":
            break
    rows = {name: (row.state, row.code) for name, row in world.rows(rollout).items()}
    assert {device.served for device in world.devices.values()} == set(world.desired().values())
    end = (world.rollout(rollout).state, world.wave_states(rollout), rows)
    world.close()
    return end, len(done)


def _step_or_die(world: World, rollout: int, done: list[Action]) -> bool:
    try:
        actions = world.rollouts.step(rollout, world.now)
    except PowerCut:
        world.restart()
        return True
    done.extend(actions)
    return bool(actions)


def test_a_device_that_lies_about_states_moves_nothing(tmp_path: Path) -> None:
    """Random nonsense from every device: no impossible report reaches a wave's evidence, none is lost from the record."""
    world, rng = World(tmp_path), random.Random(5)
    world.enrol("cam-1", "cam-2", "cam-3")
    release = world.release("1.0.0", 1)
    manifest = world.manifest_of(release)
    rollout = world.begin(release, waves="100%", state_limits_s={"IDLE": 10_000.0})
    world.rollouts.tick(world.now)
    for name in world.devices:
        for _ in range(60):
            world.now += 1.0
            world.say(
                name,
                DeploymentReport(
                    assignment_seq=rng.choice([0, 2, 9]), execution=rng.randrange(3), version=rng.randrange(4),
                    slot=SLOT, manifest_sha256=rng.choice([manifest, "0" * 64]), state=rng.choice(list(DeploymentState)),
                    at=world.now,
                ),
            )  # fmt: skip

    assert {row.state for row in world.rows(rollout).values()} == {"IDLE"}
    assert world.wave_states(rollout) == ["RUNNING"]
    world.close()
