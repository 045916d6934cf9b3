"""Renewal under attack: the cases of SPEC 9.3, each against the real service and registry."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from sqlalchemy import func, select

from fleet_protocol import renewal as wire
from fleet_protocol.claim import DEVICE_URN
from fleet_protocol.errors import (
    BadSignature,
    CertificateExpired,
    CertificateRefused,
    CertificateSuperseded,
    CsrRefused,
    DeviceExists,
    DeviceRevoked,
    FleetError,
    MalformedMessage,
    NotFound,
)
from fleet_protocol.identifiers import DeviceId, FleetId
from fleet_protocol.renewal import RenewalRequest
from fleet_server.adapters.ca import found_authority, new_key
from fleet_server.db.models import Audit, Device, LatestHealth
from fleet_server.fleet import Fleet
from tests.server.kit import BOARD, DeviceKit, SteppedClock, enrol

CAM = DeviceId("cam-1")
DAY = 86_400.0
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


@pytest.fixture
def device(fleet: Fleet) -> DeviceKit:
    return enrol(fleet, CAM)


def certificate_of(device: DeviceKit) -> x509.Certificate:
    assert device.reply is not None
    return x509.load_pem_x509_certificate(device.reply.certificate.encode())


def ask(
    fleet: Fleet, device: DeviceKit, new: ec.EllipticCurvePrivateKey, shown: x509.Certificate | None = None
) -> RenewalRequest:
    """A request signed with the device's key, for ``new``; ``shown``: instead of the device's own certificate."""
    csr = DeviceKit(device.id, tls=new, hpke=device.hpke).csr()
    challenge = fleet.renewals.challenge(fleet.clock()).challenge
    signature = wire.sign(device.tls, FleetId("acme"), device.id, csr, challenge)
    der = (shown or certificate_of(device)).public_bytes(Encoding.DER)
    return RenewalRequest(wire.encode(der), wire.encode(csr), challenge, wire.encode(signature))


def renewed(
    fleet: Fleet, device: DeviceKit, new: ec.EllipticCurvePrivateKey | None = None
) -> tuple[DeviceKit, x509.Certificate]:
    """The device with its next pair."""
    key = new or new_key()
    reply = fleet.renewals.renew(ask(fleet, device, key), fleet.clock())
    assert device.reply is not None
    later = msgspec.structs.replace(device.reply, certificate=reply.certificate)
    following = DeviceKit(device.id, tls=key, hpke=device.hpke, reply=later)
    return following, certificate_of(following)


def member(fleet: Fleet) -> Device:
    with fleet.readers() as session:
        return session.get_one(Device, CAM)


def renewals(fleet: Fleet) -> int:
    with fleet.readers() as session:
        return session.scalar(select(func.count()).select_from(Audit).where(Audit.action == "device.renew")) or 0


def leaf(
    ca: object, key: ec.EllipticCurvePrivateKey, clock: SteppedClock, usage: tuple[x509.ObjectIdentifier, ...]
) -> x509.Certificate:
    """A certificate in cam-1's name by the fleet's CA that the fleet's own code never makes."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEVICE_URN + CAM)])
    now = dt.datetime.fromtimestamp(clock.now, dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CAM)]))
        .issuer_name(ca.certificate.subject)  # type: ignore[attr-defined]
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.certificate.public_key()),  # type: ignore[attr-defined]
            critical=False,
        )
    )
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    return builder.sign(ca._key, hashes.SHA256())  # type: ignore[attr-defined]


def refused(fleet: Fleet, request: RenewalRequest, kind: type[FleetError]) -> None:
    """Refused with exactly this error, and the registry is as it was."""
    before = member(fleet).serial, member(fleet).previous_serial, member(fleet).tls_spki, renewals(fleet)
    with pytest.raises(kind) as caught:
        fleet.renewals.renew(request, fleet.clock())
    assert type(caught.value) is kind
    assert (member(fleet).serial, member(fleet).previous_serial, member(fleet).tls_spki, renewals(fleet)) == before


def test_a_good_device_gets_a_certificate_of_full_life_for_its_new_key(
    fleet: Fleet, clock: SteppedClock, device: DeviceKit
) -> None:
    clock.advance(20 * DAY)
    new = new_key()
    _, certificate = renewed(fleet, device, new)
    assert certificate.public_key() == new.public_key()
    assert certificate.not_valid_after_utc.timestamp() == clock.now + 30 * DAY
    certificate.verify_directly_issued_by(fleet.ca.certificate)
    row = member(fleet)
    assert (row.serial, row.previous_serial) == (
        f"{certificate.serial_number:x}",
        f"{certificate_of(device).serial_number:x}",
    )
    assert row.hpke_key == device.hpke.public_key().public_bytes_raw()
    assert renewals(fleet) == 1


