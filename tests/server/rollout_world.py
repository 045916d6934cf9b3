"""A registry with real services and simulated devices around it: no broker, no sleep, one clock that only tests move."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet_protocol import envelope
from fleet_protocol.assignment import decode as decode_assignment
from fleet_protocol.assignment import verified_payload
from fleet_protocol.errors import GoldenFramesDiffer
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import DeviceId, Digest, SlotName, bucket_of, digest_of
from fleet_protocol.messages import DeploymentReport, HealthReport, Message, SlotHealth, encode
from fleet_protocol.sketch import Sketch
from fleet_protocol.states import DeploymentState
from fleet_protocol.topics import DEPLOYMENT, HEALTH
from fleet_server.changes import ChangeFeed
from fleet_server.db.models import Assignment, Base, Desired, Device, Release, Rollout, RolloutDevice, Variant, Wave
from fleet_server.db.session import Registry, open_registry
from fleet_server.ports import Incoming
from fleet_server.rollout import policy as policies
from fleet_server.services.assignments import Assignments
from fleet_server.services.ingest import Ingest, Ingested
from fleet_server.services.rollout_rows import Assigner
from fleet_server.services.rollouts import Rollouts
from fleet_server.services.sealing import ContentKeys
from tests.protocol import samples

NOW = 1_790_000_000.0
SLOT = SlotName("textline")
S = DeploymentState
ROAD = (
    S.OFFERED, S.PREFLIGHT, S.DOWNLOADING, S.VERIFIED, S.STAGED, S.SELFTEST, S.SWITCHING, S.BAKING, S.COMMITTED,
)  # fmt: skip


class PowerCut(BaseException):
    """The server's process ends here."""


@dataclass(slots=True)
class CutAssigner:
    """The real assigner in a process that may end at any of its calls. ``calls_left`` None: it lives."""

    real: Assigner
    calls_left: int | None = None

    def _live_or_die(self) -> None:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise PowerCut

    def set_desired(
        self,
        session: Session,
        device_id: DeviceId,
        slot: SlotName,
        manifest_sha256: Digest | None,
        rollout_id: int | None,
        now: float,
    ) -> None:
        self._live_or_die()
        self.real.set_desired(session, device_id, slot, manifest_sha256, rollout_id, now)

    def issue(self, session: Session, device_id: DeviceId, now: float) -> int:
        self._live_or_die()
        seq = self.real.issue(session, device_id, now)
        self._live_or_die()
        return seq


class Fate(Enum):
    """What becomes of a device that is to serve a certain manifest."""

    SERVES = auto()
    FAILS_GOLDEN_FRAMES = auto()
    FAILS_IN_BAKE = auto()
    GOES_SILENT = auto()
    NEVER_HEARD_OF = auto()
    SAYS_COMMITTED_BUT_SERVES_OLD = auto()
    FALLS_BACK_LATER = auto()


