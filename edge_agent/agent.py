"""The composition root: which concrete class stands behind each port. Reads like the device's deployment diagram."""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from edge_agent import health
from edge_agent.adapters.credentials import Credentials
from edge_agent.adapters.enrolment import FleetServer
from edge_agent.adapters.keys import IdentityFolder, Membership
from edge_agent.adapters.mqtt import Endpoint, MqttTransport
from edge_agent.adapters.renewal import RenewalClient
from edge_agent.adapters.sensors import PsutilSensors
from edge_agent.adapters.slots import BlobStore
from edge_agent.config import AgentConfig, load_board
from edge_agent.delivery import Limits
from edge_agent.errors import NotEnrolled
from edge_agent.health import HealthLoop
from edge_agent.inbox import Inbox
from edge_agent.inference.engine import InferenceEngine
from edge_agent.installer import Installer
from edge_agent.intake import Intake
from edge_agent.journal import Journal
from edge_agent.notify import Watchdog, notify
from edge_agent.ports import Clock
from edge_agent.renewer import Renewer
from edge_agent.runner import Runner
from edge_agent.runtimes import measure_fingerprint
from edge_agent.spool import SqliteSpool, drain
from edge_agent.updater import Policy
from fleet_protocol.identifiers import SlotName

AGENT_VERSION: Final = version("edgefleet")
_MIB: Final = 1024**2
_STOP_LIMIT_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class Agent:
    """Everything that runs on the device. ``run`` blocks until ``stop`` was called from a signal or another thread."""

    runner: Runner
    inference: InferenceEngine
    transport: MqttTransport
    spool: SqliteSpool
    health: HealthLoop
    renewer: Renewer
    inbox: Inbox
    journal: Journal
    stopping: threading.Event

    def run(self) -> None:
        """Serve, report, follow assignments. A failure in the loop ends the agent: the service manager starts it anew."""
        watchdog = Watchdog()
        threads = [
            threading.Thread(target=body, args=arguments, name=name, daemon=True)
            for name, body, arguments in (
                ("spool.drain", drain, (self.spool, self.transport, self.stopping, random.random)),
                ("health.report", self.health.run, ()),
                ("certificate.renew", self.renewer.run, (self.stopping,)),
                ("watchdog", watchdog.run, (self.stopping,)),
            )
        ]
        try:
            self.runner.boot()
            self.transport.start()
            for thread in threads:
                thread.start()
            notify("READY=1")
            self.runner.run(self.stopping.is_set, watchdog.feed)
        finally:
            self._end(*threads)

    def stop(self) -> None:
        """Let ``run`` return in less than five seconds; may be called from a signal handler."""
        self.stopping.set()
        self.inbox.close()

    def _end(self, *threads: threading.Thread) -> None:
        notify("STOPPING=1")
        self.stop()
        self.health.stop()
        self.transport.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join(_STOP_LIMIT_S)
        self.inference.close()
        self.journal.close()
        self.spool.close()


def build(config: AgentConfig, clock: Clock = time.time) -> Agent:
    """Wire the agent of an enrolled device. Raises NotEnrolled or MalformedConfig; a damaged journal is put aside."""
    board, folder = load_board(config), IdentityFolder(config.state)
    identity, membership = folder.open(), folder.membership()
    fingerprint, boot_id = measure_fingerprint(board), uuid.uuid4().hex
    slots = tuple(SlotName(slot.name) for slot in config.slots)
    inbox = Inbox()
    credentials = Credentials(folder)
    transport = MqttTransport(
        _endpoint(membership, folder, credentials), identity.device, inbox, boot_id=boot_id, agent_version=AGENT_VERSION
    )
    journal, _ = Journal.open(config.state)
    spool = SqliteSpool(config.state / "spool.db", board.telemetry.spool_mib * _MIB, clock)
    inference = InferenceEngine(
        board,
        config.slots,
        config.state,
        served_changed=lambda: reporter.wake(),  # noqa: PLW0108 - it is made below, and needs the engine
        clock=clock,
    )
    intake = Intake(identity, journal, fingerprint, slots=slots, clock=clock, scratch=config.state / "scratch")
    store = BlobStore(config.state / "blobs", board.limits.reserve_disk_mib * _MIB)
    installer = Installer(
        identity, journal, store, inference, transport, slots=slots, limits=_limits(config), monotonic=time.monotonic
    )
    runner = Runner(
        identity, journal, intake, installer, inference, transport, spool, inbox,
        slots=slots, board=board.name, policy=_policy(config), monotonic=time.monotonic,
    )  # fmt: skip
    who = health.Identity(identity.device, boot_id, fingerprint, time.monotonic(), AGENT_VERSION)
    interval_s = config.health.interval_s or board.telemetry.health_interval_s
    sensors = PsutilSensors(config.state)
    reporter = HealthLoop(who, sensors, inference, lambda: runner.standing, spool, interval_s, clock)
    renewer = Renewer(
        identity.device,
        credentials,
        RenewalClient(FleetServer(config.server), folder, identity),
        transport,
        now_s=lambda: max(clock(), runner.standing.trusted_time_s),
        monotonic=time.monotonic,
    )
    return Agent(runner, inference, transport, spool, reporter, renewer, inbox, journal, threading.Event())


def _endpoint(membership: Membership | None, folder: IdentityFolder, credentials: Credentials) -> Endpoint:
    if membership is None:
        raise NotEnrolled("this device is not enrolled; run edge-agent enrol with a claim first")
    present = credentials.present()
    return Endpoint(membership.broker_host, membership.broker_port, folder.ca, present.certificate, present.key)


def _limits(config: AgentConfig) -> Limits:
    return Limits(window=config.delivery.window, largest=config.delivery.max_window, stall_s=config.delivery.stall_s)


def _policy(config: AgentConfig) -> Policy:
    return Policy(
        bake_s=config.bake.seconds,
        min_frames=config.bake.min_frames,
        max_error_share=config.bake.max_error_share,
    )
