"""Builders for the server's tests: a device with its keys, a signed release, a clock that only tests move."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from securesystemslib.signer import Signer
from sqlalchemy import select

from fleet_protocol import package as packages
from fleet_protocol.claim import HPKE_KEY_OID, Claim, EnrolmentReply, EnrolmentRequest, encode_secret
from fleet_protocol.identifiers import BoardName, DeviceId
from fleet_protocol.package import ModelPackage
from fleet_server.adapters.ca import new_key, private_pem
from fleet_server.ceremony import Founding
from fleet_server.db.models import Release, Variant
from fleet_server.fleet import Fleet
from fleet_server.release_signing import add_release, load_signer
from tests.protocol import samples

NOW = 1_790_000_000.0
BOARD = BoardName("generic-x86_64")


@dataclass(slots=True)
class SteppedClock:
    """Unix seconds that stand still until a test moves them."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(slots=True)
class DeviceKit:
    """A device's keys, and once enrolled its reply."""

    id: DeviceId
    tls: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    hpke: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    reply: EnrolmentReply | None = None

    def csr(self, name: str = "whatever", extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()) -> bytes:
        hpke = x509.UnrecognizedExtension(
            x509.ObjectIdentifier(HPKE_KEY_OID), self.hpke.public_key().public_bytes_raw()
        )
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(hpke, critical=False)
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, critical=is_critical)
        return builder.sign(self.tls, hashes.SHA256()).public_bytes(Encoding.DER)

    def request(self, claim: Claim, csr: bytes | None = None, board: str = BOARD) -> EnrolmentRequest:
        encoded = base64.b64encode(self.csr() if csr is None else csr).decode()
        return EnrolmentRequest(claim.claim_id, encode_secret(claim.secret), encoded, board)

    def write_identity(self, directory: Path) -> tuple[Path, Path]:
        """Certificate and key as files, for an MQTT client."""
        assert self.reply is not None
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = directory / f"{self.id}.pem", directory / f"{self.id}.key"
        certificate.write_text(self.reply.certificate)
        key.write_bytes(private_pem(self.tls))
        return certificate, key


def enrol(fleet: Fleet, name: str, board: BoardName = BOARD) -> DeviceKit:
    """A new member of the fleet."""
    device = DeviceKit(DeviceId(name))
    claim = fleet.enrolment.create_claim(device.id, board, 3600, "tester")
    device.reply = fleet.enrolment.enrol(device.request(claim, board=board), fleet.clock())
    return device


def write_package(path: Path, **changes: object) -> ModelPackage:
    """A package file with one sample variant; ``changes`` go into its manifest."""
    with path.open("wb") as stream:
        packages.write(stream, [samples.sample(**changes)])
    return packages.read(io.BytesIO(path.read_bytes()))


def release_signers(founding: Founding) -> list[Signer]:
    return [load_signer(founding.offline / f"models-{who}.pem") for who in ("ci", "person")]


def signed(fleet: Fleet, founding: Founding, package: ModelPackage, floor: int = 1) -> bytes:
    """New models.json that releases ``package``, signed as a release engineer does."""
    now = datetime.fromtimestamp(fleet.clock(), UTC)
    return add_release(fleet.tuf.models(), package, release_signers(founding), floor=floor, now=now)


def release(fleet: Fleet, founding: Founding, directory: Path, **changes: object) -> Release:
    """Release a sample package; ``changes`` go into its manifest."""
    path = directory / f"{changes.get('version', 'package')}.efpkg"
    package = write_package(path, **changes)
    return fleet.releases.create(path, signed(fleet, founding, package), "tester")


def manifest_of(fleet: Fleet, made: Release) -> str:
    """Digest of a release's first variant."""
    with fleet.readers() as session:
        found = session.scalar(select(Variant.manifest_sha256).where(Variant.release_id == made.id))
    assert found is not None
    return found
