"""Enrolment against a real HTTPS server: the secret goes to the right server only, and nothing wrong is believed."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.adapters.credentials import Credentials, Refusal
from edge_agent.adapters.enrolment import Enrolment, signing_request
from edge_agent.adapters.keys import IdentityFolder
from edge_agent.cli import main
from fleet_protocol.claim import HPKE_KEY_OID, Claim, EnrolmentReply, EnrolmentRequest, pin_of
from fleet_protocol.errors import (
    ClaimRefused,
    ClaimUsed,
    FleetError,
    InputTooLarge,
    MalformedConfig,
    MalformedMessage,
    NotAllowed,
    RefusedRequest,
    ServerUnreachable,
    WrongPin,
)
from tests.agent.authority import Authority

ROOT = '{"signed": {"_type": "root"}}'
Answer = Callable[["Fleet", EnrolmentRequest, x509.CertificateSigningRequest], tuple[int, bytes]]


def honest(fleet: Fleet, request: EnrolmentRequest, csr: x509.CertificateSigningRequest) -> tuple[int, bytes]:
    public = csr.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    certificate = fleet.authority.issue_device(public, "cam-7").public_bytes(Encoding.PEM).decode()
    return 201, msgspec.json.encode(fleet.reply(certificate=certificate))


class Fleet:
    """A fleet server as far as enrolment goes. ``seen``: what was asked of it, in order."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.authority = authority
        self.shown = authority.der
        self.answer: Answer = honest
        self.seen: list[tuple[str, str]] = []
        self.requests: list[EnrolmentRequest] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fleet": self}))
        self.server.socket = authority.server_context(folder).wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def claim(self, **changes: bytes) -> Claim:
        fields = {
            "secret": secrets.token_bytes(32),
            "ca_pin": pin_of(self.authority.der),
            "root_pin": pin_of(ROOT.encode()),
        }
        return Claim(claim_id="0123456789ab", **(fields | changes))

    def reply(self, **changes: Any) -> EnrolmentReply:
        fields = {
            "fleet": "acme", "device": "cam-7", "certificate": "", "ca": self.authority.pem.decode(), "root": ROOT,
            "broker_host": "127.0.0.1", "broker_port": 8883,
        }  # fmt: skip
        return EnrolmentReply(**(fields | changes))


class _Handler(BaseHTTPRequestHandler):
    fleet: ClassVar[Fleet]

    def do_GET(self) -> None:
        self.fleet.seen.append(("GET", self.path))
        self._send(200, self.fleet.shown)

    def do_POST(self) -> None:
        self.fleet.seen.append(("POST", self.path))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        request = msgspec.json.decode(content, type=EnrolmentRequest)
        self.fleet.requests.append(request)
        csr = x509.load_der_x509_csr(base64.b64decode(request.csr))
        self._send(*self.fleet.answer(self.fleet, request, csr))

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Fleet(folder, Authority())
    yield server
    server.close()


@pytest.fixture
def identity(tmp_path: Path) -> IdentityFolder:
    return IdentityFolder(tmp_path / "state")


def enrol(fleet: Fleet, identity: IdentityFolder, claim: Claim | None = None) -> None:
    Enrolment.at(fleet.url, claim or fleet.claim(), "generic-x86_64", identity).run()


def nothing_stored(identity: IdentityFolder) -> bool:
    return identity.membership() is None and not identity.certificate.exists()


def test_a_claim_becomes_an_identity(fleet: Fleet, identity: IdentityFolder, tmp_path: Path) -> None:
    claim = fleet.claim()
    enrol(fleet, identity, claim)
    assert fleet.seen == [("GET", "/v1/ca"), ("POST", "/v1/enrol")]
    member, opened = identity.membership(), identity.open()
    assert member is not None
    assert (member.fleet, member.device, member.broker_host, member.broker_port) == ("acme", "cam-7", "127.0.0.1", 8883)
    assert (opened.fleet, opened.device, opened.root) == ("acme", "cam-7", ROOT.encode())
    context = ssl.create_default_context(cafile=str(identity.ca))
    context.load_cert_chain(identity.certificate, identity.tls_key)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "state" / "identity").iterdir())
    assert claim.secret not in stored
    assert base64.urlsafe_b64encode(claim.secret).rstrip(b"=") not in stored


def test_private_keys_are_readable_by_the_agent_only(fleet: Fleet, identity: IdentityFolder, tmp_path: Path) -> None:
    enrol(fleet, identity)
    folder = tmp_path / "state" / "identity"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("tls.key", "hpke.key")} == {0o600}


def test_the_signing_request_proves_both_keys(identity: IdentityFolder) -> None:
    keys = identity.make_keys()
    csr = x509.load_der_x509_csr(signing_request(keys))
    extension = csr.extensions.get_extension_for_oid(x509.ObjectIdentifier(HPKE_KEY_OID)).value
    assert csr.is_signature_valid
    assert csr.public_key() == keys.tls.public_key()
    assert isinstance(extension, x509.UnrecognizedExtension)
    assert extension.value == keys.hpke.public_key().public_bytes_raw()


