"""What the agent remembers, as values: the model it runs, and the memory that never goes down (SPEC 6.4)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec

from edge_agent.errors import DamagedJournal
from fleet_protocol import manifest as manifests
from fleet_protocol.assignment import Item
from fleet_protocol.identifiers import Digest, SlotName, digest_of
from fleet_protocol.trust import Memory, MetadataVersions, OpenedItem, VerifiedAssignment

_SUM_BYTES: Final = 32


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was verified once and may be served without any network: its item and its manifest's bytes.

    The wrapped key in the item is useless to whoever has the file only; it opens with the device's private key.
    """

    item: Item
    manifest: bytes

    @classmethod
    def of(cls, opened: OpenedItem, content: bytes) -> ModelRecord:
        """The record of a verified item and its manifest's bytes; the only way from an assignment into the journal."""
        if digest_of(content) != opened.verified.digest:
            raise RuntimeError("these are not the manifest bytes that were verified; this is a bug")
        return cls(item=opened.verified.item, manifest=content)

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return Digest(self.item.target_sha256)

    @property
    def blob(self) -> Digest:
        """The ciphertext's digest."""
        return Digest(self.item.blob_sha256)

    def parsed(self) -> manifests.Manifest:
        """The manifest; raises DamagedJournal where the bytes are no longer the ones that were verified."""
        if digest_of(self.manifest) != self.digest:
            raise DamagedJournal("a manifest in the journal is not the one that was verified")
        return manifests.parse(self.manifest)


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """All that must outlive a corrupt journal: the floors, the last assignment, the counter, what each slot runs.

    ``assignment``: SHA-256 of the last accepted envelope; ``executions``: the highest number given to one.
    """

    root_version: int = 0
    versions: dict[str, int] = {}
    seq: int = 0
    floors: dict[str, int] = {}
    time_s: float = 0.0
    assignment: str = ""
    executions: int = 0
    committed: dict[str, ModelRecord] = {}

    @property
    def memory(self) -> Memory:
        """As the contract's checks take it."""
        floors = {SlotName(slot): floor for slot, floor in self.floors.items()}
        return Memory(self.root_version, dict(self.versions), self.seq, floors, self.time_s)

    def with_metadata(self, seen: MetadataVersions) -> Remembered:
        """After an accepted refresh. Entries of older roots go: the root's version is itself a floor (SPEC 6.1.2)."""
        suffix = f"@{seen.root_version}"
        kept = {name: version for name, version in self.versions.items() if name.endswith(suffix)}
        return msgspec.structs.replace(
            self, root_version=max(self.root_version, seen.root_version), versions=_highest(kept, seen.versions)
        )

    def with_assignment(self, accepted: VerifiedAssignment, *, horizon_s: float) -> Remembered:
        """After an accepted assignment: seq, and its signed time as far as the metadata can vouch for (SPEC 6.3.2)."""
        return msgspec.structs.replace(
            self,
            seq=accepted.assignment.seq,
            time_s=max(self.time_s, min(float(accepted.assignment.iat), horizon_s)),
            assignment=accepted.digest,
        )

    def with_floor(self, slot: str, floor: int) -> Remembered:
        """After an admitted item: the slot's security floor never sinks."""
        return msgspec.structs.replace(self, floors=_highest(self.floors, {slot: floor}))

    def merged(self, other: Remembered) -> Remembered:
        """The higher of both in everything that may only grow; the rest from the one with the higher seq."""
        newer, older = (self, other) if self.seq >= other.seq else (other, self)
        return msgspec.structs.replace(
            newer,
            root_version=max(newer.root_version, older.root_version),
            versions=_highest(newer.versions, older.versions),
            floors=_highest(newer.floors, older.floors),
            time_s=max(newer.time_s, older.time_s),
            executions=max(newer.executions, older.executions),
        )


def memory_for(remembered: Remembered, envelope: Digest, *, is_lost: bool) -> Memory:
    """The memory to check an envelope with. Where the journal was lost, the very envelope that was accepted last may be
    accepted once more (it is the same bytes, so nothing old comes back), or the device would wait for the next one.
    """
    memory = remembered.memory
    if is_lost and hmac.compare_digest(envelope, remembered.assignment):
        return replace(memory, seq=memory.seq - 1)
    return memory


def encode(remembered: Remembered) -> bytes:
    """Bytes with a checksum in front."""
    body = msgspec.json.encode(remembered)
    return hashlib.sha256(body).digest() + body


def decode(content: bytes) -> Remembered:
    """Inverse of :func:`encode`; raises DamagedJournal."""
    body = content[_SUM_BYTES:]
    if hashlib.sha256(body).digest() != content[:_SUM_BYTES]:
        raise DamagedJournal("the checksum does not match")
    try:
        return msgspec.json.decode(body, type=Remembered)
    except msgspec.DecodeError as error:
        raise DamagedJournal(f"not what this agent writes: {error}") from error


def _highest(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: max(first.get(name, 0), second.get(name, 0)) for name in {**first, **second}}
