"""What the server's parts ask of each other and of the world. Only ``app.py`` knows the concrete classes behind these."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fleet_protocol.identifiers import DeviceId, Digest
from fleet_protocol.topics import DeviceTopic
from fleet_server.services.sealing import SealedBlob
from fleet_server.tuf_metadata import CheckedModels

Clock = Callable[[], float]
"""Unix seconds."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message as the broker delivered it: who and what from the topic, the bytes not yet parsed."""

    device: DeviceId
    topic: DeviceTopic
    payload: bytes
    is_json: bool


class Broker(Protocol):
    """The broker as the server's publisher needs it."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Returns once the broker has acknowledged; raises BrokerUnreachable. An empty retained payload clears a topic."""
        ...

    def publish_many(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish retained messages (topic, payload) with QoS 1, many in flight; returns once all are acknowledged.

        Raises BrokerUnreachable; then any part of them may have been published (publishing again is harmless).
        """
        ...

    @property
    def is_connected(self) -> bool: ...


class Authority(Protocol):
    """The fleet's certificate authority as enrolment needs it."""

    @property
    def certificate_der(self) -> bytes: ...

    @property
    def certificate_pem(self) -> bytes: ...

    def issue_device(self, key: ec.EllipticCurvePublicKey, device: DeviceId, now_s: float) -> x509.Certificate:
        """A short-lived client certificate that names the device and grants nothing else."""
        ...

    def issue_again(self, key: ec.EllipticCurvePublicKey, device: DeviceId, serial: str) -> x509.Certificate:
        """The certificate that ``issue_device`` made with this serial number (hexadecimal), once more."""
        ...


class SignedMetadata(Protocol):
    """The fleet's TUF metadata as the services need it."""

    def root(self) -> bytes:
        """The newest root, as it was signed."""
        ...

    def check_models(self, content: bytes, now_s: float) -> CheckedModels:
        """Believe new ``models.json`` or raise UntrustedMetadata, ExpiredMetadata, InputTooLarge or Conflict."""
        ...

    def publish_models(self, checked: CheckedModels, now_s: float) -> None:
        """Make it the current one, vouched for by the online roles; raises Conflict where another came first."""
        ...


class Blobs(Protocol):
    """The store of sealed payloads."""

    def seal(self, payload: Iterable[bytes], manifest: Digest) -> SealedBlob:
        """Encrypt a payload under a fresh content key and keep the ciphertext."""
        ...

    def read(self, blob: Digest, start: int, end: int) -> bytes:
        """Bytes ``start`` up to ``end`` of a blob; raises FileNotFoundError where it is not in the store."""
        ...

    def sweep(self, kept: Collection[Digest]) -> int:
        """Remove every file but ``kept``; how many there were."""
        ...

    def remove(self, blob: Digest) -> None:
        """Forget a blob. Safe to call twice."""
        ...


class BrokerAccess(Protocol):
    """The broker's rights, and the sessions that hold them."""

    def write_access(self, denied: Collection[DeviceId]) -> None:
        """From now on ``denied`` devices have no rights; everybody else has the contract's."""
        ...

    def end_session(self, device: DeviceId) -> None:
        """Disconnect a device that may still be connected; raises BrokerUnreachable."""
        ...


class Bundle(Protocol):
    """The metadata bundle. ``revision`` grows with every change of it while the process lives, from 1."""

    @property
    def revision(self) -> int: ...

    def bundle(self) -> bytes:
        """All metadata as one message (SPEC 4.4)."""
        ...


class RetainedJournal(Protocol):
    """Which artifacts the broker may retain, over restarts of server and broker."""

    def remember(self, manifest: Digest, blob: Digest, blob_bytes: int) -> None:
        """Durable when this returns."""
        ...

    def forget(self, manifest: Digest) -> None:
        """The artifact's topics were cleared."""
        ...

    def remembered(self) -> list[tuple[Digest, Digest, int]]:
        """Manifest, blob and the blob's length of each."""
        ...