@pytest.mark.attack("28")
def test_a_server_with_another_ca_never_sees_the_secret(fleet: Fleet, identity: IdentityFolder) -> None:
    with pytest.raises(WrongPin, match="the claim was not sent"):
        enrol(fleet, identity, fleet.claim(ca_pin=bytes(16)))
    assert fleet.seen == [("GET", "/v1/ca")]
    assert nothing_stored(identity)


def test_a_server_that_shows_the_right_ca_but_has_no_certificate_of_it_never_sees_the_secret(
    fleet: Fleet, identity: IdentityFolder
) -> None:
    """An impostor can copy the CA's certificate; it is public."""
    real = Authority()
    fleet.shown = real.der
    with pytest.raises(ServerUnreachable):
        enrol(fleet, identity, fleet.claim(ca_pin=pin_of(real.der)))
    assert fleet.seen == [("GET", "/v1/ca")]
    assert nothing_stored(identity)


def test_a_server_at_another_address_than_its_certificates_never_sees_the_secret(
    tmp_path: Path, identity: IdentityFolder
) -> None:
    authority = Authority()
    server = Fleet(tmp_path, authority)
    try:
        port = server.url.rpartition(":")[2]
        with pytest.raises(ServerUnreachable):
            Enrolment.at(f"https://localhost:{port}", server.claim(), "generic-x86_64", identity).run()
        assert server.seen == [("GET", "/v1/ca")]
    finally:
        server.close()


@pytest.mark.parametrize(("shown", "error"), [(b"no certificate", MalformedMessage), (b"x" * 100_000, InputTooLarge)])
def test_an_answer_that_is_no_ca_ends_the_enrolment(
    fleet: Fleet, identity: IdentityFolder, shown: bytes, error: type[FleetError]
) -> None:
    fleet.shown = shown
    with pytest.raises(error):
        enrol(fleet, identity)
    assert fleet.requests == []


def test_the_ca_may_come_as_pem(fleet: Fleet, identity: IdentityFolder) -> None:
    fleet.shown = fleet.authority.pem
    enrol(fleet, identity)
    assert identity.membership() is not None


def test_a_ca_that_the_device_was_given_is_not_asked_for_and_still_checked_against_the_claim(
    fleet: Fleet, identity: IdentityFolder, tmp_path: Path
) -> None:
    given = tmp_path / "ca.pem"
    given.write_bytes(Authority().pem)
    with pytest.raises(WrongPin):
        Enrolment.at(fleet.url, fleet.claim(), "generic-x86_64", identity, given).run()
    assert fleet.seen == []
    given.write_bytes(fleet.authority.pem)
    Enrolment.at(fleet.url, fleet.claim(), "generic-x86_64", identity, given).run()
    assert fleet.seen == [("POST", "/v1/enrol")]
    with pytest.raises(MalformedConfig, match="CA"):
        Enrolment.at(fleet.url, fleet.claim(), "generic-x86_64", identity, tmp_path / "missing.pem")


def changed(**changes: Any) -> Answer:
    def answer(fleet: Fleet, request: EnrolmentRequest, csr: x509.CertificateSigningRequest) -> tuple[int, bytes]:
        status, content = honest(fleet, request, csr)
        return status, json.dumps(json.loads(content) | changes).encode()

    return answer


def another_key(fleet: Fleet, _: EnrolmentRequest, __: x509.CertificateSigningRequest) -> tuple[int, bytes]:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    certificate = fleet.authority.issue_device(public, "cam-7").public_bytes(Encoding.PEM).decode()
    return 201, msgspec.json.encode(fleet.reply(certificate=certificate))


def another_ca(fleet: Fleet, _: EnrolmentRequest, csr: x509.CertificateSigningRequest) -> tuple[int, bytes]:
    certificate = Authority().issue_device(csr.public_key(), "cam-7").public_bytes(Encoding.PEM).decode()  # type: ignore[arg-type]
    return 201, msgspec.json.encode(fleet.reply(certificate=certificate))


@pytest.mark.attack("28")
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (changed(root='{"another": "root"}'), WrongPin),
        (changed(ca=Authority().pem.decode()), WrongPin),
        (another_key, WrongPin),
        (another_ca, MalformedMessage),
        (changed(device="cam-8"), MalformedMessage),
        (changed(device="../../etc"), MalformedMessage),
        (changed(certificate="no certificate"), MalformedMessage),
        (changed(surprise=1), MalformedMessage),
        (lambda *_: (201, b"{}"), MalformedMessage),
        (lambda *_: (201, b"[" * 100_000), FleetError),
        (lambda *_: (201, b"x" * 70_000), InputTooLarge),
        (lambda *_: (409, json.dumps({"code": "claim-used", "detail": "used before"}).encode()), ClaimUsed),
        (lambda *_: (403, json.dumps({"code": "claim-refused", "detail": "unknown"}).encode()), ClaimRefused),
        (lambda *_: (403, json.dumps({"code": "not-allowed", "detail": "no"}).encode()), NotAllowed),
        (lambda *_: (500, b"<html>oops"), RefusedRequest),
        (lambda *_: (302, b""), RefusedRequest),
    ],
)
def test_nothing_wrong_is_believed_or_stored(
    fleet: Fleet, identity: IdentityFolder, answer: Answer, error: type[FleetError]
) -> None:
    fleet.answer = answer
    with pytest.raises(error):
        enrol(fleet, identity)
    assert nothing_stored(identity)


