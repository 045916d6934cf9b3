"""A real web server over a real fleet: uvicorn with the fleet's own TLS certificate on a free port, and its callers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import urllib3
import uvicorn

from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import DeviceId
from fleet_protocol.messages import DeploymentReport, HealthReport, Message, Presence, SlotHealth, encode
from fleet_protocol.sketch import Sketch
from fleet_protocol.states import DeploymentState
from fleet_protocol.topics import DEPLOYMENT, HEALTH, PRESENCE, DeviceTopic
from fleet_server.fleet import Fleet
from fleet_server.ports import Incoming
from fleet_server.web.api import create_app

LIMIT_S = 20.0


def wait_for(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Return once ``condition`` holds; fails with ``what`` after the limit."""
    ends = time.monotonic() + limit_s
    waiting = threading.Event()
    while not condition():
        assert time.monotonic() < ends, f"within {limit_s:.0f} s it did not happen that {what}"
        waiting.wait(0.02)


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(slots=True)
class WebServer:
    """The server's address, and requests to it that believe only the fleet's CA."""

    url: str
    fleet: Fleet
    admin: str
    pool: urllib3.PoolManager = field(init=False)

    def __post_init__(self) -> None:
        self.pool = urllib3.PoolManager(ca_certs=str(self.fleet.layout.ca_certificate), retries=False)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; ``token`` "" is the administrator's, None is none. A dict is sent as JSON, bytes as they are."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.admin}"
        if isinstance(body, dict):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        response = self.pool.request(method, self.url + path, body=body, headers=sent, redirect=False, timeout=LIMIT_S)
        return Answer(response.status, response.headers, response.data)

    def token(self, name: str, role: str) -> str:
        """A new token of ``role``."""
        return str(self.ask("POST", "/v1/tokens", {"name": name, "role": role}).json["token"])

    def close(self) -> None:
        self.pool.clear()


@contextmanager
def served(fleet: Fleet, admin: str) -> Iterator[WebServer]:
    """Serve ``fleet`` on a free port until the block ends."""
    config = uvicorn.Config(
        create_app(fleet),
        ssl_certfile=str(fleet.layout.tls_certificate),
        ssl_keyfile=str(fleet.layout.tls_key),
        lifespan="off",
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="web", daemon=True)
        thread.start()
        web = WebServer(f"https://localhost:{listener.getsockname()[1]}", fleet, admin)
        try:
            wait_for(lambda: server.started, "the web server started")
            yield web
        finally:
            web.close()
            fleet.changes.close()
            try:
                wait_for(lambda: not server.server_state.connections, "every client hung up")
            finally:
                server.should_exit = True
                thread.join(LIMIT_S)


@dataclass(slots=True)
class Voice:
    """A device's messages, given to the real ingest as the broker would."""

    fleet: Fleet
    device: DeviceId
    seq: int = 0

    def say(self, topic: DeviceTopic, message: Message) -> None:
        self.fleet.ingest.apply([Incoming(self.device, topic, encode(message), is_json=False)], self.fleet.clock())

    def online(self, is_online: bool = True) -> None:
        self.say(PRESENCE, Presence(online=is_online, boot_id="b1", agent_version="0.1.0"))

    def health(
        self,
        served: str = "",
        *,
        slot: str = "textline",
        assignment: int = 0,
        fps: float = 9.8,
        latency_ms: float = 4.0,
        temperature: float | None = 51.5,
    ) -> None:
        """A heartbeat that says what ``slot`` serves."""
        self.seq += 1
        sketch = Sketch()
        for step in range(100):
            sketch.add(latency_ms * (1 + step / 100))
        slots = (
            SlotHealth(
                slot=slot, served_sha256=served, model="orientation", version="?", frames=100, errors=0, dropped=0,
                fps=fps, latency=sketch.encode(),
            ),
        )  # fmt: skip
        report = HealthReport(
            seq=self.seq, at=self.fleet.clock(), boot_id="b1", agent_version="0.1.0",
            fingerprint=Fingerprint("generic-x86_64", "onnxruntime", "1.28.0", "x86_64"), uptime_s=90.0,
            cpu_percent=12.0, memory_used_bytes=900 << 20, memory_total_bytes=4 << 30, agent_rss_bytes=90 << 20,
            disk_free_bytes=9 << 30, temperature_celsius=temperature, assignment_seq=assignment, root_version=1,
            timestamp_version=1, trusted_time=self.fleet.clock(), clock_offset_s=0.0, spool_depth=0, spool_dropped=0,
            slots=slots,
        )  # fmt: skip
        self.say(HEALTH, report)

    def deployment(
        self,
        manifest: str,
        *states: str,
        assignment: int,
        execution: int = 1,
        first_version: int = 1,
        code: str = "",
        detail: str = "",
        served: str = "",
    ) -> None:
        """One report per state; ``code`` and ``detail`` go with the last one."""
        for version, state in enumerate(states, first_version):
            is_last = version - first_version + 1 == len(states)
            report = DeploymentReport(
                assignment_seq=assignment, execution=execution, version=version, slot="textline",
                manifest_sha256=manifest, state=DeploymentState(state), at=self.fleet.clock(),
                code=code if is_last else "", detail=detail if is_last else "", served_sha256=served,
            )  # fmt: skip
            self.say(DEPLOYMENT, report)


INSTALL = ("OFFERED", "PREFLIGHT", "DOWNLOADING", "VERIFIED", "STAGED", "SELFTEST", "SWITCHING", "BAKING", "COMMITTED")
"""The states of a deployment that goes well."""
