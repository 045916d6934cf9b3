"""Enrolment under attack: the cases of SPEC 9.1, each against the real service and registry."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from sqlalchemy import func, select

from fleet_protocol.claim import HPKE_KEY_OID, Claim, EnrolmentRequest, pin_of
from fleet_protocol.errors import (
    ClaimRefused,
    ClaimUsed,
    Conflict,
    CsrRefused,
    DeviceExists,
    FleetError,
    NotFound,
    WrongPin,
)
from fleet_protocol.identifiers import DeviceId, bucket_of
from fleet_server.adapters.ca import new_key
from fleet_server.ceremony import Founding
from fleet_server.db.models import Audit, Device
from fleet_server.db.models import Claim as ClaimRow
from fleet_server.fleet import Fleet
from tests.server.kit import BOARD, DeviceKit, SteppedClock, enrol

CAM = DeviceId("cam-1")


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    return fleet.enrolment.create_claim(CAM, BOARD, 3600, "tester")


def member(fleet: Fleet, device: DeviceId = CAM) -> Device:
    with fleet.readers() as session:
        row = session.get(Device, device)
    assert row is not None
    return row


def members(fleet: Fleet) -> int:
    with fleet.readers() as session:
        return session.scalar(select(func.count()).select_from(Device)) or 0


def certificate_of(device: DeviceKit) -> x509.Certificate:
    assert device.reply is not None
    return x509.load_pem_x509_certificate(device.reply.certificate.encode())


def test_an_honest_device_becomes_a_member_and_can_check_everything_it_got(fleet: Fleet, claim: Claim) -> None:
    device = DeviceKit(CAM)
    reply = fleet.enrolment.enrol(device.request(claim), fleet.clock())
    ca = x509.load_pem_x509_certificate(reply.ca.encode())
    claim.check_ca(ca.public_bytes(Encoding.DER))
    claim.check_root(reply.root.encode())
    certificate = x509.load_pem_x509_certificate(reply.certificate.encode())
    certificate.verify_directly_issued_by(ca)
    assert certificate.public_key() == device.tls.public_key()
    assert (reply.fleet, reply.device, reply.broker_host) == ("acme", CAM, "localhost")
    row = member(fleet)
    assert (row.state, row.board, row.bucket, row.online) == ("active", BOARD, bucket_of(CAM), False)
    assert row.hpke_key == device.hpke.public_key().public_bytes_raw()


def test_the_certificate_is_a_thirty_day_client_certificate_in_the_claims_name(fleet: Fleet) -> None:
    certificate = certificate_of(enrol(fleet, "cam-1"))
    lifetime = certificate.not_valid_after_utc.timestamp() - fleet.clock()
    assert lifetime == 30 * 86_400
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == CAM
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:edgefleet:device:cam-1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.attack("28")
def test_what_a_request_wishes_to_be_is_ignored(fleet: Fleet, claim: Claim) -> None:
    device = DeviceKit(CAM)
    wishes: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.SubjectAlternativeName([x509.DNSName("fleet-server")]), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    ]
    device.reply = fleet.enrolment.enrol(device.request(claim, device.csr("fleet-server", wishes)), fleet.clock())
    certificate = certificate_of(device)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == CAM
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.attack("28")
def test_a_used_claim_is_refused_to_another_key(fleet: Fleet, claim: Claim) -> None:
    first = DeviceKit(CAM)
    fleet.enrolment.enrol(first.request(claim), fleet.clock())
    with pytest.raises(ClaimUsed):
        fleet.enrolment.enrol(DeviceKit(CAM).request(claim), fleet.clock())
    assert member(fleet).hpke_key == first.hpke.public_key().public_bytes_raw()


@pytest.mark.attack("28")
def test_a_used_claim_is_refused_to_the_same_tls_key_with_another_hpke_key(fleet: Fleet, claim: Claim) -> None:
    first = DeviceKit(CAM)
    fleet.enrolment.enrol(first.request(claim), fleet.clock())
    with pytest.raises(ClaimUsed):
        fleet.enrolment.enrol(DeviceKit(CAM, tls=first.tls).request(claim), fleet.clock())


def test_a_lost_reply_may_be_asked_for_again_with_the_same_keys(fleet: Fleet, claim: Claim) -> None:
    device = DeviceKit(CAM)
    fleet.enrolment.enrol(device.request(claim), fleet.clock())
    first_serial = member(fleet).serial
    fleet.enrolment.enrol(device.request(claim), fleet.clock())
    again = member(fleet)
    assert members(fleet) == 1
    assert again.previous_serial == first_serial != again.serial


@pytest.mark.attack("26")
def test_a_revoked_device_gets_no_new_certificate_for_its_old_claim(fleet: Fleet, claim: Claim) -> None:
    device = DeviceKit(CAM)
    fleet.enrolment.enrol(device.request(claim), fleet.clock())
    fleet.enrolment.revoke(CAM, "tester", "stolen")
    with pytest.raises(ClaimUsed):
        fleet.enrolment.enrol(device.request(claim), fleet.clock())


@pytest.mark.attack("28")
def test_an_expired_claim_is_refused(fleet: Fleet, claim: Claim, clock: SteppedClock) -> None:
    clock.advance(3600)
    with pytest.raises(ClaimRefused):
        fleet.enrolment.enrol(DeviceKit(CAM).request(claim), clock())
    assert members(fleet) == 0


@pytest.mark.attack("28")
def test_wrong_unknown_and_expired_claims_get_the_same_sentence(
    fleet: Fleet, claim: Claim, clock: SteppedClock
) -> None:
    device, sentences = DeviceKit(CAM), set()
    guesses = [
        Claim(claim.claim_id, os.urandom(32), claim.ca_pin, claim.root_pin),
        Claim("0" * 12, claim.secret, claim.ca_pin, claim.root_pin),
        Claim("0" * 12, bytes(32), claim.ca_pin, claim.root_pin),
    ]
    for guess in guesses:
        with pytest.raises(ClaimRefused) as refusal:
            fleet.enrolment.enrol(device.request(guess), clock())
        sentences.add(str(refusal.value))
    clock.advance(7200)
    with pytest.raises(ClaimRefused) as refusal:
        fleet.enrolment.enrol(device.request(claim), clock())
    assert sentences == {str(refusal.value)}


@pytest.mark.attack("34")
def test_what_a_stolen_registry_holds_is_no_secret(fleet: Fleet, claim: Claim) -> None:
    with fleet.readers() as session:
        stored = session.scalars(select(ClaimRow)).one()
    replay = Claim(claim.claim_id, stored.secret_sha256, claim.ca_pin, claim.root_pin)
    with pytest.raises(ClaimRefused):
        fleet.enrolment.enrol(DeviceKit(CAM).request(replay), fleet.clock())


@pytest.mark.parametrize("secret", ["", "?", "é" * 20, "A" * 10_000])
def test_a_secret_that_is_no_secret_is_a_refused_claim(fleet: Fleet, claim: Claim, secret: str) -> None:
    sane = DeviceKit(CAM).request(claim)
    with pytest.raises(ClaimRefused):
        fleet.enrolment.enrol(EnrolmentRequest(claim.claim_id, secret, sane.csr, BOARD), fleet.clock())


@pytest.mark.attack("28")
def test_of_sixteen_devices_with_one_claim_exactly_one_becomes_a_member(fleet: Fleet, claim: Claim) -> None:
    requests = [DeviceKit(CAM).request(claim) for _ in range(16)]

    def attempt(request: EnrolmentRequest) -> type[FleetError] | None:
        try:
            fleet.enrolment.enrol(request, fleet.clock())
        except FleetError as error:
            return type(error)
        return None

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(attempt, requests))
    assert outcomes.count(None) == 1
    assert outcomes.count(ClaimUsed) == 15
    assert members(fleet) == 1


@pytest.mark.attack("28")
def test_a_second_claim_cannot_take_over_an_enrolled_name(fleet: Fleet) -> None:
    first = enrol(fleet, "cam-1")
    second = fleet.enrolment.create_claim(CAM, BOARD, 3600, "tester")
    with pytest.raises(DeviceExists):
        fleet.enrolment.enrol(DeviceKit(CAM).request(second), fleet.clock())
    assert member(fleet).hpke_key == first.hpke.public_key().public_bytes_raw()


def test_a_device_of_another_board_than_the_claims_is_refused(fleet: Fleet, claim: Claim) -> None:
    with pytest.raises(ClaimRefused, match="generic-x86_64"):
        fleet.enrolment.enrol(DeviceKit(CAM).request(claim, board="raspberry-pi-5"), fleet.clock())


def test_the_servers_own_name_is_not_given_to_a_device(fleet: Fleet) -> None:
    """The broker takes rights from the certificate's name; this one may write everything."""
    with pytest.raises(Conflict):
        fleet.enrolment.create_claim(DeviceId("fleet-server"), BOARD, 3600, "tester")


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan"), 91 * 86_400.0])
def test_a_claim_without_end_is_refused(fleet: Fleet, ttl_s: float) -> None:
    with pytest.raises(Conflict):
        fleet.enrolment.create_claim(CAM, BOARD, ttl_s, "tester")


