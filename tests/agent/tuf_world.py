"""A whole fleet's trust in memory, with real keys: a TUF repository, a director, sealed releases, a broker, a device.

Nothing is pretended that the device checks: metadata is signed and verified by python-tuf, assignments by securesystemslib,
blobs by Cobblestone, keys by HPKE. Tests *change the repository* (or what the broker holds) and run the real updater.
``World.dump`` writes what the broker holds into a folder, for a person to look at.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edge_agent.adapters.slots import BlobStore, verify_blob
from edge_agent.delivery import Limits
from edge_agent.identity import Identity
from edge_agent.inbox import Inbox
from edge_agent.installer import Installer
from edge_agent.intake import Intake
from edge_agent.journal import Journal
from edge_agent.ports import BakeWindow, Proof, SealedModel, Transport
from edge_agent.runner import Runner
from edge_agent.spool import SqliteSpool
from edge_agent.updater import Policy
from fleet_protocol import assignment, envelope, messages, metadata_bundle, topics
from fleet_protocol.errors import BrokerUnreachable, ModelNotLoadable, ProofError, TrustError
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import DeviceId, Digest, FleetId, SlotName, digest_of
from fleet_protocol.manifest import Manifest, slot_of
from fleet_protocol.messages import DeploymentReport, MissingChunks, SlotHealth
from fleet_protocol.states import DeploymentState
from tests.protocol import samples

NOW = 1_796_000_000
DAY = 86_400
FLEET, DEVICE = FleetId("acme"), DeviceId("cam-7")
SLOT = SlotName("textline")
GOOD_BAKE = BakeWindow(frames=100, errors=0, p95_ms=5.0, is_alive=True)
_COMPACT = JSONSerializer(compact=True)


def keys(count: int) -> list[CryptoSigner]:
    return [CryptoSigner.generate_ed25519() for _ in range(count)]


class TufRepository:
    """The release repository: root and targets 2-of-3, ``models`` 2-of-2, snapshot and timestamp online."""

    def __init__(self, now: int = NOW) -> None:
        self._now = now
        self.signers = {
            "root": keys(3), "targets": keys(3), "models": keys(2), "snapshot": keys(1), "timestamp": keys(1),
        }  # fmt: skip
        root = Root(consistent_snapshot=True, expires=self.at(365 * DAY))
        for role in ("root", "targets", "snapshot", "timestamp"):
            for signer in self.signers[role]:
                root.add_key(signer.public_key, role)
        root.roles["root"].threshold = root.roles["targets"].threshold = 2
        targets = Targets(expires=self.at(180 * DAY))
        targets.delegations = Delegations(
            keys={}, roles={"models": DelegatedRole("models", [], 2, terminating=True, paths=["models/*/*"])}
        )
        for signer in self.signers["models"]:
            targets.add_key(signer.public_key, "models")
        self.root, self.targets = Metadata(root), Metadata(targets)
        self.models = Metadata(Targets(expires=self.at(90 * DAY)))
        self.snapshot = Metadata(Snapshot(expires=self.at(7 * DAY)))
        self.timestamp = Metadata(Timestamp(expires=self.at(DAY)))
        self.files: dict[str, bytes] = {}
        self.publish_root()

    def at(self, seconds: float) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._now + seconds, dt.UTC)

    def add(self, path: str, content: bytes, floor: int | None = None) -> None:
        target = TargetFile.from_data(path, content, ["sha256"])
        if floor is not None:
            target.unrecognized_fields["custom"] = {"floor": floor}
        role = self.models if path.startswith("models/") else self.targets
        role.signed.targets[path] = target
        if path.startswith("keys/"):
            folder, _, name = path.rpartition("/")
            self.files[f"{folder}/{target.hashes['sha256']}.{name}"] = content

    def publish_root(self, signers: Sequence[Signer] | None = None) -> None:
        self.files[f"{self.root.signed.version}.root.json"] = sign(self.root, signers or self.signers["root"][:2])

    def publish(self, *roles: str, signed_by: dict[str, list[CryptoSigner]] | None = None) -> None:
        """New versions of ``roles``, then of snapshot and timestamp. ``signed_by``: other signers than the right ones."""
        for role in (*roles, "snapshot", "timestamp"):
            getattr(self, role).signed.version += 1
        self.write(*roles, signed_by=signed_by)

    def write(self, *roles: str, signed_by: dict[str, list[CryptoSigner]] | None = None) -> None:
        """Sign ``roles``, snapshot and timestamp at the versions that they have."""
        signers = self.signers | (signed_by or {})
        for role in roles:
            metadata = getattr(self, role)
            content = sign(metadata, signers[role])
            self.files[f"{metadata.signed.version}.{role}.json"] = content
            self.snapshot.signed.meta[f"{role}.json"] = _described(metadata.signed.version, content)
        content = sign(self.snapshot, signers["snapshot"])
        self.files[f"{self.snapshot.signed.version}.snapshot.json"] = content
        self.timestamp.signed.snapshot_meta = _described(self.snapshot.signed.version, content)
        self.files["timestamp.json"] = sign(self.timestamp, signers["timestamp"])

    def bundle(self) -> bytes:
        return metadata_bundle.pack(self.files)


def sign(metadata: Metadata[Any], signers: Sequence[Signer]) -> bytes:
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(_COMPACT)


def _described(version: int, content: bytes) -> MetaFile:
    return MetaFile(version, len(content), {"sha256": hashlib.sha256(content).hexdigest()})


class Broker:
    """What the real one does for the updater: retained messages, exact subscriptions, a link that can be cut."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.links: list[Link] = []

    def retain(self, topic: str, payload: bytes) -> None:
        self.retained[topic] = payload
        for link in self.links:
            link.offer(topic)