def test_after_a_lost_reply_the_same_keys_ask_again(fleet: Fleet, identity: IdentityFolder) -> None:
    fleet.answer = lambda *_: (503, b"")
    claim = fleet.claim()
    with pytest.raises(RefusedRequest):
        enrol(fleet, identity, claim)
    fleet.answer = honest
    enrol(fleet, identity, claim)
    first, second = (x509.load_der_x509_csr(base64.b64decode(each.csr)) for each in fleet.requests)
    assert first.public_key() == second.public_key()
    assert list(first.extensions) == list(second.extensions)


def test_a_server_that_is_not_there_is_said_to_be_unreachable(identity: IdentityFolder, fleet: Fleet) -> None:
    with pytest.raises(ServerUnreachable, match="does not answer"):
        Enrolment.at("https://127.0.0.1:1", fleet.claim(), "generic-x86_64", identity).run()


def test_a_damaged_key_is_named_and_not_replaced(fleet: Fleet, identity: IdentityFolder) -> None:
    enrol(fleet, identity)
    identity.tls_key.write_bytes(b"damaged")
    with pytest.raises(MalformedConfig, match=r"tls\.key"):
        identity.open()
    assert identity.tls_key.read_bytes() == b"damaged"


@pytest.fixture
def config(tmp_path: Path, fleet: Fleet) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(f'server = "{fleet.url}"\nboard = "generic-x86_64"\nstate_dir = "state"\n')
    return path


def test_the_command_enrols_once_and_then_says_so(fleet: Fleet, config: Path) -> None:
    claim = fleet.claim()
    arguments = ["enrol", "--config", str(config), "--claim-file", "-"]
    first = CliRunner().invoke(main, arguments, input=f"{claim}\n")
    second = CliRunner().invoke(main, arguments, input=f"{claim}\n")
    assert (first.exit_code, first.stdout, first.stderr) == (0, "", "enrolled as cam-7 in fleet acme\n")
    assert (second.exit_code, second.stderr) == (0, "already enrolled as cam-7 in fleet acme\n")
    assert fleet.seen.count(("POST", "/v1/enrol")) == 1


@pytest.mark.parametrize(
    ("claim", "code", "exit_code"),
    [("nonsense", "malformed-claim", 1), (None, "wrong-pin", 1)],
)
def test_the_command_says_what_is_wrong_in_one_line_without_the_secret(
    fleet: Fleet, config: Path, claim: str | None, code: str, exit_code: int
) -> None:
    wrong = fleet.claim(ca_pin=bytes(16))
    result = CliRunner().invoke(
        main, ["enrol", "--config", str(config), "--claim-file", "-"], input=claim or str(wrong)
    )
    assert result.exit_code == exit_code
    assert result.stderr.startswith(f"error [{code}]: ")
    assert result.stderr.count("\n") == 1
    assert str(wrong).split(".")[2] not in result.stderr


def test_the_command_enrols_a_member_again_for_a_new_tls_key_and_keeps_what_it_serves_openable(
    fleet: Fleet, config: Path
) -> None:
    arguments = ["enrol", "--config", str(config), "--claim-file", "-"]
    CliRunner().invoke(main, arguments, input=f"{fleet.claim()}\n")
    folder = IdentityFolder(config.parent / "state")
    hpke, old = folder.open().hpke_key.private_bytes_raw(), Credentials(folder).present().read_certificate()
    Credentials(folder).refuse(Refusal("certificate-expired", "it ended", 1.0))
    before = CliRunner().invoke(main, ["status", "--config", str(config)])

    again = CliRunner().invoke(main, [*arguments, "--replace"], input=f"{fleet.claim()}\n")

    assert (again.exit_code, again.stderr) == (0, "enrolled as cam-7 in fleet acme\n")
    present = Credentials(folder).present()
    assert present.read_certificate().public_key() == present.read_key().public_key() != old.public_key()
    assert folder.open().hpke_key.private_bytes_raw() == hpke
    after = CliRunner().invoke(main, ["status", "--config", str(config)])
    assert f"certificate until {old.not_valid_after_utc:%Y-%m-%d}" in before.stdout
    assert "not renewed [certificate-expired]: it ended" in before.stdout
    assert "not renewed" not in after.stdout