def test_the_same_request_again_gives_the_same_certificate(
    fleet: Fleet, clock: SteppedClock, device: DeviceKit
) -> None:
    request = ask(fleet, device, new_key())
    first = fleet.renewals.renew(request, fleet.clock())
    clock.advance(60)
    assert fleet.renewals.renew(request, fleet.clock()) == first
    assert renewals(fleet) == 1


def test_a_lost_reply_may_be_asked_for_again_weeks_later_with_the_same_new_key(
    fleet: Fleet, clock: SteppedClock, device: DeviceKit
) -> None:
    new = new_key()
    first = fleet.renewals.renew(ask(fleet, device, new), fleet.clock())
    clock.advance(9 * DAY)
    assert fleet.renewals.renew(ask(fleet, device, new), fleet.clock()) == first


def test_a_device_that_lost_reply_and_new_key_renews_with_the_pair_that_it_has(fleet: Fleet, device: DeviceKit) -> None:
    renewed(fleet, device)
    later, _ = renewed(fleet, device)
    renewed(fleet, later)
    assert renewals(fleet) == 3


@pytest.mark.attack("28")
def test_the_overlap_ends_with_the_next_renewal(fleet: Fleet, device: DeviceKit) -> None:
    second, _ = renewed(fleet, device)
    third, _ = renewed(fleet, second)
    refused(fleet, ask(fleet, device, new_key()), CertificateSuperseded)
    renewed(fleet, third)


@pytest.mark.attack("26")
def test_a_revoked_device_is_not_renewed(fleet: Fleet, device: DeviceKit) -> None:
    fleet.enrolment.revoke(CAM, "tester", "stolen")
    refused(fleet, ask(fleet, device, new_key()), DeviceRevoked)


@pytest.mark.attack("28")
def test_an_ended_certificate_is_refused_with_the_code_that_means_to_enrol_again(
    fleet: Fleet, clock: SteppedClock, device: DeviceKit
) -> None:
    clock.advance(30 * DAY + 1)
    refused(fleet, ask(fleet, device, new_key()), CertificateExpired)


def test_a_certificate_that_has_not_begun_is_refused(fleet: Fleet, clock: SteppedClock, device: DeviceKit) -> None:
    clock.advance(-DAY)
    refused(fleet, ask(fleet, device, new_key()), CertificateRefused)


@pytest.mark.attack("28")
@pytest.mark.parametrize("usage", [(), (ExtendedKeyUsageOID.SERVER_AUTH,)])
def test_a_certificate_of_the_right_ca_that_is_not_for_clients_is_refused(
    fleet: Fleet, clock: SteppedClock, device: DeviceKit, usage: tuple[x509.ObjectIdentifier, ...]
) -> None:
    refused(fleet, ask(fleet, device, new_key(), leaf(fleet.ca, device.tls, clock, usage)), CertificateRefused)


@pytest.mark.attack("26c")
def test_a_minted_certificate_that_the_registry_does_not_know_is_refused(
    fleet: Fleet, clock: SteppedClock, device: DeviceKit
) -> None:
    refused(fleet, ask(fleet, device, new_key(), leaf(fleet.ca, device.tls, clock, CLIENT)), CertificateSuperseded)


@pytest.mark.attack("28")
def test_a_certificate_of_another_ca_is_refused(fleet: Fleet, clock: SteppedClock, device: DeviceKit) -> None:
    evil = found_authority("acme", clock.now)
    forged = evil.issue_again(device.tls.public_key(), CAM, member(fleet).serial)
    refused(fleet, ask(fleet, device, new_key(), forged), CertificateRefused)


def test_the_servers_own_and_takeover_certificates_renew_nothing(
    fleet: Fleet, clock: SteppedClock, device: DeviceKit
) -> None:
    public = device.tls.public_key()
    for certificate in (
        fleet.ca.issue_takeover(public, CAM, clock.now),
        fleet.ca.issue_mqtt_client(public, clock.now),
    ):
        refused(fleet, ask(fleet, device, new_key(), certificate), CertificateRefused)


def test_another_devices_certificate_needs_that_devices_key(fleet: Fleet, device: DeviceKit) -> None:
    thief = enrol(fleet, "cam-2")
    refused(fleet, ask(fleet, thief, new_key(), certificate_of(device)), BadSignature)


def test_a_request_that_was_changed_on_the_way_is_refused(fleet: Fleet, device: DeviceKit) -> None:
    request = ask(fleet, device, new_key())
    other = ask(fleet, device, new_key())
    for changed in ({"csr": other.csr}, {"signature": other.signature}):
        refused(fleet, msgspec.structs.replace(request, **changed), BadSignature)
    refused(fleet, msgspec.structs.replace(request, signature="AAAA"), BadSignature)
    refused(fleet, msgspec.structs.replace(request, certificate="AAAA"), CertificateRefused)
    refused(fleet, msgspec.structs.replace(request, csr="no base64!"), MalformedMessage)