@dataclass(slots=True)
class SimulatedDevice:
    """A device as the contract has it: follows the state table, numbers its reports, says in each heartbeat what it serves.

    Pure: told what it is assigned, asked what it says. ``fates``: by manifest digest, SERVES where it is not named.
    """

    id: DeviceId
    fates: Mapping[str, Fate] = field(default_factory=dict)
    served: str = ""
    accepted_seq: int = 0
    execution: int = 0
    version: int = 0
    state: DeploymentState = S.COMMITTED
    target: str = ""
    before: str = ""
    health_seq: int = 0
    served_for: int = 0
    is_dead: bool = False

    @property
    def fate(self) -> Fate:
        return self.fates.get(self.target, Fate.SERVES)

    def receive(self, seq: int, manifest: str) -> None:
        """A new retained assignment; ``manifest`` empty: the slot is no longer named. Older ones are refused."""
        if seq <= self.accepted_seq or self.is_dead:
            return
        self.accepted_seq, self.execution, self.version = seq, self.execution + 1, 0
        if self.state in {S.SWITCHING, S.BAKING}:
            self.served = self.before  # what was on trial goes
        self.target, self.state, self.served_for = manifest, S.IDLE, 0
        self.before = self.served
        if not manifest:
            self.served, self.state = "", S.COMMITTED

    def act(self, at: float) -> list[Message]:
        """One step along the road, and what is said about it."""
        if self.is_dead or not self.target:
            return []
        if self.fate is Fate.NEVER_HEARD_OF or (self.fate is Fate.GOES_SILENT and self.state is S.SELFTEST):
            self.is_dead = True
            return []
        if self.state is S.COMMITTED and self.fate is Fate.FALLS_BACK_LATER:
            self.served_for += 1
            if self.served_for == 4:
                self.served = self.before
        step = self._next()
        if step is None:
            return []
        self.state, self.version = step, self.version + 1
        if step is S.SWITCHING:
            self.served = self.target
        if step is S.ROLLED_BACK:
            self.served = self.before
        if step is S.COMMITTED and self.fate is Fate.SAYS_COMMITTED_BUT_SERVES_OLD:
            self.served = self.before
        return [self.report(at)]

    def _next(self) -> DeploymentState | None:
        if self.state is S.IDLE:
            return S.OFFERED
        if self.state is S.PREFLIGHT and self.served == self.target:
            return S.COMMITTED
        if self.state is S.SELFTEST and self.fate is Fate.FAILS_GOLDEN_FRAMES:
            return S.FAILED
        if self.state is S.BAKING and self.fate is Fate.FAILS_IN_BAKE:
            return S.ROLLED_BACK
        if self.state not in ROAD or self.state is S.COMMITTED:
            return None
        return ROAD[ROAD.index(self.state) + 1]

    def report(self, at: float) -> DeploymentReport:
        """The newest report of the present execution."""
        is_failure = self.state in {S.FAILED, S.ROLLED_BACK}
        return DeploymentReport(
            assignment_seq=self.accepted_seq,
            execution=self.execution,
            version=self.version,
            slot=SLOT,
            manifest_sha256=self.target,
            state=self.state,
            at=at,
            code=GoldenFramesDiffer.code if is_failure else "",
            detail="frame 3 differs" if is_failure else "",
            served_sha256=self.served,
        )

    def heartbeat(self, at: float) -> HealthReport | None:
        """What it serves now; None: nothing is heard of it any more."""
        if self.is_dead:
            return None
        self.health_seq += 1
        return health(seq=self.health_seq, at=at, served=self.served, assignment_seq=self.accepted_seq)


def health(*, seq: int, at: float, served: str, assignment_seq: int, slot: str = SLOT) -> HealthReport:
    sketch = Sketch()
    sketch.add(4.0)
    return HealthReport(
        seq=seq, at=at, boot_id="b", agent_version="0.1.0", fingerprint=samples.FINGERPRINT, uptime_s=1.0,
        cpu_percent=12.5, memory_used_bytes=1, memory_total_bytes=2, agent_rss_bytes=1, disk_free_bytes=1,
        temperature_celsius=None, assignment_seq=assignment_seq, root_version=1, timestamp_version=1, trusted_time=at,
        clock_offset_s=0.0, spool_depth=0, spool_dropped=0,
        slots=(
            SlotHealth(
                slot=slot, served_sha256=served, model="orientation", version="1.0.0", frames=1, errors=0, dropped=0,
                fps=1.0, latency=sketch.encode(),
            ),
        ),
    )  # fmt: skip


def incoming(device: str, message: Message) -> Incoming:
    topic = HEALTH if isinstance(message, HealthReport) else DEPLOYMENT
    return Incoming(DeviceId(device), topic, encode(message), is_json=False)


