"""Runs edgefleet's programs as processes of their own, as a person at four terminals would. Used by the demo and by the e2e tests.

Nothing here reaches into a program: only command lines, exit codes, files that the programs promise and their output.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from fleet_protocol.errors import FleetError

_TOKEN: Final = re.compile(r"eft_[A-Za-z0-9_-]+")
_STOP_LIMIT_S: Final = 15.0
_POLL_S: Final = 0.1
T = TypeVar("T")


class ProgramFailed(FleetError):
    """A program ended otherwise than expected; the message holds the end of what it said."""

    code = "program-failed"


class NeverHappened(FleetError):
    """A condition that was waited for did not come true within its limit."""

    code = "never-happened"


def wait_until(condition: Callable[[], T | None], what: str, limit_s: float = 60.0) -> T:
    """The first true value of ``condition``, asked ten times a second; raises NeverHappened after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise NeverHappened(f"within {limit_s:.0f} s it did not happen that {what}")
        time.sleep(_POLL_S)
    return value


def program(name: str) -> list[str]:
    """The command that starts one of edgefleet's programs from this installation."""
    return [str(Path(sys.executable).parent / name)]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, without a person's own edgefleet settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGE_")}
    return kept | {"ORT_DISABLE_TELEMETRY": "1"} | extra


def run(
    command: list[str], *, env: Mapping[str, str], expect: int = 0, stdin: str | None = None, limit_s: float = 300.0
) -> str:
    """Run to the end and return stdout; raises ProgramFailed where the exit code is not ``expect``."""
    done = subprocess.run(
        command, env=dict(env), input=stdin, text=True, capture_output=True, timeout=limit_s, check=False
    )
    if done.returncode != expect:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ProgramFailed(f"{' '.join(command[:4])} … ended with {done.returncode}, expected {expect}:\n{tail}")
    return done.stdout


@dataclass(slots=True)
class Running:
    """A program that goes on until it is stopped; its output is in ``log``."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, command: list[str], log: Path, env: Mapping[str, str]) -> Self:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        return cls(process, log)

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> int:
        """SIGTERM, and SIGKILL where it does not end in time; the exit code."""
        if self.is_running:
            self.process.terminate()
        try:
            return self.process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProgramFailed(f"{self.log.stem} did not end within {_STOP_LIMIT_S:.0f} s:\n{self.tail()}") from None

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self.is_running:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(slots=True)
class ServerPrograms:
    """A fleet server with its offline keys, and ``fleetctl`` pointed at it."""

    root: Path
    token: str = field(default="", repr=False)
    process: Running | None = None

    @property
    def state(self) -> Path:
        return self.root / "server"

    @property
    def offline_keys(self) -> Path:
        return self.root / "offline-keys"

    @property
    def ca(self) -> Path:
        return self.state / "ca.pem"

    def init(self, fleet: str) -> None:
        command = ["init", "--state", str(self.state), "--offline-keys", str(self.offline_keys), "--fleet", fleet]
        said = run([*program("fleet-server"), *command, "--host", "127.0.0.1"], env=environment())
        found = _TOKEN.search(said)
        if found is None:
            raise ProgramFailed("fleet-server init did not print an admin token")
        self.token = found[0]

    def start(self, limit_s: float = 60.0, *, listen: str = "127.0.0.1:0", broker_port: int = 0) -> None:
        (self.state / "run.json").unlink(missing_ok=True)
        command = ["run", "--state", str(self.state), "--listen", listen, "--broker-port", str(broker_port)]
        self.process = Running.start(
            [*program("fleet-server"), *command], self.root / "logs" / "fleet-server.log", environment()
        )
        wait_until(self._is_ready, "the server was ready", limit_s)

    def _is_ready(self) -> bool:
        if self.process is not None and not self.process.is_running:
            raise ProgramFailed(f"fleet-server ended at once:\n{self.process.tail()}")
        return (self.state / "run.json").exists()

    @property
    def ports(self) -> dict[str, Any]:
        """``https`` address, ``broker_port``, ``pid`` of the running server."""
        ports: dict[str, Any] = json.loads((self.state / "run.json").read_text())
        return ports

    @property
    def url(self) -> str:
        return str(self.ports["https"])

    def ctl(self, *arguments: str, expect: int = 0, limit_s: float = 300.0) -> str:
        """Run ``fleetctl`` as the administrator; stdout."""
        env = environment(EDGE_SERVER=self.url, EDGE_TOKEN=self.token, EDGE_CA=str(self.ca))
        return run([*program("fleetctl"), *arguments], env=env, expect=expect, limit_s=limit_s)

    def ask(self, *arguments: str) -> Any:
        """Run ``fleetctl … --json`` and parse what it prints."""
        return json.loads(self.ctl(*arguments, "--json"))

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None


AGENT_CONFIG: Final = """\
server = "{server}"
board = "generic-x86_64"
state_dir = "{state}"

[[slots]]
name = "textline"
source = {{ kind = "directory", path = "{frames}", fps = {fps} }}

[bake]
seconds = {bake_s}
min_frames = 10
max_error_share = 0.05

[health]
interval_s = 1.0
"""


@dataclass(slots=True)
class AgentPrograms:
    """One device: its configuration, its state directory and the agent's process."""

    root: Path
    name: str
    process: Running | None = None

    @property
    def home(self) -> Path:
        return self.root / "devices" / self.name

    @property
    def config(self) -> Path:
        return self.home / "config.toml"

    @property
    def state(self) -> Path:
        return self.home / "state"

    def configure(self, server: str, frames: Path, *, fps: float = 10.0, bake_s: float = 6.0) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        text = AGENT_CONFIG.format(server=server, state=self.state, frames=frames, fps=fps, bake_s=bake_s)
        self.config.write_text(text)

    def enrol(self, claim: str, expect: int = 0) -> str:
        """Redeem a claim; it is passed on standard input, so no other process sees it."""
        command = [*program("edge-agent"), "enrol", "--config", str(self.config), "--claim-file", "-"]
        return run(command, env=environment(), stdin=claim, expect=expect)

    def start(self, command: list[str] | None = None) -> None:
        """Start the agent (or ``command`` in its place) with this device's configuration."""
        started = [*(command or program("edge-agent")), "run", "--config", str(self.config)]
        self.process = Running.start(started, self.root / "logs" / f"{self.name}.log", environment())

    def status(self) -> Any:
        """What ``edge-agent status --json`` prints."""
        return json.loads(
            run([*program("edge-agent"), "status", "--config", str(self.config), "--json"], env=environment())
        )

    def results(self, last: int = 3) -> list[dict[str, Any]]:
        """The newest inference results."""
        files = sorted(self.state.rglob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        lines = files[-1].read_text().splitlines() if files else []
        return [json.loads(line) for line in lines[-last:] if line.endswith("}")]

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None
