"""The whole server as a process: ready, alone, quickly gone, and never leaving a broker behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from fleet_server.ceremony import Founding
from tests.server.wire import eventually

PROGRAM = Path(sys.executable).parent / "fleet-server"
START_S = 30.0


class ServerProcess:
    """``fleet-server run`` on free ports."""

    def __init__(self, state: Path, *extra: str, env: dict[str, str] | None = None) -> None:
        self.state = state
        command = [str(PROGRAM), "run", "--state", str(state), "--listen", "127.0.0.1:0", "--broker-port", "0", *extra]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ) | (env or {})
        )

    @property
    def ports(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.state / "run.json").read_text())
        return found

    def wait_ready(self) -> None:
        eventually(
            lambda: (self.state / "run.json").exists() or self.process.poll() is not None,
            "the server was ready",
            START_S,
        )
        assert self.process.poll() is None, self.process.communicate()[1]

    def broker_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return int(" ".join(path.read_text() for path in children).split()[0])

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, float]:
        """Exit code, standard error, seconds that it took."""
        started = time.monotonic()
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said, time.monotonic() - started


@pytest.fixture
def state(founded_now: Founding, founding: Founding) -> Path:
    import shutil

    shutil.rmtree(founding.state)
    shutil.copytree(founded_now.state, founding.state)
    return founding.state


@pytest.fixture
def server(state: Path) -> Iterator[ServerProcess]:
    running = ServerProcess(state)
    try:
        running.wait_ready()
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_server_says_where_it_is_and_answers_there(server: ServerProcess) -> None:
    pool = urllib3.PoolManager(ca_certs=str(server.state / "ca.pem"))
    answer = pool.request("GET", f"{server.ports['https']}/v1/health", timeout=5)
    pool.clear()
    assert (answer.status, json.loads(answer.data)["ok"]) == (200, True)
    assert server.ports["pid"] == server.process.pid
    assert isinstance(server.ports["broker_port"], int)


def test_a_second_server_over_the_same_state_is_refused(server: ServerProcess) -> None:
    second = ServerProcess(server.state)
    _, said = second.process.communicate(timeout=20)
    assert second.process.returncode == 5
    assert said.startswith("error [conflict]: another fleet-server already runs")
    assert server.process.poll() is None


def test_a_server_ends_within_five_seconds_although_a_browser_listens(
    server: ServerProcess, founded_now: Founding
) -> None:
    pool = urllib3.PoolManager(ca_certs=str(server.state / "ca.pem"))
    headers = {"Authorization": f"Bearer {founded_now.admin_token}"}
    stream = pool.request(
        "GET", f"{server.ports['https']}/v1/events", headers=headers, preload_content=False, timeout=10
    )
    broker = server.broker_pid()
    code, said, seconds = server.end()
    assert stream.status == 200
    stream.close()
    pool.clear()
    assert (code, is_gone(broker)) == (0, True)
    assert seconds < 5
    assert "Traceback" not in said
    assert not (server.state / "run.json").exists()


def test_ctrl_c_ends_a_server_as_cleanly(server: ServerProcess) -> None:
    broker = server.broker_pid()
    code, said, _ = server.end(signal.SIGINT)
    assert (code, is_gone(broker), "Traceback" in said) == (130, True, False)


def test_a_killed_server_takes_its_broker_with_it_and_starts_again_on_the_same_ports(server: ServerProcess) -> None:
    broker, ports = server.broker_pid(), server.ports
    server.end(signal.SIGKILL)
    eventually(lambda: is_gone(broker), "the broker ended")
    (server.state / "run.json").unlink()
    again = ServerProcess(server.state)
    try:
        again.wait_ready()
        assert again.ports | {"pid": 0} == ports | {"pid": 0}
    finally:
        assert again.end()[0] == 0


def test_a_server_without_a_broker_says_so_in_one_line(state: Path, tmp_path: Path) -> None:
    broken = tmp_path / "mosquitto"
    broken.write_text("#!/bin/sh\necho cannot open shared library >&2\nexit 3\n")
    broken.chmod(0o755)
    server = ServerProcess(state, env={"EDGE_MOSQUITTO": str(broken)})
    _, said = server.process.communicate(timeout=30)
    assert server.process.returncode == 1
    lines = [line for line in said.splitlines() if line.startswith("error [")]
    assert lines == ["error [broker-unreachable]: mosquitto did not start: cannot open shared library"]
    assert "Traceback" not in said
    assert not (state / "run.json").exists()


def test_the_commands_explain_themselves_and_refuse_with_a_code(tmp_path: Path) -> None:
    for command in ("init", "run", "migrate", "check"):
        told = subprocess.run([PROGRAM, command, "--help"], capture_output=True, text=True, check=True).stdout
        assert f"fleet-server {command} --state" in told
    nowhere = subprocess.run([PROGRAM, "run", "--state", tmp_path], capture_output=True, text=True, check=False)
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (3, 1)
    assert nowhere.stderr.startswith("error [not-found]: ")


def test_init_prints_the_token_alone_and_check_prints_json(tmp_path: Path) -> None:
    places = ["--state", str(tmp_path / "state"), "--offline-keys", str(tmp_path / "offline")]
    made = subprocess.run([PROGRAM, "init", *places, "--fleet", "acme"], capture_output=True, text=True, check=True)
    assert made.stdout.startswith("eft_")
    assert made.stdout.count("\n") == 1
    assert made.stdout.strip() not in made.stderr
    again = subprocess.run([PROGRAM, "init", *places], capture_output=True, text=True, check=False)
    assert again.returncode == 5
    checked = subprocess.run([PROGRAM, "check", *places[:2], "--json"], capture_output=True, text=True, check=True)
    assert json.loads(checked.stdout) == []
