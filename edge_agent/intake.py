"""From bytes to belief: metadata, assignment and items, checked in the order of SPEC 6, remembered before they are used."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent import trust
from edge_agent.execution import Admitted, Execution
from edge_agent.identity import Identity
from edge_agent.journal import Journal
from edge_agent.ports import Clock, Standing
from edge_agent.records import ModelRecord, Remembered, memory_for
from fleet_protocol import trust as contract
from fleet_protocol.errors import FleetError, WrongSlot
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import Digest, SlotName, digest_of


@dataclass(frozen=True, slots=True)
class Accepted:
    """A verified assignment, its bytes, and the memory that has to be durable before anything is done about it."""

    verified: contract.VerifiedAssignment
    envelope: bytes
    remembered: Remembered


class Intake:
    """What the device was told and has not decided yet: the newest metadata bundle and assignment, and manifests."""

    def __init__(
        self,
        identity: Identity,
        journal: Journal,
        fingerprint: Fingerprint,
        *,
        slots: Collection[SlotName],
        clock: Clock,
        scratch: Path,
    ) -> None:
        self._identity, self._journal, self._fingerprint = identity, journal, fingerprint
        self._slots, self._clock, self._scratch = frozenset(slots), clock, scratch
        self._bundle: bytes | None = None
        self._envelope: bytes | None = None
        self._manifests: dict[Digest, bytes] = {}

    def now_s(self) -> float:
        """Trusted Unix seconds (SPEC 6.3)."""
        return contract.trusted_now(self._clock(), self._journal.remembered.memory, trust.BUILD_S)

    @property
    def standing(self) -> Standing:
        """How far trust has come, for the health report."""
        kept = self._journal.remembered
        version = kept.versions.get(f"timestamp@{kept.root_version}", 0)
        return Standing(kept.seq, kept.root_version, version, max(kept.time_s, trust.BUILD_S))

    @property
    def has_metadata(self) -> bool:
        """Whether a bundle was accepted since the agent started."""
        return self._bundle is not None

    def hear_metadata(self, packed: bytes) -> None:
        """Take a new bundle if it is to be believed; its versions are durable when this returns.

        Raises TrustError or MalformedInput; then the bundle of before stays in use.
        """
        with self._released(packed) as released:
            remembered = self._journal.remembered.with_metadata(released.versions)
        if remembered != self._journal.remembered:
            self._journal.remember(remembered)
        self._bundle = packed

    def hear_assignment(self, envelope: bytes) -> None:
        """Keep an assignment until it can be checked. The one that was accepted last is nothing new (SPEC 6.2.5)."""
        is_known = digest_of(envelope) == self._journal.remembered.assignment and not self._journal.is_lost
        self._envelope = None if is_known else envelope

    def hear_manifest(self, digest: Digest, content: bytes) -> None:
        """Keep a manifest's bytes if they are the ones asked for."""
        if digest_of(content) == digest:
            self._manifests[digest] = content

    def forget_manifests(self, wanted: Collection[Digest]) -> None:
        """Drop the manifests that no execution waits for."""
        self._manifests = {digest: content for digest, content in self._manifests.items() if digest in wanted}

    def accept(self) -> Accepted | None:
        """The waiting assignment, verified (SPEC 6.2); None where nothing waits or the metadata has not come.

        Raises TrustError or MalformedInput; the assignment then waits for newer metadata.
        """
        if self._envelope is None or self._bundle is None:
            return None
        envelope, kept = self._envelope, self._journal.remembered
        with self._released(self._bundle) as released:
            verified = contract.verify_assignment(
                envelope,
                released.director,
                self._identity.fleet,
                self._identity.device,
                memory_for(kept, digest_of(envelope), is_lost=self._journal.is_lost),
                now_s=self.now_s(),
                clock_believed=self._clock() >= max(kept.time_s, trust.BUILD_S),
                horizon_s=released.versions.horizon_s,
            )
            remembered = kept.with_assignment(verified, horizon_s=released.versions.horizon_s)
        self._envelope = None
        return Accepted(verified, envelope, remembered)

    def content_of(self, execution: Execution) -> bytes | None:
        """The bytes of the manifest that ``execution`` wants, where the device has them."""
        committed = self._journal.committed(execution.slot)
        known = (committed, self._journal.model(execution.slot, "previous"))
        own = next((each.manifest for each in known if each is not None and each.digest == execution.digest), None)
        return own if own is not None else self._manifests.get(execution.digest)

    def admit(self, contents: Mapping[int, tuple[Execution, bytes]]) -> dict[int, Admitted | FleetError]:
        """Each execution's item, verified and its key opened (SPEC 6.5, 6.6), or why not. One refresh for all.

        Raises TrustError where the metadata itself is no longer to be believed, e.g. ExpiredMetadata.
        """
        if self._bundle is None:
            raise RuntimeError("admit is called with metadata only; this is a bug")
        with self._released(self._bundle) as released:
            return {number: self._judged(released, *pair) for number, pair in contents.items()}

    def _judged(self, released: trust.ReleaseMetadata, execution: Execution, content: bytes) -> Admitted | FleetError:
        item, memory = execution.item, self._journal.remembered.memory
        try:
            if execution.slot not in self._slots:
                raise WrongSlot(f"this device has no slot {execution.slot}; name it in the agent's configuration")
            verified = contract.verify_item(item, released.find_target(item.target), content, self._fingerprint, memory)
            opened = contract.open_key(verified, self._identity.hpke_key, self._identity.fleet, self._identity.device)
        except FleetError as error:
            return error
        return Admitted(ModelRecord.of(opened, content), verified.floor)

    @contextlib.contextmanager
    def _released(self, packed: bytes) -> Iterator[trust.ReleaseMetadata]:
        # Verified anew each time it is used: a bundle that was good an hour ago may have expired (SPEC 6.1.3).
        memory = self._journal.remembered.memory
        with trust.accepted(packed, self._identity.root, memory, now_s=self.now_s(), scratch=self._scratch) as released:
            yield released
