"""Brokers and servers die, devices fall silent, authors ship bad versions: nothing is lost and nothing is claimed falsely."""

from __future__ import annotations

import os
import signal
import zipfile
from pathlib import Path

import psutil
import pytest

from fleet_protocol import package
from fleet_server.demo.programs import ProgramFailed, ServerPrograms, wait_until
from tests.e2e.conftest import World


def digest_of(packed: Path) -> str:
    with packed.open("rb") as stream:
        return package.read(stream).variants[0].digest


def broker_of(server: ServerPrograms) -> psutil.Process:
    children = psutil.Process(server.ports["pid"]).children(recursive=True)
    return next(child for child in children if "mosquitto" in child.name())


def test_a_bad_version_stops_at_the_canary_which_takes_the_old_model_back(
    world: World, package_v1: Path, package_v2: Path
) -> None:
    devices = [world.device(f"cam-{number}") for number in range(3)]
    world.release(package_v1)
    world.release(package_v2)
    world.wait_state(world.roll_out("1.0.0"), "FINISHED")

    ended = world.wait_state(world.roll_out("2.0.0", waves="1,100%"), "ROLLED_BACK")

    good = digest_of(package_v1)
    assert [wave["state"] for wave in ended["waves"]] == ["ROLLED_BACK", "PENDING"]
    assert {world.served(device.name) for device in devices} == {good}
    tried = [
        device for device in devices if digest_of(package_v2) in device.home.joinpath("state/results.jsonl").read_text()
    ]
    assert len(tried) <= 1, "only the canary ever ran version 2"


def test_a_broker_killed_in_mid_download_costs_nothing_but_time(world: World, package_v1: Path) -> None:
    device = world.device("cam-1")
    world.release(package_v1)
    rollout = world.roll_out("1.0.0")
    agent = device.process
    assert agent is not None
    wait_until(lambda: list(device.state.rglob("*.part")), "the download had begun")
    os.kill(agent.process.pid, signal.SIGSTOP)  # hold the device so that the broker dies while chunks are outstanding
    broker = broker_of(world.server)
    broker.kill()
    wait_until(lambda: not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE, "the broker was dead")
    os.kill(agent.process.pid, signal.SIGCONT)

    ended = world.wait_state(rollout, "FINISHED")

    assert ended["waves"][0]["state"] == "PASSED"
    assert world.served("cam-1") == digest_of(package_v1)


def test_a_server_killed_in_mid_rollout_goes_on_where_it_was(world: World, package_v1: Path) -> None:
    for number in range(2):
        world.device(f"cam-{number}")
    world.release(package_v1)
    rollout = world.roll_out("1.0.0", waves="1,100%")
    wait_until(lambda: world.rollout(rollout)["waves"][0]["state"] != "PENDING", "the first wave was open")
    ports, address = world.server.ports, world.server.url.removeprefix("https://")
    assert world.server.process is not None
    world.server.process.kill()
    world.server.start(listen=address, broker_port=ports["broker_port"])

    ended = world.wait_state(rollout, "FINISHED")

    assert [wave["state"] for wave in ended["waves"]] == ["PASSED", "PASSED"]
    assert {world.served(f"cam-{number}") for number in range(2)} == {digest_of(package_v1)}


def test_without_server_and_broker_a_device_serves_what_it_has(world: World, package_v1: Path) -> None:
    device = world.device("cam-1")
    world.release(package_v1)
    world.wait_state(world.roll_out("1.0.0"), "FINISHED")
    world.server.stop()
    device.stop()
    before = len(device.results(10**6))

    device.start()

    wait_until(lambda: len(device.results(10**6)) > before + 10, "results came without any network")
    slot = device.status()["slots"][0]
    assert slot["served"] == digest_of(package_v1)


def breached(rollout: dict) -> dict | None:
    return rollout if rollout["waves"][0]["state"] in {"BREACHED", "ROLLING_BACK", "ROLLED_BACK"} else None


def test_a_device_that_falls_silent_stops_its_rollout(world: World, package_v1: Path, package_v3: Path) -> None:
    devices = {f"cam-{number}": world.device(f"cam-{number}") for number in range(2)}
    world.release(package_v1)
    world.release(package_v3)
    world.wait_state(world.roll_out("1.0.0"), "FINISHED")
    for device in devices.values():
        assert device.process is not None
        device.process.kill()

    rollout = world.roll_out("3.0.0", "--queued-limit", "3s", waves="1,100%")
    ended = wait_until(lambda: breached(world.rollout(rollout)), "the silent wave was called a breach")

    assert "silent" in ended["waves"][0]["verdict"]
    assert ended["waves"][1]["state"] == "PENDING"


def test_a_package_changed_after_signing_is_refused(world: World, package_v1: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.efpkg"
    with zipfile.ZipFile(package_v1) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[:-1] + b"\0" if name.endswith("payload.bin") else content)
    with pytest.raises(ProgramFailed, match="payload-mismatch"):
        world.release(changed)
    assert world.server.ask("release", "list") == []
