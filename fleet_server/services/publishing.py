"""Keeping at the broker what devices need: the metadata bundle, the artifacts that assignments name, the assignments.

The broker is not the store. Everything here can be published again from the registry and the blob files, and is, whenever
the broker was replaced. Artifacts go before the assignments that name them, so a device never asks for what is not there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from fleet_protocol import envelope, topics
from fleet_protocol.errors import DeviceRevoked
from fleet_protocol.identifiers import DeviceId, Digest
from fleet_protocol.messages import MissingChunks
from fleet_server.db.models import Desired, Device, Variant
from fleet_server.ports import Blobs, Broker, Bundle, Clock, RetainedJournal
from fleet_server.services.assignments import Assignments

log = logging.getLogger(__name__)

BATCH: Final = 500
"""Assignments signed and sent in one go: about 0.1 s of signing."""
RECHECK_S: Final = 10.0
"""How often the live artifacts are looked up although nothing was assigned."""
ISSUE_EVERY_S: Final = 1.0
"""How often the registry is asked who is due for a new assignment."""
RESEND_EVERY_S: Final = 3.0
"""A chunk is not published again sooner: many devices miss the same one at the same time, one answer serves all."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One variant as the broker retains it: the manifest's message, and the blob's in ``blob_bytes``."""

    manifest: Digest
    blob: Digest
    blob_bytes: int

    @property
    def topics(self) -> Iterator[str]:
        """Every topic that it takes."""
        for index in range(envelope.message_count(self.blob_bytes)):
            yield topics.chunk_topic(self.blob, index)
        yield topics.manifest_topic(self.manifest)


@dataclass(slots=True)
class _Retained:
    """What this broker process is known to retain."""

    generation: int = 0
    bundle: int = 0
    artifacts: set[Artifact] = field(default_factory=set)
    rechecked_at: float = 0.0
    issued_at: float = 0.0