class Link:
    """One device's connection; implements the Transport port."""

    def __init__(self, broker: Broker, inbox: Inbox) -> None:
        self._broker, self._inbox = broker, inbox
        self._topics: set[str] = set()
        self.asked: list[str] = []
        self.is_connected = False
        broker.links.append(self)

    def connect(self) -> None:
        self.is_connected = True
        self._inbox.link(is_up=True)

    def cut(self) -> None:
        self.is_connected = False
        self._topics.clear()
        self._inbox.link(is_up=False)

    def offer(self, topic: str) -> None:
        if self.is_connected and topic in self._topics and topic in self._broker.retained:
            self._inbox.put(topic, self._broker.retained[topic])

    def subscribe(self, topics: Sequence[str]) -> None:
        self.asked += topics
        self._topics |= set(topics)
        for topic in topics:
            self.offer(topic)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        self._topics -= set(topics)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        if not self.is_connected:
            raise BrokerUnreachable("the link is cut")


@dataclass
class SimulatedInference:
    """The Inference port without a runtime: it really decrypts and checks what it is told to serve, then serves a digest.

    ``flaw``: models that do not prove themselves, by version; ``window``: what a bake will show.
    """

    serves: dict[SlotName, SealedModel] = field(default_factory=dict)
    kept: dict[SlotName, SealedModel | None] = field(default_factory=dict)
    staged: dict[SlotName, SealedModel] = field(default_factory=dict)
    flaw: dict[str, ProofError] = field(default_factory=dict)
    window: BakeWindow = GOOD_BAKE

    def serving(self, slot: SlotName) -> Digest | None:
        return self.serves[slot].digest if slot in self.serves else None

    def stage(self, model: SealedModel) -> Proof:
        self._open(model)
        if model.manifest.version in self.flaw:
            raise self.flaw[model.manifest.version]
        self.staged[slot_of(model.manifest)] = model
        return Proof(frames=model.manifest.golden.frames, worst_error=0.0, latency_p95_ms=1.0)

    def switch(self, slot: SlotName) -> None:
        self.kept[slot] = self.serves.get(slot)
        self.serves[slot] = self.staged.pop(slot)

    def bake_window(self, slot: SlotName) -> BakeWindow:
        return self.window

    def commit(self, slot: SlotName) -> None:
        self.kept.pop(slot, None)

    def revert(self, slot: SlotName) -> None:
        if slot in self.kept:
            before = self.kept.pop(slot)
            self.serves.pop(slot)
            if before is not None:
                self.serves[slot] = before

    def serve(self, model: SealedModel) -> None:
        self._open(model)
        self.serves[slot_of(model.manifest)] = model

    def discard(self, slot: SlotName) -> None:
        self.staged.pop(slot, None)

    def stop(self, slot: SlotName) -> None:
        for kind in (self.serves, self.kept, self.staged):
            kind.pop(slot, None)

    def slot_health(self) -> tuple[SlotHealth, ...]:
        return ()

    def close(self) -> None:
        self.serves.clear()

    @staticmethod
    def _open(model: SealedModel) -> None:
        try:
            verify_blob(model, digest_of(model.blob.read_bytes()))
        except (OSError, TrustError) as error:
            raise ModelNotLoadable(f"the blob cannot be opened: {error}") from error