def _tampered(device: DeviceKit) -> bytes:
    csr = bytearray(device.csr())
    csr[-5] ^= 1
    return bytes(csr)


def _with_anothers_tls_key(device: DeviceKit) -> bytes:
    own, other = (
        key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for key in (device.tls, new_key())
    )
    return device.csr().replace(own, other)


def _with_anothers_hpke_key(device: DeviceKit) -> bytes:
    other = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return device.csr().replace(device.hpke.public_key().public_bytes_raw(), other)


def _signed_with(key: object, hpke: bytes | None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if hpke is not None:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(HPKE_KEY_OID), hpke)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)  # type: ignore[arg-type]


BAD_REQUESTS = {
    "its signature was changed": _tampered,
    "its TLS key is somebody else's": _with_anothers_tls_key,
    "its HPKE key was swapped": _with_anothers_hpke_key,
    "its HPKE key is a low-order point": lambda device: _signed_with(device.tls, bytes(32)),
    "its HPKE key is short": lambda device: _signed_with(device.tls, b"\1" * 31),
    "it has no HPKE key": lambda device: _signed_with(device.tls, None),
    "its TLS key is RSA": lambda _: _signed_with(rsa.generate_private_key(65_537, 2048), b"\1" * 32),
    "it is a megabyte": lambda _: b"0" * 1_000_000,
    "it is empty": lambda _: b"",
    "it is text": lambda _: b"-----BEGIN CERTIFICATE REQUEST-----",
}