class Publisher:
    """One instance, one thread: :meth:`step` brings the broker to what the registry wants; :meth:`resend` repeats chunks."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        readers: sessionmaker[Session],
        assignments: Assignments,
        bundle: Bundle,
        blobs: Blobs,
        broker: Broker,
        journal: RetainedJournal,
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._readers = readers
        self._assignments = assignments
        self._bundle = bundle
        self._blobs = blobs
        self._broker = broker
        self._journal = journal
        self._clock = clock
        self._retained = _Retained()
        self._resent: dict[tuple[Digest, int], float] = {}

    def step(self, generation: int) -> int:
        """Publish what is not at the broker; ``generation`` numbers the broker's process. How many messages went out.

        Raises BrokerUnreachable or FleetError; whatever was not acknowledged is sent by a later step.
        """
        if generation != self._retained.generation:
            self._forget(generation)
        sent = self._send_bundle()
        now = self._clock()
        self._issue_due(now)
        with self._readers() as session:
            unsent = self._assignments.unsent(session, BATCH)
        if unsent or not 0 <= now - self._retained.rechecked_at < RECHECK_S:
            sent += self._send_artifacts()
        if unsent:
            self._broker.publish_many([(topics.ASSIGNMENT.of(each.device), each.envelope) for each in unsent])
            with self._sessions.begin() as session:
                self._assignments.mark_sent(session, unsent, now)
            sent += len(unsent)
            self._retained.rechecked_at = 0.0  # what these no longer name may be cleared by the next step
        return sent

    def resend(self, device: DeviceId, missing: MissingChunks) -> int:
        """Publish again the chunks that a device lacks, if an assignment still names the blob; how many there were."""
        artifact = next((each for each in self._retained.artifacts if each.blob == missing.blob_sha256), None)
        if artifact is None or artifact.blob_bytes != missing.blob_bytes:
            log.info("%s misses chunks of blob %s, which no assignment names", device, missing.blob_sha256[:12])
            return 0
        now = self._clock()
        indices = [
            index for index in _set_bits(missing.bitmap, artifact) if self._may_resend(artifact.blob, index, now)
        ]
        self._broker.publish_many(self._chunk(artifact, index) for index in indices)
        return len(indices)

    def _forget(self, generation: int) -> None:
        with self._sessions.begin() as session:
            number = self._assignments.forget_sent(session)
        log.info("broker process %d: publishing everything again, %d assignments", generation, number)
        self._resent.clear()
        self._retained = _Retained(generation)

    def _issue_due(self, now: float) -> None:
        if 0 <= now - self._retained.issued_at < ISSUE_EVERY_S:
            return
        with self._readers() as session:
            due = self._assignments.due(session, now, BATCH)
        if due:
            with self._sessions.begin() as session:
                for device in due:
                    self._issue(session, device, now)
        self._retained.issued_at = now if len(due) < BATCH else 0.0  # more of them: go on with the next step

    def _issue(self, session: Session, device: DeviceId, now: float) -> None:
        try:
            self._assignments.issue(session, device, now)
        except DeviceRevoked:
            log.info("%s was revoked meanwhile; it gets no assignment", device)

    def _send_bundle(self) -> int:
        revision = self._bundle.revision
        if revision == self._retained.bundle:
            return 0
        self._broker.publish(topics.METADATA, self._bundle.bundle(), retain=True)
        self._retained.bundle = revision
        return 1

    def _send_artifacts(self) -> int:
        wanted, sent = self._live(), 0
        for artifact in sorted(wanted - self._retained.artifacts, key=lambda each: each.manifest):
            # Written before the first message: whatever happens, a later process knows which topics to clear.
            self._journal.remember(artifact.manifest, artifact.blob, artifact.blob_bytes)
            self._broker.publish_many(self._messages(artifact))
            self._retained.artifacts.add(artifact)
            sent += envelope.message_count(artifact.blob_bytes) + 1
        for manifest, blob, blob_bytes in self._journal.remembered():
            artifact = Artifact(manifest, blob, blob_bytes)
            if artifact not in wanted:
                self._clear(artifact)
                sent += 1
        self._retained.rechecked_at = self._clock()
        return sent

    def _clear(self, artifact: Artifact) -> None:
        log.info("no assignment names manifest %s any more; clearing its topics", artifact.manifest[:12])
        self._broker.publish_many((topic, b"") for topic in artifact.topics)
        self._retained.artifacts.discard(artifact)
        self._journal.forget(artifact.manifest)
        self._resent = {key: at for key, at in self._resent.items() if key[0] != artifact.blob}

    def _live(self) -> set[Artifact]:
        query = (
            select(Variant.manifest_sha256, Variant.blob_sha256, Variant.blob_bytes)
            .join(Desired, Desired.manifest_sha256 == Variant.manifest_sha256)
            .join(Device, Device.id == Desired.device_id)
            .where(Device.state == "active")
            .distinct()
        )
        with self._readers() as session:
            return {Artifact(Digest(manifest), Digest(blob), size) for manifest, blob, size in session.execute(query)}

    def _messages(self, artifact: Artifact) -> Iterator[tuple[str, bytes]]:
        with self._readers() as session:
            manifest = session.scalar(select(Variant.manifest).where(Variant.manifest_sha256 == artifact.manifest))
        if manifest is not None:
            yield topics.manifest_topic(artifact.manifest), manifest
        for index in range(envelope.message_count(artifact.blob_bytes)):
            yield self._chunk(artifact, index)

    def _chunk(self, artifact: Artifact, index: int) -> tuple[str, bytes]:
        start, end = envelope.message_span(index, artifact.blob_bytes)
        return topics.chunk_topic(artifact.blob, index), self._blobs.read(artifact.blob, start, end)

    def _may_resend(self, blob: Digest, index: int, now: float) -> bool:
        if now - self._resent.get((blob, index), 0.0) < RESEND_EVERY_S:
            return False
        self._resent[blob, index] = now
        return True


def _set_bits(bitmap: bytes, artifact: Artifact) -> Iterator[int]:
    for index in range(min(envelope.message_count(artifact.blob_bytes), 8 * len(bitmap))):
        if bitmap[index // 8] >> (index % 8) & 1:
            yield index
