"""The device's side of renewal: when it asks, what a power cut leaves, and which pair it connects with (SPEC 9.3)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.adapters.credentials import Credential, Credentials
from edge_agent.adapters.enrolment import FleetServer
from edge_agent.adapters.keys import IdentityFolder, Membership
from edge_agent.adapters.mqtt import MqttTransport
from edge_agent.adapters.renewal import RenewalClient
from edge_agent.inbox import Inbox
from edge_agent.renewal import Life, due_at, is_due, quiet_s, retry_s
from edge_agent.renewer import Renewer
from fleet_protocol.errors import CertificateExpired, FleetError, MalformedMessage, ServerUnreachable
from fleet_protocol.identifiers import DeviceId
from fleet_protocol.renewal import RenewalChallenge, RenewalReply, RenewalRequest
from tests.agent.authority import Authority
from tests.agent.test_runner_broker import RealBroker, eventually
from tests.agent.tuf_world import DEVICE

CAM = DeviceId(DEVICE)
DAY = 86_400.0
MONTH = Life(0.0, 30 * DAY)


# --- when ---------------------------------------------------------------------------------------------------------------
def test_devices_renew_between_two_and_three_quarters_of_the_life_and_not_together() -> None:
    moments = {due_at(MONTH, DeviceId(f"cam-{number}")) for number in range(200)}
    assert min(moments) >= 20 * DAY
    assert max(moments) <= 22.5 * DAY
    assert max(moments) - min(moments) > 2 * DAY
    assert len(moments) == 200


def test_a_device_asks_from_its_moment_on_also_when_everything_is_over() -> None:
    at = due_at(MONTH, CAM)
    assert [is_due(MONTH, CAM, moment) for moment in (0, at - 1, at, 31 * DAY)] == [False, False, True, True]


def test_retries_are_doubled_up_to_six_hours() -> None:
    assert [retry_s(count) for count in (1, 2, 3, 9, 10, 10_000)] == [60, 120, 240, 15_360, 21_600, 21_600]


# --- a device, its folder and what it talks to ------------------------------------------------------------------------------
class PowerCut(BaseException):
    """Nothing after this point happens."""


class DyingCredentials(Credentials):
    """The folder of a device that loses power right after durable act number ``dies_after``."""

    dies_after: ClassVar[int] = 0
    acts: ClassVar[int] = 0

    def _count(self) -> None:
        DyingCredentials.acts += 1
        if DyingCredentials.acts == DyingCredentials.dies_after:
            raise PowerCut

    def _write(self, path: Path, content: bytes) -> None:
        super()._write(path, content)
        self._count()

    def _rename(self, old: Path, new: Path) -> None:
        super()._rename(old, new)
        self._count()

    def _remove(self, path: Path) -> None:
        super()._remove(path)
        self._count()


@dataclass
class RegistryIssuer:
    """The server's rules of SPEC 9.3.5 over a real CA: present and previous certificate are good, the same key again gives
    the same certificate."""

    authority: Authority
    present: x509.Certificate
    previous: x509.Certificate | None = None
    refuses: FleetError | None = None
    asked: int = 0

    def issue(self, present: Credential, new: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        self.asked += 1
        if self.refuses is not None:
            raise self.refuses
        shown = present.read_certificate()
        assert shown.public_key() == present.read_key().public_key(), "a mix of two pairs"
        assert shown in (self.present, self.previous), "superseded"
        assert shown.public_key() != new.public_key(), "the key in use"
        if self.present.public_key() != new.public_key():
            self.previous, self.present = shown, self.authority.issue_device(new.public_key(), CAM)
        return self.present


@dataclass
class BrokerOf:
    """A link whose broker accepts what ``accepts`` says; remembers what it was connected with last."""

    accepts: Callable[[x509.Certificate], bool] = lambda _certificate: True
    used: list[x509.Certificate] = field(default_factory=list)

    def use(self, certificate: Path, key: Path) -> None:
        pair = Credential(certificate, key)
        assert pair.read_certificate().public_key() == pair.read_key().public_key(), "a mix of two pairs"
        self.used.append(pair.read_certificate())

    def wait_connected(self, limit_s: float) -> bool:
        assert limit_s > 0
        return self.accepts(self.used[-1])


@dataclass
class Bench:
    """A device in a folder, and a world that answers it."""

    folder: IdentityFolder
    authority: Authority
    issuer: RegistryIssuer
    link: BrokerOf = field(default_factory=BrokerOf)
    now_s: float = 0.0
    elapsed_s: float = 0.0

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.folder)

    @property
    def certificate(self) -> x509.Certificate:
        return self.credentials.present().read_certificate()

    def renewer(self, kind: type[Credentials] = Credentials) -> Renewer:
        return Renewer(
            CAM, kind(self.folder), self.issuer, self.link, now_s=lambda: self.now_s, monotonic=lambda: self.elapsed_s
        )

    def step(self, renewer: Renewer) -> None:
        """A look, as the thread does it."""
        try:
            renewer.step()
        except (OSError, FleetError) as error:
            renewer._failed(str(error))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    authority, folder = Authority(), IdentityFolder(tmp_path)
    keys = folder.make_keys()
    certificate = authority.issue_device(keys.tls.public_key(), CAM)
    member = Membership(fleet="acme", device=CAM, broker_host="localhost", broker_port=1)
    folder.store(member, certificate=certificate.public_bytes(Encoding.PEM), ca=authority.pem, root=b"{}")
    made = Bench(folder, authority, RegistryIssuer(authority, certificate))
    made.now_s = due_at(made.credentials.present().life(), CAM)
    return made


def test_nothing_happens_before_the_moment(bench: Bench) -> None:
    bench.now_s -= 1
    bench.step(bench.renewer())
    assert (bench.issuer.asked, bench.link.used) == (0, [])


def test_a_renewed_pair_takes_the_place_of_the_old_one_in_one_file(bench: Bench) -> None:
    bench.step(bench.renewer())
    assert bench.certificate == bench.issuer.present
    assert bench.issuer.previous is not None
    assert (bench.credentials.present().certificate, bench.credentials.present().key) == (bench.folder.pair,) * 2
    assert bench.folder.pair.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in bench.folder.pair.parent.iterdir()}.isdisjoint({"next.key", "next.pem"})


@pytest.mark.parametrize("dies_after", range(1, 7))
def test_after_any_power_cut_there_is_a_whole_pair_and_the_renewal_is_finished(bench: Bench, dies_after: int) -> None:
    DyingCredentials.dies_after, DyingCredentials.acts = dies_after, 0
    old = bench.certificate
    with pytest.raises(PowerCut):
        bench.renewer(DyingCredentials).step()
    assert bench.certificate in (old, bench.issuer.present)
    assert bench.certificate.public_key() == bench.credentials.present().read_key().public_key()
    bench.folder.open()

    again = bench.renewer()
    for _ in range(3):
        bench.step(again)

    assert bench.certificate == bench.issuer.present != old
    assert bench.credentials.following() is None


def test_every_durable_act_of_a_renewal_is_cut_after(bench: Bench) -> None:
    DyingCredentials.dies_after, DyingCredentials.acts = 0, 0
    bench.renewer(DyingCredentials).step()
    assert DyingCredentials.acts == 6


def test_a_lost_reply_is_asked_for_again_with_the_same_key(bench: Bench) -> None:
    key = bench.credentials.next_key()
    bench.issuer.issue(bench.credentials.present(), key)  # the reply is lost
    bench.step(bench.renewer())
    assert bench.certificate.public_key() == key.public_key()


def test_a_new_certificate_that_the_broker_refuses_is_dropped_and_the_old_one_goes_on(bench: Bench) -> None:
    old = bench.certificate
    bench.link.accepts = lambda certificate: certificate == old
    renewer = bench.renewer()
    bench.step(renewer)
    assert bench.certificate == old == bench.link.used[-1]
    assert bench.credentials.following() is None
    bench.link.accepts = lambda _certificate: True
    bench.elapsed_s += retry_s(1)
    bench.step(renewer)
    assert bench.certificate == bench.issuer.present != old


def test_without_a_broker_neither_pair_is_thrown_away(bench: Bench) -> None:
    old = bench.certificate
    bench.link.accepts = lambda _certificate: False
    renewer = bench.renewer()
    bench.step(renewer)
    assert bench.certificate == old
    assert bench.credentials.following() is not None
    bench.link.accepts = lambda _certificate: True
    bench.elapsed_s += retry_s(1)
    bench.step(renewer)
    assert bench.certificate == bench.issuer.present != old
    assert bench.issuer.asked == 1


def test_a_server_that_is_away_is_asked_again_later_and_later(bench: Bench) -> None:
    bench.issuer.refuses = ServerUnreachable("away")
    renewer = bench.renewer()
    for _ in range(100):
        bench.step(renewer)
        bench.elapsed_s += 30
    assert bench.issuer.asked == 6  # after 0, 1, 3, 7, 15 and 31 of 50 minutes
    assert bench.credentials.refusal() is None


@pytest.mark.parametrize("clock_s", [0.0, dt.datetime(2010, 1, 1, tzinfo=dt.UTC).timestamp()])
def test_a_clock_before_the_certificate_asks_for_nothing_and_loses_nothing(bench: Bench, clock_s: float) -> None:
    old, bench.now_s = bench.certificate, clock_s
    bench.step(bench.renewer())
    assert (bench.certificate, bench.issuer.asked) == (old, 0)


def test_a_clock_twenty_years_ahead_costs_one_renewal_and_never_a_working_certificate(bench: Bench) -> None:
    bench.now_s += 20 * 365 * DAY
    renewer = bench.renewer()
    for _ in range(100):
        bench.step(renewer)
        bench.elapsed_s += 60
    assert bench.issuer.asked == 1
    assert bench.certificate == bench.issuer.present
    bench.elapsed_s += quiet_s(bench.credentials.present().life())
    bench.step(renewer)
    assert bench.issuer.asked == 2


def test_an_ended_certificate_stays_and_status_can_say_why(bench: Bench) -> None:
    bench.issuer.refuses = CertificateExpired("it ended; enrol again")
    old = bench.certificate
    bench.step(bench.renewer())
    refusal = bench.credentials.refusal()
    assert refusal is not None
    assert (refusal.code, bench.certificate) == ("certificate-expired", old)


def test_a_running_agent_takes_up_what_a_new_enrolment_brought(bench: Bench) -> None:
    bench.issuer.refuses = CertificateExpired("it ended; enrol again")
    renewer = bench.renewer()
    bench.step(renewer)
    key = bench.credentials.next_key()
    certificate = bench.authority.issue_device(key.public_key(), CAM)
    bench.credentials.replace(key, certificate)
    bench.now_s -= DAY
    bench.step(renewer)
    assert bench.link.used == [certificate]
    assert bench.credentials.refusal() is None


# --- what the server answers ------------------------------------------------------------------------------------------------
class AnsweringServer(FleetServer):
    """Answers every renewal with one certificate."""

    def __init__(self, certificate: x509.Certificate) -> None:
        super().__init__("https://fleet.invalid")
        self._answer = certificate.public_bytes(Encoding.PEM).decode()

    def fetch_challenge(self, ca: x509.Certificate) -> RenewalChallenge:
        return RenewalChallenge(f"1.{ca.serial_number}")

    def renew(self, request: RenewalRequest, ca: x509.Certificate) -> RenewalReply:
        assert request.challenge == f"1.{ca.serial_number}"
        return RenewalReply(self._answer)


def answered(bench: Bench, certificate: x509.Certificate, new: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    client = RenewalClient(AnsweringServer(certificate), bench.folder, bench.folder.open())
    return client.issue(bench.credentials.present(), new)


def test_a_certificate_by_another_ca_for_another_key_or_in_another_name_is_not_kept(bench: Bench) -> None:
    new, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    good = bench.authority.issue_device(new.public_key(), CAM)
    assert answered(bench, good, new) == good
    for bad in (
        Authority().issue_device(new.public_key(), CAM),
        bench.authority.issue_device(other.public_key(), CAM),
        bench.authority.issue_device(new.public_key(), "cam-other"),
    ):
        with pytest.raises(MalformedMessage):
            answered(bench, bad, new)


# --- with a real broker ---------------------------------------------------------------------------------------------------
def test_the_connection_moves_to_the_new_certificate_and_says_no_false_goodbye(tmp_path: Path) -> None:
    home = tmp_path / "broker"
    home.mkdir()
    broker = RealBroker(home, Authority())
    first, inbox = broker.endpoint(CAM), Inbox()
    transport = MqttTransport(first, CAM, inbox, boot_id="b", agent_version="1")
    try:
        transport.start()
        assert transport.wait_connected(20)
        stem = broker.authority.issue_client(tmp_path, CAM)
        transport.use(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        assert transport.wait_connected(20)
        transport.publish("ef/v1/x", b"", qos=0)
        foreign = Authority().issue_client(home, "foreign")
        transport.use(foreign.with_suffix(".pem"), foreign.with_suffix(".key"))
        assert not transport.wait_connected(1.5)
        transport.use(first.certificate, first.key)
        assert transport.wait_connected(20)
        eventually(lambda: transport.is_connected, "the old pair is accepted again")
    finally:
        transport.stop()
        broker.stop()
