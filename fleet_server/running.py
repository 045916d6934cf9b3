"""A whole server in one process: broker, threads, HTTPS. Started and stopped as one (``fleet-server run``)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn

from fleet_protocol.errors import BrokerUnreachable, Conflict
from fleet_server.adapters.broker import Mosquitto, find_mosquitto
from fleet_server.adapters.broker_access import SupervisedAccess
from fleet_server.adapters.ca import read_authority
from fleet_server.adapters.files import PUBLIC, write_file
from fleet_server.adapters.mqtt import Identity, MqttLink
from fleet_server.adapters.retained_journal import RetainedFile
from fleet_server.adapters.server_certificates import renew_if_due
from fleet_server.app import open_fleet
from fleet_server.background import Intake, Loop, Requests, stop_all
from fleet_server.config import ServerConfig, StateLayout, read_config
from fleet_server.fleet import Fleet
from fleet_server.services.access import AccessKeeper, revoked_devices
from fleet_server.services.publishing import Publisher

log = logging.getLogger(__name__)

CONNECT_LIMIT_S: Final = 10.0
STREAMS_END_S: Final = 3
LOOPS_END_S: Final = 1.0
PUBLISH_EVERY_S: Final = 0.2
DECIDE_EVERY_S: Final = 1.0
GUARD_EVERY_S: Final = 0.5
UPKEEP_EVERY_S: Final = 60.0
_ANY: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  # compared with, not bound


class Background:
    """Broker and threads of one open fleet."""

    def __init__(self, fleet: Fleet) -> None:
        """Raises NotFound where there is no mosquitto."""
        layout = fleet.layout
        self._fleet = fleet
        denied = revoked_devices(fleet.readers)
        self.broker = Mosquitto(find_mosquitto(), fleet.config, layout, denied)
        self.link = MqttLink(
            self.broker.address, Identity(layout.ca_certificate, layout.mqtt_certificate, layout.mqtt_key)
        )
        access = SupervisedAccess(self.broker, fleet.ca, layout, fleet.clock)
        self._keeper = AccessKeeper(fleet.readers, self.link, access, denied)
        self._publisher = Publisher(
            fleet.sessions,
            fleet.readers,
            fleet.assignments,
            fleet.tuf,
            fleet.blobs,
            self.link,
            RetainedFile(layout.broker / "retained.json"),
            fleet.clock,
        )
        self._requests = Requests()
        self._heard_connection = 0
        intake = Intake(
            self.link, fleet.ingest, self._requests, fleet.clock, self._generation, fleet.devices.forget_presence
        )
        self._loops = (
            Loop("ingest", intake.step, 0.0),
            Loop("publisher", self._publish, PUBLISH_EVERY_S),
            Loop("access", self._guard, GUARD_EVERY_S),
            Loop("rollouts", self._decide, DECIDE_EVERY_S),
            Loop("upkeep", self._keep_up, UPKEEP_EVERY_S),
        )

    def start(self) -> None:
        """Start broker and threads; raises BrokerUnreachable where the broker does not come up."""
        self.broker.start()
        self.link.start()
        if not self.link.wait_connected(CONNECT_LIMIT_S):
            raise BrokerUnreachable(f"the server cannot connect to its broker: {self.broker.last_words()}")
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """End everything, the broker last. Safe to call after a start that failed."""
        stop_all(self._loops, LOOPS_END_S)
        self.link.stop()
        self.broker.stop()

    def _generation(self) -> int:
        return self.broker.generation

    def _publish(self) -> None:
        if not self.link.is_connected:
            return  # it connects by itself, and says so in the log
        self._publisher.step(self.broker.generation)
        while (request := self._requests.take()) is not None:
            self._publisher.resend(*request)

    def _guard(self) -> None:
        if self.link.is_connected:
            self._keeper.step()

    def _decide(self) -> None:
        if not self.link.is_connected:
            return  # a server that hears nobody must not take silence for failure
        now, connection = self._fleet.clock(), self.link.connection
        if connection != self._heard_connection:
            self._fleet.rollouts.heard_again(now)
            self._heard_connection = connection
        self._fleet.rollouts.tick(now)

    def _keep_up(self) -> None:
        now = self._fleet.clock()
        self._fleet.tuf.refresh(now)
        while self._fleet.ingest.prune(now) > 0:
            pass


class _Https(uvicorn.Server):
    """Says when it is listening, and ends open event streams when it shall stop."""

    def __init__(
        self, config: uvicorn.Config, on_listening: Callable[[], None], on_stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._on_stopping = on_stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stopping()
        await super().shutdown(sockets)


def run(state: Path, *, listen: str | None, broker_port: int | None, say: Callable[[str], None]) -> None:
    """Run until SIGTERM or Ctrl-C. ``say`` is told once, when everything is ready, where the server is."""
    layout = StateLayout(state.absolute())
    config = read_config(layout)
    with _only_one(layout), _ends_on_sigterm():
        before = _last_ports(layout)
        host, port = _address(config, listen)
        port = port or _free_port(host, before.get("https", 0))
        with _listener(host, port) as listener:
            wanted = config.broker_port if broker_port is None else broker_port
            chosen = wanted or _free_port(config.broker_listen, before.get("broker", 0))
            write_file(layout.ports, json.dumps({"https": port, "broker": chosen}).encode())
            for name in renew_if_due(
                layout, read_authority(layout.ca_key, layout.ca_certificate), config.hosts, time.time()
            ):
                log.warning("issued a new %s certificate for %s", name, ", ".join(config.hosts))
            with contextlib.closing(open_fleet(state, time.time, listen=f"{host}:{port}", broker_port=chosen)) as fleet:
                _serve(fleet, listener, say)


def _serve(fleet: Fleet, listener: socket.socket, say: Callable[[str], None]) -> None:
    from fleet_server.web.api import create_app

    layout, background = fleet.layout, Background(fleet)
    host, port = fleet.config.listen_address
    address = f"https://{fleet.config.public_host if host in _ANY else host}:{port}"

    def ready() -> None:
        found = {"https": address, "broker_port": fleet.config.broker_port, "pid": os.getpid()}
        write_file(layout.run, json.dumps(found).encode(), PUBLIC)
        say(f"fleet {fleet.config.fleet} is at {address}, its broker on port {fleet.config.broker_port}")

    settings = uvicorn.Config(
        create_app(fleet),
        ssl_certfile=layout.tls_certificate,
        ssl_keyfile=str(layout.tls_key),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=STREAMS_END_S,
    )
    try:
        forgotten = fleet.releases.sweep()
        if forgotten:
            log.warning("removed %d files that an interrupted release left behind", forgotten)
        background.start()
        asyncio.run(_Https(settings, ready, fleet.changes.close).serve([listener]))
    finally:
        layout.run.unlink(missing_ok=True)
        background.stop()


def _address(config: ServerConfig, listen: str | None) -> tuple[str, int]:
    if listen is None:
        return config.listen_address
    text = ServerConfig(fleet=config.fleet, hosts=config.hosts, listen=listen).encode()
    return ServerConfig.parse(text).listen_address


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Conflict(f"port {port} on {host} is taken; choose another with --listen") from error
    return listener


def _free_port(host: str, preferred: int) -> int:
    """``preferred`` if it is free, else any: devices and people that came before know the old one."""
    for port in (preferred, 0):
        with contextlib.suppress(Conflict), _listener(host, port) as probe:
            return int(probe.getsockname()[1])
    raise Conflict(f"there is no free port on {host}")


def _last_ports(layout: StateLayout) -> dict[str, int]:
    try:
        found: Any = json.loads(layout.ports.read_bytes())
        return {name: int(found[name]) for name in ("https", "broker")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # only a preference: without it any free port will do


@contextlib.contextmanager
def _only_one(layout: StateLayout) -> Iterator[None]:
    with layout.lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another fleet-server already runs in {layout.root}") from error
        yield


@contextlib.contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    # The web server raises the signal again after its own shutdown; the default would then end us before the broker.
    def leave(_signal: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