@dataclass
class Clock:
    """The device's clock (which may be wrong) and its monotonic time."""

    unix: float = float(NOW)
    monotonic: float = 1000.0

    def pass_s(self, seconds: float) -> None:
        self.unix += seconds
        self.monotonic += seconds


class World:
    """The fleet's side: repository, director, releases, broker."""

    def __init__(self, now: int = NOW) -> None:
        self._now = now
        self.repository = TufRepository(now)
        self.root = self.repository.files["1.root.json"]
        self.director = keys(1)
        self.hpke = X25519PrivateKey.generate()
        self.broker = Broker()
        self.seq = 0
        self.put_director_keys()
        self.repository.write("targets", "models")
        self.publish_metadata()

    def put_director_keys(self, threshold: int = 1) -> None:
        public = [signer.public_key for signer in self.director]
        self.repository.add(assignment.DIRECTOR_TARGET, assignment.encode_director_keys(public, threshold))

    def publish_metadata(self) -> None:
        self.broker.retain(topics.METADATA, self.repository.bundle())

    def release(
        self, version: str, *, floor: int = 1, model_bytes: int = 200_000, published: bool = True, **changes: Any
    ) -> samples.Sealed:
        """Release a version: signed manifest, sealed blob, manifest and chunks at the broker."""
        fields = {"counter": int(version.partition(".")[0])} | changes
        return self.put(*samples.sample(model_bytes, version=version, **fields), floor=floor, published=published)

    def put(self, made: Manifest, payload: bytes, *, floor: int = 1, published: bool = True) -> samples.Sealed:
        """Release this manifest with its payload."""
        sealed = samples.Sealed(made, payload, self.hpke)
        self.repository.add(made.target_path, sealed.content, floor)
        self.repository.publish("models")
        self.broker.retain(topics.manifest_topic(sealed.digest), sealed.content)
        self.publish_chunks(sealed)
        if published:
            self.publish_metadata()
        return sealed

    def publish_chunks(self, sealed: samples.Sealed, blob: bytes | None = None) -> None:
        content = sealed.blob if blob is None else blob
        for index in range(envelope.message_count(len(sealed.blob))):
            start, end = envelope.message_span(index, len(sealed.blob))
            self.broker.retain(topics.chunk_topic(sealed.blob_digest, index), content[start:end])

    def envelope(self, *items: assignment.Item, signers: Sequence[Signer] | None = None, **changes: Any) -> bytes:
        self.seq += 1
        fields = {"fleet": FLEET, "device": DEVICE, "seq": self.seq, "items": items}
        fields |= {"iat": self._now, "exp": self._now + 7 * DAY}
        return assignment.sign(
            assignment.Assignment(**(fields | changes)), self.director if signers is None else signers
        )

    def assign(self, *releases: samples.Sealed, **changes: Any) -> bytes:
        signed = self.envelope(*(release.item for release in releases), **changes)
        self.broker.retain(topics.ASSIGNMENT.of(DEVICE), signed)
        return signed

    def dump(self, folder: Path) -> None:
        """Everything that the broker holds, as files."""
        for topic, payload in self.broker.retained.items():
            path = folder / topic
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(payload)