def test_a_csr_that_is_not_signed_by_its_own_key_is_refused(fleet: Fleet, device: DeviceKit) -> None:
    csr = bytearray(DeviceKit(CAM, hpke=device.hpke).csr())
    csr[-1] ^= 1
    challenge = fleet.renewals.challenge(fleet.clock()).challenge
    signature = wire.sign(device.tls, FleetId("acme"), CAM, bytes(csr), challenge)
    shown = wire.encode(certificate_of(device).public_bytes(Encoding.DER))
    request = RenewalRequest(shown, wire.encode(bytes(csr)), challenge, wire.encode(signature))
    refused(fleet, request, CsrRefused)


def test_the_key_in_use_and_another_hpke_key_are_refused(fleet: Fleet, device: DeviceKit) -> None:
    refused(fleet, ask(fleet, device, device.tls), CsrRefused)
    other = DeviceKit(CAM, tls=device.tls, hpke=X25519PrivateKey.generate(), reply=device.reply)
    refused(fleet, ask(fleet, other, new_key()), CsrRefused)


@pytest.mark.parametrize("challenge", ["", "1", "1790000000.00", "99999999999999999999999999.x", "é.x", "1" * 5000])
def test_a_challenge_that_the_server_did_not_make_is_refused(fleet: Fleet, device: DeviceKit, challenge: str) -> None:
    refused(fleet, msgspec.structs.replace(ask(fleet, device, new_key()), challenge=challenge), BadSignature)


def test_a_recorded_request_is_worth_nothing_after_five_minutes(
    fleet: Fleet, clock: SteppedClock, device: DeviceKit
) -> None:
    request = ask(fleet, device, new_key())
    clock.advance(301)
    refused(fleet, request, BadSignature)


# --- a device that came too late, or broke: a claim that replaces (SPEC 9.1.7) ------------------------------------------
def replaced(fleet: Fleet, device: DeviceKit) -> DeviceKit:
    claim = fleet.enrolment.create_claim(CAM, BOARD, 3600, "tester", replaces=True)
    device.reply = fleet.enrolment.enrol(device.request(claim), fleet.clock())
    return device


def test_a_device_whose_certificate_ended_comes_back_with_a_claim_that_replaces(
    fleet: Fleet, clock: SteppedClock, device: DeviceKit
) -> None:
    clock.advance(45 * DAY)
    back = replaced(fleet, DeviceKit(CAM, hpke=device.hpke))
    renewed(fleet, back)
    assert member(fleet).hpke_key == device.hpke.public_key().public_bytes_raw()
    with fleet.readers() as session:
        assert session.scalar(select(Audit.who).where(Audit.action == "device.replace")).startswith("claim ")  # type: ignore[union-attr]


def test_the_keys_that_were_replaced_renew_nothing_and_open_nothing(fleet: Fleet, device: DeviceKit) -> None:
    second, _ = renewed(fleet, device)
    with fleet.sessions.begin() as session:
        fleet.assignments.issue(session, CAM, fleet.clock())
        session.add(LatestHealth(device_id=CAM, seq=90, at=1.0, received_at=1.0, served={}, report=b"x"))
    new = replaced(fleet, DeviceKit(CAM))
    for old in (device, second):
        refused(fleet, ask(fleet, old, new_key()), CertificateSuperseded)
    assert member(fleet).hpke_key == new.hpke.public_key().public_bytes_raw()
    with fleet.readers() as session:
        assert fleet.assignments.due(session, fleet.clock(), 10) == [CAM]
        assert session.get(LatestHealth, CAM) is None


def test_only_a_claim_that_replaces_takes_a_members_name(fleet: Fleet, device: DeviceKit) -> None:
    claim = fleet.enrolment.create_claim(CAM, BOARD, 3600, "tester")
    with pytest.raises(DeviceExists, match="--replace"):
        fleet.enrolment.enrol(DeviceKit(CAM).request(claim), fleet.clock())
    renewed(fleet, device)


def test_a_claim_that_replaces_needs_a_member_that_is_not_revoked(fleet: Fleet, device: DeviceKit) -> None:
    claim = fleet.enrolment.create_claim(CAM, BOARD, 3600, "tester", replaces=True)
    with pytest.raises(NotFound, match="cam-2"):
        fleet.enrolment.create_claim(DeviceId("cam-2"), BOARD, 3600, "tester", replaces=True)
    fleet.enrolment.revoke(CAM, "tester", "stolen")
    with pytest.raises(DeviceRevoked):
        fleet.enrolment.create_claim(CAM, BOARD, 3600, "tester", replaces=True)
    with pytest.raises(DeviceRevoked):
        fleet.enrolment.enrol(device.request(claim), fleet.clock())
    assert member(fleet).state == "revoked"
