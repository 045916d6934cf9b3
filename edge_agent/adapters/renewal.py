"""Asking the server for the next certificate (SPEC 9.3), and believing the answer only where it is for this device's key."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.adapters.credentials import Credential
from edge_agent.adapters.enrolment import FleetServer, parse_ca, signing_request
from edge_agent.adapters.keys import DeviceKeys, IdentityFolder
from edge_agent.identity import Identity
from fleet_protocol import renewal as wire
from fleet_protocol.claim import DEVICE_URN
from fleet_protocol.errors import MalformedConfig, MalformedMessage


class RenewalClient:
    """Implements :class:`edge_agent.renewer.Issuer` over HTTPS; trusts the CA of the enrolment and nothing else."""

    def __init__(self, server: FleetServer, folder: IdentityFolder, identity: Identity) -> None:
        self._server, self._folder, self._identity = server, folder, identity

    def issue(self, present: Credential, new: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """See the port."""
        ca = self._read_ca()
        fleet, device = self._identity.fleet, self._identity.device
        csr = signing_request(DeviceKeys(new, self._identity.hpke_key))
        challenge = self._server.fetch_challenge(ca).challenge
        request = wire.RenewalRequest(
            certificate=wire.encode(present.read_certificate().public_bytes(Encoding.DER)),
            csr=wire.encode(csr),
            challenge=challenge,
            signature=wire.encode(wire.sign(present.read_key(), fleet, device, csr, challenge)),
        )
        return _checked(self._server.renew(request, ca), new, ca, DEVICE_URN + device)

    def _read_ca(self) -> x509.Certificate:
        try:
            return parse_ca(self._folder.ca.read_bytes())
        except OSError as error:
            raise MalformedConfig(f"{self._folder.ca.name} cannot be read; enrol this device again") from error


def _checked(
    reply: wire.RenewalReply, new: ec.EllipticCurvePrivateKey, ca: x509.Certificate, name: str
) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(reply.certificate.encode("ascii"))
        certificate.verify_directly_issued_by(ca)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise MalformedMessage("the server's answer does not hold a certificate by the fleet's CA") from error
    if certificate.public_key() != new.public_key():
        raise MalformedMessage("the server sent a certificate for another key")
    if names.get_values_for_type(x509.UniformResourceIdentifier) != [name]:
        raise MalformedMessage("the server sent a certificate that does not name this device")
    return certificate