@pytest.mark.attack("28")
@pytest.mark.parametrize("flaw", BAD_REQUESTS)
def test_a_certificate_request_is_refused_and_the_claim_stays_good_when(fleet: Fleet, claim: Claim, flaw: str) -> None:
    device = DeviceKit(CAM)
    with pytest.raises(CsrRefused):
        fleet.enrolment.enrol(device.request(claim, BAD_REQUESTS[flaw](device)), fleet.clock())
    fleet.enrolment.enrol(device.request(claim), fleet.clock())
    assert members(fleet) == 1


@pytest.mark.attack("28")
def test_an_impostor_with_another_ca_or_root_is_noticed_by_the_device(fleet: Fleet, claim: Claim) -> None:
    with pytest.raises(WrongPin):
        claim.check_ca(b"another CA")
    with pytest.raises(WrongPin):
        claim.check_root(fleet.tuf.root() + b" ")
    assert pin_of(fleet.ca.certificate_der) == claim.ca_pin


def test_revoking_is_audited_once_and_unknown_devices_are_named(fleet: Fleet, founding: Founding) -> None:
    enrol(fleet, "cam-1")
    fleet.enrolment.revoke(CAM, "tester", "stolen")
    fleet.enrolment.revoke(CAM, "tester", "stolen")
    with fleet.readers() as session:
        told = session.scalars(select(Audit.reason).where(Audit.action == "device.revoke")).all()
    assert list(told) == ["stolen"]
    with pytest.raises(NotFound, match="cam-9"):
        fleet.enrolment.revoke(DeviceId("cam-9"), "tester", "gone")