class World:
    """One server over one registry file; :meth:`restart` is a new process over the same file."""

    def __init__(self, path: Path, *, actions_per_transaction: int = 200) -> None:
        self.path = path
        self.now = NOW
        self.actions_per_transaction = actions_per_transaction
        self.director = samples.Director()
        self.keys = ContentKeys(b"k" * 32)
        self.devices: dict[str, SimulatedDevice] = {}
        self.hpke = X25519PrivateKey.generate()
        self.restart()
        Base.metadata.create_all(self.registry.engine)

    def restart(self) -> None:
        """What was in memory is gone; what was committed is there."""
        if hasattr(self, "registry"):
            self.registry.close()
        self.registry: Registry = open_registry(f"sqlite:///{self.path / 'fleet.db'}")
        self.assigner = CutAssigner(Assignments(samples.FLEET, self.director.signer, self.keys))
        self.changes = ChangeFeed()
        self.ingest = Ingest(self.registry.sessions, self.changes)
        self.rollouts = Rollouts(
            self.registry.sessions,
            self.registry.readers,
            self.assigner,
            self.changes,
            lambda: self.now,
            actions_per_transaction=self.actions_per_transaction,
        )

    def close(self) -> None:
        self.registry.close()

    def copy(self, path: Path) -> World:
        """A second world with the same past, in an empty directory; this one must be closed."""
        path.mkdir()
        shutil.copyfile(self.path / "fleet.db", path / "fleet.db")
        twin = copy.copy(self)
        twin.path, twin.devices = path, copy.deepcopy(self.devices)
        twin.restart()
        return twin

    # --- what is there -----------------------------------------------------------------------------------------------
    def enrol(
        self,
        *names: str,
        tags: Mapping[str, str] | None = None,
        fingerprint: Fingerprint | None = samples.FINGERPRINT,
        fates: Mapping[str, Fate] | None = None,
    ) -> None:
        """Devices of the board ``generic-x86_64`` that have reported ``fingerprint``."""
        measured = (
            None
            if fingerprint is None
            else {each: getattr(fingerprint, each) for each in fingerprint.__struct_fields__}
        )
        with self.registry.sessions.begin() as session:
            for name in names:
                self.devices[name] = SimulatedDevice(DeviceId(name), fates or {})
                session.add(
                    Device(
                        id=name, bucket=bucket_of(DeviceId(name)), board="generic-x86_64", tags=dict(tags or {}),
                        enrolled_at=self.now, tls_spki=b"", hpke_key=self.hpke.public_key().public_bytes_raw(),
                        serial="1", fingerprint=measured,
                    )
                )  # fmt: skip

    def release(
        self, version: str, counter: int, slot: str = SLOT, boards: tuple[str, ...] = ("generic-x86_64",)
    ) -> int:
        """A release with one variant, its key sealed; the blob's bytes are no matter here."""
        golden = samples.manifest().golden
        made = samples.manifest(
            version=version, counter=counter, slot=slot, boards=boards,
golden=msgspec.structs.replace(golden, latency_budget_ms=dict.fromkeys(boards, 100.0)),
        )  # fmt: skip
        content = made.encode()
        manifest, blob = digest_of(content), digest_of(b"blob of " + content)
        with self.registry.sessions.begin() as session:
            release = Release(
                model="orientation", version=version, slot=slot, counter=counter, created_at=self.now, created_by="ci"
            )
            session.add(release)
            session.flush()
            session.add(
                Variant(
                    manifest_sha256=manifest, release_id=release.id, name=made.variant, position=0,
                    target_path=made.target_path, manifest=content, blob_sha256=blob, blob_bytes=41_000,
                    sealed_key=self.keys.protect(envelope.generate_key(), manifest, blob),
                )
            )  # fmt: skip
            return release.id

    def manifest_of(self, release_id: int) -> str:
        with self.registry.readers() as session:
            return session.scalars(select(Variant.manifest_sha256).where(Variant.release_id == release_id)).one()

    def begin(self, release_id: int, selector: str = "all", **policy: object) -> int:
        """Create and start a rollout; its id."""
        made = self.rollouts.create(release_id, selector, self.policy(**policy), "because", "ada", salt=0)
        self.rollouts.start(made.id, "ada", "go")
        return made.id

    @staticmethod
    def policy(**changes: object) -> policies.Policy:
        waves = changes.pop("waves", "1,100%")
        plain = [{"title": wave.title, "size": wave.size} for wave in policies.parse_waves(str(waves))]
        return policies.parse({"waves": plain, "bake_s": 10.0} | changes)

    # --- what is known -----------------------------------------------------------------------------------------------
    def rollout(self, rollout_id: int) -> Rollout:
        with self.registry.readers() as session:
            return session.get_one(Rollout, rollout_id)

    def waves(self, rollout_id: int) -> Sequence[Wave]:
        with self.registry.readers() as session:
            return session.scalars(select(Wave).where(Wave.rollout_id == rollout_id).order_by(Wave.number)).all()

    def wave_states(self, rollout_id: int) -> list[str]:
        return [wave.state for wave in self.waves(rollout_id)]

    def rows(self, rollout_id: int) -> dict[str, RolloutDevice]:
        with self.registry.readers() as session:
            rows = session.scalars(select(RolloutDevice).where(RolloutDevice.rollout_id == rollout_id))
            return {row.device_id: row for row in rows}

    def desired(self) -> dict[str, str]:
        with self.registry.readers() as session:
            return {row.device_id: row.manifest_sha256 for row in session.scalars(select(Desired))}

    # --- what happens ------------------------------------------------------------------------------------------------
    def say(self, device: str, message: Message) -> Ingested:
        return self.ingest.apply([incoming(device, message)], self.now)

    def deliver(self) -> None:
        """The broker's retained assignments reach every device that listens."""
        with self.registry.readers() as session:
            signed = session.execute(select(Assignment.device_id, Assignment.seq, Assignment.envelope)).all()
        for device, seq, content in signed:
            if seq > self.devices[device].accepted_seq:
                statement = decode_assignment(verified_payload(content, self.director.keys))
                assert (statement.device, statement.seq) == (device, seq)
                manifests = {item.slot: item.target_sha256 for item in statement.items}
                self.devices[device].receive(statement.seq, manifests.get(SLOT, ""))

    def spoken(self, *, heartbeats: bool = True) -> list[Incoming]:
        """What all devices have to say in one step, in order."""
        said: list[Incoming] = []
        for device in self.devices.values():
            said.extend(incoming(device.id, message) for message in device.act(self.now))
            beat = device.heartbeat(self.now) if heartbeats else None
            if beat is not None:
                said.append(incoming(device.id, beat))
        return said

    def turn(self, *, seconds: float = 5.0, heartbeats: bool = True) -> None:
        """Time passes, devices act and speak, the server listens and decides, assignments go out."""
        self.now += seconds
        self.listen(self.spoken(heartbeats=heartbeats))
        self.rollouts.tick(self.now)
        self.deliver()

    def listen(self, said: Iterable[Incoming]) -> None:
        batch = list(said)
        for first in range(0, len(batch), 500):
            self.ingest.apply(batch[first : first + 500], self.now)

    def turn_until(self, rollout_id: int, *states: str, turns: int = 400) -> None:
        """Turn until the rollout is in one of ``states``; fails with the whole picture after ``turns``."""
        for _ in range(turns):
            if self.rollout(rollout_id).state in states:
                return
            self.turn()
        raise AssertionError(self.picture(rollout_id))

    def turn_until_wave(self, rollout_id: int, number: int, *states: str, turns: int = 400) -> None:
        for _ in range(turns):
            if self.waves(rollout_id)[number - 1].state in states:
                return
            self.turn()
        raise AssertionError(self.picture(rollout_id))

    def picture(self, rollout_id: int) -> str:
        """Everything a person needs to see why a test failed."""
        lines = [f"rollout {self.rollout(rollout_id).state} at {self.now - NOW:g} s"]
        lines += [f"wave {wave.number} {wave.state} {wave.verdict}" for wave in self.waves(rollout_id)]
        rows = self.rows(rollout_id).items()
        lines += [
            f"{name} wave {row.wave} {row.state} {row.code} {row.confirmed_at} {row.restored_at}" for name, row in rows
        ]
        return "\n".join(lines[:40])

    def serve_everywhere(self, release_id: int) -> None:
        """Bring a first release to every device, as a fleet has it before the story of a test begins."""
        rollout = self.begin(release_id, waves="100%", bake_s=0.0)
        self.turn_until(rollout, "FINISHED")


def scatter(rng: random.Random, said: list[Incoming], *, lost: float, doubled: float) -> list[Incoming]:
    """What a bad network makes of ``said``: some lost for ever, some twice; the order stays, as a broker keeps it."""
    heard: list[Incoming] = []
    for each in said:
        if rng.random() >= lost:
            heard.extend([each] * (2 if rng.random() < doubled else 1))
    return heard
