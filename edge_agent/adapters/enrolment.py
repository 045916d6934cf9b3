"""Enrolment: a claim becomes a certificate (SPEC 9.1). The secret leaves the device only after the CA's pin has matched."""

from __future__ import annotations

import base64
import ssl
import warnings
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import urllib3
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edge_agent.adapters.credentials import Credentials
from edge_agent.adapters.keys import DeviceKeys, IdentityFolder, Membership
from fleet_protocol import renewal, strict_json
from fleet_protocol.claim import (
    DEVICE_URN,
    HPKE_KEY_OID,
    MAX_CSR_BYTES,
    Claim,
    EnrolmentReply,
    EnrolmentRequest,
    encode_secret,
    parse_reply,
)
from fleet_protocol.errors import (
    Conflict,
    FleetError,
    InputTooLarge,
    MalformedConfig,
    MalformedJson,
    MalformedMessage,
    RefusedRequest,
    ServerUnreachable,
    WrongPin,
    all_errors,
)
from fleet_protocol.identifiers import device_id, fleet_id

_TIMEOUT_S: Final = 20.0
_MAX_REPLY_BYTES: Final = 65_536
_MAX_CA_BYTES: Final = 16_384


class FleetServer:
    """The server's enrolment endpoints over HTTPS. ``url``: like ``https://fleet.example:8443``."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def fetch_ca(self) -> x509.Certificate:
        """The fleet CA as the server shows it, not to be believed before its pin is checked. Raises ServerUnreachable."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # nothing can be verified yet: the answer is checked against the claim's pin
        context.verify_mode = ssl.CERT_NONE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            content = self._request("GET", "/v1/ca", context, limit=_MAX_CA_BYTES)
        return parse_ca(content)

    def enrol(self, request: EnrolmentRequest, ca: x509.Certificate) -> EnrolmentReply:
        """Redeem a claim over TLS that trusts ``ca`` and nothing else. Raises the server's own error by its code."""
        body = msgspec.json.encode(request)
        return parse_reply(self._request("POST", "/v1/enrol", _trusting(ca), body, limit=_MAX_REPLY_BYTES))

    def fetch_challenge(self, ca: x509.Certificate) -> renewal.RenewalChallenge:
        """What a renewal has to sign (SPEC 9.3.2). Raises ServerUnreachable or MalformedInput."""
        return renewal.parse_challenge(self._request("GET", "/v1/renew", _trusting(ca), limit=_MAX_REPLY_BYTES))

    def renew(self, request: renewal.RenewalRequest, ca: x509.Certificate) -> renewal.RenewalReply:
        """Ask for the next certificate (SPEC 9.3.3). Raises the server's own error by its code."""
        body = msgspec.json.encode(request)
        return renewal.parse_reply(self._request("POST", "/v1/renew", _trusting(ca), body, limit=_MAX_REPLY_BYTES))

    def _request(
        self, method: str, path: str, context: ssl.SSLContext, body: bytes | None = None, *, limit: int
    ) -> bytes:
        with urllib3.PoolManager(ssl_context=context, retries=False, timeout=_TIMEOUT_S) as pool:
            try:
                response = pool.request(
                    method, self._url + path, body=body, preload_content=False, redirect=False,
                    headers={"Content-Type": "application/json"} if body else None,
                )  # fmt: skip
                content = response.read(limit + 1)
                response.release_conn()
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise ServerUnreachable(f"{self._url} does not answer over TLS: {error}") from error
        if len(content) > limit:
            raise InputTooLarge(f"the server's answer to {path} has more than {limit} bytes")
        if response.status not in {200, 201}:
            raise _refusal(response.status, content)
        return content


