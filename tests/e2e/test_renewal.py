"""Certificates that live for seconds: a device with a real broker and server renews and stays, and comes back when too late."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from edge_agent.adapters.credentials import Credentials
from edge_agent.adapters.enrolment import Enrolment, FleetServer
from edge_agent.adapters.keys import IdentityFolder
from edge_agent.adapters.mqtt import Endpoint, MqttTransport
from edge_agent.adapters.renewal import RenewalClient
from edge_agent.inbox import Inbox
from edge_agent.renewer import Renewer
from fleet_protocol.claim import Claim
from fleet_protocol.identifiers import DeviceId
from fleet_server.app import open_fleet
from fleet_server.ceremony import Founding, found_fleet
from fleet_server.config import ServerConfig
from fleet_server.db.models import Audit, Device
from fleet_server.fleet import Fleet
from fleet_server.running import Background
from tests.agent.test_runner_broker import eventually
from tests.server.conftest import free_port
from tests.server.kit import BOARD
from tests.server.web_kit import served

CAM = DeviceId("cam-1")
LIFE_S = 9.0
"""Begins as long before: two thirds of the whole life are over three seconds after a certificate was made."""


@dataclass
class Site:
    """A running fleet and one enrolled device on it; its clock is ``ahead_s`` ahead."""

    fleet: Fleet
    url: str
    folder: IdentityFolder
    ahead_s: float = 0.0

    def claim(self, *, replaces: bool = False) -> Claim:
        return self.fleet.enrolment.create_claim(CAM, BOARD, 3600, "tester", replaces=replaces)

    def transport(self) -> MqttTransport:
        present, member = Credentials(self.folder).present(), self.folder.membership()
        assert member is not None
        endpoint = Endpoint(member.broker_host, member.broker_port, self.folder.ca, present.certificate, present.key)
        return MqttTransport(endpoint, CAM, Inbox(), boot_id="b", agent_version="1")

    def renewer(self, transport: MqttTransport) -> Renewer:
        client = RenewalClient(FleetServer(self.url), self.folder, self.folder.open())
        return Renewer(
            CAM, Credentials(self.folder), client, transport,
            now_s=lambda: time.time() + self.ahead_s, monotonic=time.monotonic,
        )  # fmt: skip

    def renewals(self) -> int:
        with self.fleet.readers() as session:
            return session.scalar(select(func.count()).select_from(Audit).where(Audit.action == "device.renew")) or 0


@pytest.fixture(scope="module")
def ceremony(tmp_path_factory: pytest.TempPathFactory) -> Founding:
    root = tmp_path_factory.mktemp("renewal")
    config = ServerConfig(fleet="acme", hosts=("localhost",), listen="127.0.0.1:0", broker_port=0)
    return found_fleet(root / "state", root / "offline", config, time.time())


@pytest.fixture
def site(ceremony: Founding, tmp_path: Path) -> Iterator[Site]:
    shutil.copytree(ceremony.state, tmp_path / "state")
    life = timedelta(seconds=LIFE_S)
    fleet = open_fleet(tmp_path / "state", time.time, broker_port=free_port(), device_life=life)
    background = Background(fleet)
    try:
        background.start()
        with served(fleet, ceremony.admin_token) as web:
            made = Site(fleet, web.url, IdentityFolder(tmp_path / "device"))
            Enrolment.at(web.url, made.claim(), BOARD, made.folder).run()
            yield made
    finally:
        background.stop()
        fleet.close()


def test_a_device_outlives_its_first_certificates_and_stays_connected(site: Site) -> None:
    first = Credentials(site.folder).present().life()
    transport, stopping = site.transport(), threading.Event()
    renewing = threading.Thread(target=site.renewer(transport).run, args=(stopping, 0.1))
    try:
        transport.start()
        renewing.start()
        eventually(lambda: time.time() > first.end_s, "the first certificate has ended", 2 * LIFE_S)
        eventually(lambda: transport.is_connected, "the device is connected")
        assert site.renewals() >= 2
        assert Credentials(site.folder).present().life().end_s > time.time()
        eventually(lambda: is_online(site), "the server sees it")
    finally:
        stopping.set()
        renewing.join()
        transport.stop()


def test_a_device_that_was_off_for_too_long_says_so_and_comes_back_with_a_new_claim_while_it_runs(site: Site) -> None:
    hpke = site.folder.open().hpke_key.private_bytes_raw()
    ended = Credentials(site.folder).present().life().end_s
    eventually(lambda: time.time() > ended + 1, "the certificate has ended", 2 * LIFE_S)
    transport, stopping = site.transport(), threading.Event()
    renewing = threading.Thread(target=site.renewer(transport).run, args=(stopping, 0.1))
    try:
        transport.start()
        renewing.start()
        eventually(lambda: Credentials(site.folder).refusal(), "the server refused")
        refusal = Credentials(site.folder).refusal()
        assert refusal is not None
        assert refusal.code == "certificate-expired"
        assert not transport.is_connected
        member = site.folder.membership()
        assert member is not None

        Enrolment.at(site.url, site.claim(replaces=True), BOARD, site.folder).run_again(member)

        eventually(lambda: transport.is_connected, "the running device took the new certificate up")
        assert site.folder.open().hpke_key.private_bytes_raw() == hpke
        assert Credentials(site.folder).refusal() is None
    finally:
        stopping.set()
        renewing.join()
        transport.stop()


def test_a_clock_years_ahead_renews_once_and_stays_connected(site: Site) -> None:
    site.ahead_s = 20 * 365 * 86_400.0
    transport = site.transport()
    try:
        transport.start()
        assert transport.wait_connected(20)
        renewer = site.renewer(transport)
        for _ in range(3):
            renewer.step()
        assert transport.is_connected
        assert site.renewals() == 1
    finally:
        transport.stop()


def is_online(site: Site) -> bool:
    with site.fleet.readers() as session:
        return session.get_one(Device, CAM).online
