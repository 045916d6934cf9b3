"""The device's identity on disk: private keys that never leave it, and what enrolment brought (SPEC 9.1).

identity/            0700
  tls.key            0600  P-256, PKCS#8 PEM: proves the device to the broker
  hpke.key           0600  X25519, PKCS#8 PEM: opens content keys
  certificate.pem, ca.pem, root.json
  identity.json      written last: where it stands, the device is enrolled

Renewal (SPEC 9.3) keeps a key and its certificate in one file, so that no power cut leaves one of each:

  next.key           0600  the new key while the server is asked: a lost reply is asked for again with the same one
  next.pem           0600  new key and certificate, until the broker has accepted the device with them
  pair.pem           0600  the renewed pair; where it stands, tls.key and certificate.pem are not used any more
  refusal.json             why the server did not renew, until it does
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edge_agent.errors import NotEnrolled
from edge_agent.files import write_durably
from edge_agent.identity import Identity
from fleet_protocol.errors import MalformedConfig
from fleet_protocol.identifiers import device_id, fleet_id

_PUBLIC: Final = 0o644
DeviceKey = ec.EllipticCurvePrivateKey | X25519PrivateKey


class Membership(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``identity.json``: who the device is, and where its broker is."""

    fleet: str
    device: str
    broker_host: str
    broker_port: int


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """The two private keys of a device."""

    tls: ec.EllipticCurvePrivateKey = field(repr=False)
    hpke: X25519PrivateKey = field(repr=False)


class IdentityFolder:
    """The folder ``identity`` in the agent's state."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "identity"
        self.tls_key = self._folder / "tls.key"
        self.certificate = self._folder / "certificate.pem"
        self.ca = self._folder / "ca.pem"
        self.pair = self._folder / "pair.pem"
        self._hpke_key = self._folder / "hpke.key"
        self._root = self._folder / "root.json"
        self._membership = self._folder / "identity.json"

    def membership(self) -> Membership | None:
        """Who this device is; None before enrolment. Raises MalformedConfig where the file is damaged."""
        try:
            return msgspec.json.decode(self._membership.read_bytes(), type=Membership)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise MalformedConfig(f"{self._membership.name} is damaged; enrol this device again: {error}") from error

    def make_keys(self) -> DeviceKeys:
        """The device's keys, made at the first call and the same ever after, so a lost reply can be asked for again."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        return DeviceKeys(
            self._kept(self.tls_key, lambda: ec.generate_private_key(ec.SECP256R1()), ec.EllipticCurvePrivateKey),
            self._kept(self._hpke_key, X25519PrivateKey.generate, X25519PrivateKey),
        )

    def store(self, membership: Membership, *, certificate: bytes, ca: bytes, root: bytes) -> None:
        """Keep what enrolment brought. ``identity.json`` last: a power cut before it only means to enrol again."""
        write_durably(self.certificate, certificate, _PUBLIC)
        write_durably(self.ca, ca, _PUBLIC)
        write_durably(self._root, root, _PUBLIC)
        self.store_membership(membership)

    def store_membership(self, membership: Membership) -> None:
        """Keep who the device is and where its broker is."""
        write_durably(self._membership, msgspec.json.format(msgspec.json.encode(membership)), _PUBLIC)

    def open(self) -> Identity:
        """The identity of an enrolled device; raises NotEnrolled or MalformedConfig."""
        membership = self.membership()
        if membership is None:
            raise NotEnrolled("this device is not enrolled; run edge-agent enrol with a claim first")
        try:
            root = self._root.read_bytes()
        except OSError as error:
            raise MalformedConfig(f"{self._root.name} cannot be read; enrol this device again") from error
        if not self.pair.exists():
            _load(self.tls_key, ec.EllipticCurvePrivateKey)
        hpke = _load(self._hpke_key, X25519PrivateKey)
        return Identity(fleet_id(membership.fleet), device_id(membership.device), hpke, root)

    def _kept(self, path: Path, generate: Callable[[], DeviceKey], kind: Any) -> Any:
        if not path.exists():
            write_durably(path, generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return _load(path, kind)


def _load(path: Path, kind: Any) -> Any:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise MalformedConfig(f"{path.name} cannot be read; remove it and enrol this device again") from error
    if not isinstance(key, kind):
        raise MalformedConfig(f"{path.name} holds another kind of key; remove it and enrol this device again")
    return key