class Device:
    """The updater side of an agent over one state folder, driven turn by turn."""

    def __init__(
        self,
        world: World,
        state: Path,
        *,
        clock: Clock | None = None,
        inference: SimulatedInference | None = None,
        journal: type[Journal] = Journal,
        policy: Policy | None = None,
        limits: Limits | None = None,
        reserve_bytes: int = 0,
        slots: tuple[SlotName, ...] = (SLOT,),
        inbox: Inbox | None = None,
        transport: Transport | None = None,
    ) -> None:
        """``transport``: another link than the simulated one; ``inbox``: where it delivers."""
        state.mkdir(parents=True, exist_ok=True)
        self.world, self.state = world, state
        self.clock = clock or Clock()
        self.inference = inference or SimulatedInference()
        self.inbox = inbox or Inbox()
        self.link = Link(world.broker, self.inbox)
        through = transport or self.link
        self.journal, self.loss = journal.open(state)
        self.spool = SqliteSpool(state / "spool.db", 4 * 1024**2)
        self.store = BlobStore(state / "blobs", reserve_bytes)
        identity = Identity(FLEET, DEVICE, world.hpke, world.root)
        self.intake = Intake(
            identity, self.journal, Fingerprint("generic-x86_64", "onnxruntime", "1.28.0", "x86_64"),
            slots=slots, clock=lambda: self.clock.unix, scratch=state / "scratch",
        )  # fmt: skip
        installer = Installer(
            identity, self.journal, self.store, self.inference, through, slots=slots,
            limits=limits or Limits(), monotonic=lambda: self.clock.monotonic,
        )  # fmt: skip
        self.runner = Runner(
            identity, self.journal, self.intake, installer, self.inference, through, self.spool, self.inbox,
            slots=slots, board="generic-x86_64", policy=policy or Policy(bake_s=5.0, metadata_wait_s=0.0),
            monotonic=lambda: self.clock.monotonic,
        )  # fmt: skip

    def start(self) -> Device:
        self.runner.boot()
        self.link.connect()
        return self

    def turn(self, seconds: float = 0.6) -> None:
        """Everything that has come, then the time."""
        while self.runner.turn(0):
            pass
        self.clock.pass_s(seconds)
        self.runner.turn(0)

    def run(self, seconds: float = 30.0) -> Device:
        """Let so much simulated time pass."""
        end = self.clock.monotonic + seconds
        while self.clock.monotonic < end:
            self.turn()
        return self

    def close(self) -> None:
        self.link.is_connected = False
        self.journal.close()
        self.spool.close()

    # --- what can be seen ---------------------------------------------------------------------------------------------
    @property
    def serves(self) -> str | None:
        """Version of the model that the slot serves."""
        model = self.inference.serves.get(SLOT)
        return model.manifest.version if model else None

    def reports(self) -> list[DeploymentReport]:
        topic = topics.DEPLOYMENT.of(DEVICE)
        spooled = [each for each in self.spool.oldest(10_000) if each.topic == topic]
        return [messages.decode(each.payload, DeploymentReport) for each in spooled]

    def missing(self) -> list[MissingChunks]:
        topic = topics.MISSING.of(DEVICE)
        spooled = [each for each in self.spool.oldest(10_000) if each.topic == topic]
        return [messages.decode(each.payload, MissingChunks) for each in spooled]

    def states(self, execution: int | None = None) -> list[DeploymentState]:
        """States reported, repetitions by version left out."""
        seen = {(each.execution, each.version): each.state for each in self.reports()}
        return [state for (number, _), state in sorted(seen.items()) if execution in {None, number}]

    @property
    def last(self) -> DeploymentReport:
        return max(self.reports(), key=lambda each: (each.execution, each.version))

    @property
    def refusal(self) -> str | None:
        """Code of the last message that was not believed."""
        refusal = self.journal.refusal
        return refusal.code if refusal else None

    def blobs(self) -> set[str]:
        return {path.name for path in (self.state / "blobs").iterdir()}

    def remembered(self) -> bytes:
        """Everything that may only grow, to compare."""
        return msgspec.json.encode(self.journal.remembered)
