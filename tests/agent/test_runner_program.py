"""``edge-agent run`` as a process: a real broker, a real runtime, real frames; installs, is killed, comes back, stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_agent.adapters.keys import IdentityFolder, Membership
from fleet_protocol import golden, topics
from fleet_protocol import manifest as manifests
from fleet_protocol.messages import DeploymentReport, HealthReport, decode
from fleet_protocol.states import DeploymentState
from tests.agent.authority import Authority
from tests.agent.inference_world import folder_of_pictures
from tests.agent.test_runner_broker import RealBroker, Server, eventually
from tests.agent.tiny_model import TinyRelease, classifier, golden_frames
from tests.agent.tuf_world import DEVICE, World
from tests.protocol import samples

S = DeploymentState
CONFIG = """
server = "https://127.0.0.1:1"
board = "generic-x86_64"
state_dir = "state"
[[slots]]
name = "cam"
source = {kind = "directory", path = "frames", fps = 40.0}
[bake]
seconds = 1.0
min_frames = 5
[health]
interval_s = 1.0
"""


class Program:
    """One device: its folder, its agent's process, and the fleet on the other side of a real broker."""

    def __init__(self, folder: Path, broker: RealBroker, server: Server) -> None:
        self.folder, self.server = folder, server
        self.world = World(now=int(time.time()))
        self.process: subprocess.Popen[bytes] | None = None
        folder_of_pictures(folder / "frames")
        (folder / "config.toml").write_text(CONFIG)
        identity = IdentityFolder(folder / "state")
        keys = identity.make_keys()
        self.world.hpke = keys.hpke
        member = Membership(fleet="acme", device=DEVICE, broker_host="127.0.0.1", broker_port=broker.port)
        certificate = broker.authority.issue_device(keys.tls.public_key(), DEVICE).public_bytes(Encoding.PEM)
        identity.store(member, certificate=certificate, ca=broker.authority.pem, root=self.world.root)
        assert (
            keys.tls.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) == identity.tls_key.read_bytes()
        )

    def release(self, version: str, model: bytes, **changes: Any) -> samples.Sealed:
        tiny = TinyRelease(version=version, model=model, **changes)
        frames = golden_frames(model) if tiny.frames is None else tiny.frames
        described, payload = manifests.payload_of([("model", model), ("golden", golden.pack(frames))])
        return self.world.put(tiny._manifest(described, len(frames)), payload)

    def assign(self, release: samples.Sealed) -> None:
        self.world.assign(release)
        for topic, content in self.world.broker.retained.items():
            self.server.retain(topic, content)

    def start(self, **environment: str) -> None:
        command = [sys.executable, "-m", "edge_agent", "run", "--config", str(self.folder / "config.toml"), "--verbose"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(20)
        self.process = None
        return status

    def heard(self) -> DeploymentReport | None:
        content = self.server.heard.get(topics.DEPLOYMENT.of(DEVICE))
        return decode(content, DeploymentReport) if content else None

    def served(self) -> str:
        """Digest that the last heartbeat said the runtime serves."""
        content = self.server.heard.get(topics.HEALTH.of(DEVICE))
        return decode(content, HealthReport).slots[0].served_sha256 if content else ""

    def status(self) -> Any:
        command = [sys.executable, "-m", "edge_agent", "status", "--config", str(self.folder / "config.toml"), "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    def wait_for(self, state: DeploymentState) -> DeploymentReport:
        eventually(lambda: (heard := self.heard()) and heard.state is state, f"{state}; {self.log()[-2000:]}", 60.0)
        heard = self.heard()
        assert heard is not None
        return heard

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    folder = tmp_path / "broker"
    folder.mkdir()
    (tmp_path / "device").mkdir()
    broker = RealBroker(folder, Authority())
    server = Server(broker)
    device = Program(tmp_path / "device", broker, server)
    yield device
    if device.process is not None:
        device.process.kill()
        device.process.wait()
    server.close()
    broker.stop()


def test_the_agent_installs_serves_reports_survives_a_kill_and_stops_in_time(program: Program) -> None:
    first, second = program.release("1.0.0", classifier(1)), program.release("2.0.0", classifier(2))
    program.assign(first)
    program.start()
    committed = program.wait_for(S.COMMITTED)
    assert committed.served_sha256 == first.digest
    eventually(lambda: program.served() == first.digest, "a heartbeat confirms what is served")
    assert (program.folder / "state" / "results.jsonl").stat().st_size > 0
    shown = program.status()
    assert (shown["is_running"], shown["slots"][0]["served"]) == (True, first.digest)

    program.stop(signal.SIGKILL)
    program.server.heard.clear()
    program.start()
    eventually(lambda: program.served() == first.digest, "after the kill the model serves again", 30.0)

    program.assign(second)
    eventually(lambda: program.served() == second.digest, "the newer model serves", 60.0)
    program.wait_for(S.COMMITTED)

    began = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - began < 5.0
    assert not program.status()["is_running"]
    eventually(lambda: not program.server.presence().online, "it said goodbye")  # type: ignore[union-attr]


def test_a_version_that_fails_its_golden_frames_on_this_device_never_serves(program: Program) -> None:
    good = program.release("1.0.0", classifier(1))
    program.assign(good)
    program.start()
    program.wait_for(S.COMMITTED)
    lying = program.release("2.0.0", classifier(1), frames=golden_frames(classifier(99)))
    program.assign(lying)
    refused = program.wait_for(S.REJECTED)
    assert (refused.code, refused.served_sha256) == ("golden-frames-differ", good.digest)
    assert program.stop() == 0


def test_the_service_manager_is_told(program: Program, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30.0)
        program.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000")
        assert manager.recv(64) == b"READY=1"
        assert manager.recv(64) == b"WATCHDOG=1"
        assert program.stop() == 0
        while (said := manager.recv(64)) == b"WATCHDOG=1":
            pass
        assert said == b"STOPPING=1"