class Enrolment:
    """What a device has to believe, in order, before it is a member (SPEC 9.1.2 to 9.1.5)."""

    def __init__(
        self, claim: Claim, board: str, folder: IdentityFolder, server: FleetServer, ca: x509.Certificate | None = None
    ) -> None:
        """``ca``: the fleet CA where the device was given it already; else the server is asked for it."""
        self._claim, self._board, self._folder, self._server, self._ca = claim, board, folder, server, ca

    @classmethod
    def at(cls, url: str, claim: Claim, board: str, folder: IdentityFolder, ca: Path | None = None) -> Self:
        """With the server at ``url`` and the CA's certificate in the file ``ca``, if there is one."""
        return cls(claim, board, folder, FleetServer(url), None if ca is None else _read_ca(ca))

    def run(self) -> Membership:
        """Enrol and keep the identity. Raises WrongPin, ServerUnreachable, MalformedInput or what the server refused."""
        keys = self._folder.make_keys()
        reply, certificate, ca = self._redeem(keys)
        membership = _membership(reply)
        self._folder.store(
            membership,
            certificate=certificate.public_bytes(Encoding.PEM),
            ca=ca.public_bytes(Encoding.PEM),
            root=reply.root.encode("utf-8"),
        )
        return membership

    def run_again(self, member: Membership) -> Membership:
        """Enrol the device that already is ``member`` once more, for a new TLS key (SPEC 9.1.7).

        Its HPKE key stays, so what it serves stays openable; a running agent takes the new certificate up by itself.
        Raises as :meth:`run` does, and Conflict where the claim is for another device; then everything is as it was.
        """
        credentials = Credentials(self._folder)
        keys = DeviceKeys(credentials.next_key(), self._folder.open().hpke_key)
        reply, certificate, _ = self._redeem(keys)
        if (reply.fleet, reply.device) != (member.fleet, member.device):
            raise Conflict(
                f"the claim is for {reply.device} of {reply.fleet}, this is {member.device} of {member.fleet}"
            )
        self._folder.store_membership(_membership(reply))
        credentials.replace(keys.tls, certificate)
        return member

    def _redeem(self, keys: DeviceKeys) -> tuple[EnrolmentReply, x509.Certificate, x509.Certificate]:
        """The server's answer, the device's certificate in it and the CA's, all of it checked."""
        ca = self._ca or self._server.fetch_ca()
        self._claim.check_ca(ca.public_bytes(Encoding.DER))  # SPEC 9.1.2: before the secret is sent
        reply = self._server.enrol(self._request(keys), ca)
        return reply, self._checked(reply, keys, ca), ca

    def _request(self, keys: DeviceKeys) -> EnrolmentRequest:
        return EnrolmentRequest(
            claim_id=self._claim.claim_id,
            secret=encode_secret(self._claim.secret),
            csr=base64.b64encode(signing_request(keys)).decode("ascii"),
            board=self._board,
        )

    def _checked(self, reply: EnrolmentReply, keys: DeviceKeys, ca: x509.Certificate) -> x509.Certificate:
        """Both pins, and the certificate is for this device's own key, by that CA (SPEC 9.1.5)."""
        self._claim.check_root(reply.root.encode("utf-8"))
        try:
            certificate = x509.load_pem_x509_certificate(reply.certificate.encode("ascii"))
            repeated = x509.load_pem_x509_certificate(reply.ca.encode("ascii"))
            certificate.verify_directly_issued_by(ca)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
            raise MalformedMessage("the server's answer does not hold a certificate by the fleet's CA") from error
        self._claim.check_ca(repeated.public_bytes(Encoding.DER))
        if certificate.public_key() != keys.tls.public_key():
            raise WrongPin(
                "the server sent a certificate for another key; the claim may have been used by someone else"
            )
        if names.get_values_for_type(x509.UniformResourceIdentifier) != [DEVICE_URN + reply.device]:
            raise MalformedMessage(f"the certificate does not name the device {reply.device[:80]!r}")
        return certificate


def _membership(reply: EnrolmentReply) -> Membership:
    return Membership(
        fleet=fleet_id(reply.fleet), device=device_id(reply.device),
        broker_host=reply.broker_host, broker_port=reply.broker_port,
    )  # fmt: skip


def _trusting(ca: x509.Certificate) -> ssl.SSLContext:
    """TLS that trusts this CA and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca.public_bytes(Encoding.PEM).decode("ascii"))
    return context


def parse_ca(content: bytes) -> x509.Certificate:
    """A certificate in PEM or DER; raises MalformedMessage."""
    try:
        if content.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except ValueError as error:
        raise MalformedMessage("expected the certificate of the fleet's CA; is the address right?") from error


def _read_ca(path: Path) -> x509.Certificate:
    try:
        return parse_ca(path.read_bytes())
    except OSError as error:
        raise MalformedConfig(f"cannot read the CA that the configuration names: {error}") from error


def signing_request(keys: DeviceKeys) -> bytes:
    """A PKCS#10 request in DER: signed by the TLS key, with the HPKE key inside, so one signature proves both."""
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier(HPKE_KEY_OID), keys.hpke.public_key().public_bytes_raw()
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgefleet device")])  # the server gives the real name
    builder = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(extension, critical=False)
    content = builder.sign(keys.tls, hashes.SHA256()).public_bytes(Encoding.DER)
    if len(content) > MAX_CSR_BYTES:
        raise RuntimeError(f"a signing request has {len(content)} bytes; this is a bug")
    return content


def _refusal(status: int, content: bytes) -> FleetError:
    """The contract's error with the server's code and sentence; RefusedRequest where it said neither."""
    try:
        problem: Any = strict_json.loads(content)
    except (MalformedJson, InputTooLarge):
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    code, sentence = problem.get("code"), problem.get("detail") or problem.get("title")
    kind = next((error for error in all_errors() if error.code == code), RefusedRequest)
    return kind(str(sentence)[:300] if sentence else f"the server refused the request with status {status}")
