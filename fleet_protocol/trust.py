"""The order in which a device comes to believe something, and the types that say how far it has come (SPEC 6).

    bytes ──check_metadata──▶ (TUF accepted, not older than remembered)
    bytes ──verify_assignment──▶ VerifiedAssignment      signed by the director, for this device, new, in time
          ──verify_item──▶ VerifiedItem                  released by the offline keys, fits slot, board, runtime, floor
          ──open_key──▶ OpenedItem                       and its content key opens with this device's private key

Only these functions can make these types; what installs takes the last one and nothing less. TUF itself is python-tuf's
ngclient, driven by ``edge_agent.trust``; what this module adds is the memory that survives a power cut and the assignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleet_protocol import assignment as wire
from fleet_protocol import envelope, manifest
from fleet_protocol.errors import (
    BelowSecurityFloor,
    NotForThisDevice,
    NotReleased,
    PayloadMismatch,
    ReleaseMismatch,
    ReplayedAssignment,
    RolledBackMetadata,
    StaleAssignment,
    WrongSlot,
)
from fleet_protocol.fingerprint import Fingerprint, mismatch
from fleet_protocol.identifiers import DeviceId, Digest, FleetId, SlotName, digest_of

_SEAL: Final = object()
CLOCK_SLACK_S: Final = 300
"""An assignment may be this much ahead of the device's clock (SPEC 6.2.6)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the device has accepted before and never goes below; read from and written to its journal (SPEC 6.4).

    ``versions``: highest version per ``role@root-version``; ``floors``: lowest release counter per slot;
    ``time_s``: highest signed time accepted.
    """

    root_version: int = 0
    versions: Mapping[str, int] = field(default_factory=dict)
    seq: int = 0
    floors: Mapping[SlotName, int] = field(default_factory=dict)
    time_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MetadataVersions:
    """What one accepted TUF refresh says: versions per ``role@root-version`` and the latest time it can vouch for (s)."""

    root_version: int
    versions: Mapping[str, int]
    horizon_s: float


@dataclass(frozen=True, slots=True)
class Target:
    """A TUF target as the offline keys describe it. ``floor``: the slot's security floor in its custom metadata."""

    path: str
    sha256: Digest
    length: int
    floor: int


@dataclass(frozen=True, slots=True)
class VerifiedAssignment:
    """Signed by the director, for this device, newer than any before, within its time."""

    assignment: wire.Assignment
    digest: Digest
    _seal: object = field(repr=False)

    def __post_init__(self) -> None:
        _only_here(self._seal)


@dataclass(frozen=True, slots=True)
class VerifiedItem:
    """An item whose manifest the offline keys released and that fits slot, board, runtime and security floor."""

    item: wire.Item
    manifest: manifest.Manifest
    digest: Digest
    floor: int
    _seal: object = field(repr=False)

    def __post_init__(self) -> None:
        _only_here(self._seal)


@dataclass(frozen=True, slots=True)
class OpenedItem:
    """A verified item with its content key. The only thing that a device downloads, opens and serves."""

    verified: VerifiedItem
    key: bytes = field(repr=False)
    _seal: object = field(repr=False)

    def __post_init__(self) -> None:
        _only_here(self._seal)


def trusted_now(clock_s: float, memory: Memory, build_s: float) -> float:
    """The device's time: its clock, but never before its own build nor before a signed time that it accepted (SPEC 6.3)."""
    return max(clock_s, build_s, memory.time_s)


def check_metadata(seen: MetadataVersions, memory: Memory) -> None:
    """SPEC 6.1.2: raises RolledBackMetadata where TUF's own (not durable) memory was lost and older metadata came.

    Keyed by root version, so that a fast-forward attack is recovered by rotating keys (TUF 5.3.11).
    """
    older = [name for name, version in seen.versions.items() if version < memory.versions.get(name, 0)]
    if seen.root_version < memory.root_version:
        older.append(f"root {seen.root_version} < {memory.root_version}")
    if older:
        raise RolledBackMetadata(f"metadata older than this device has already seen: {', '.join(sorted(older))}")


def verify_assignment(
    raw: bytes,
    director: wire.DirectorKeys,
    fleet: FleetId,
    device: DeviceId,
    memory: Memory,
    *,
    now_s: float,
    clock_believed: bool,
    horizon_s: float,
) -> VerifiedAssignment:
    """SPEC 6.2, in its order. ``clock_believed``: the system clock is not below the floor of trusted time."""
    payload = wire.verified_payload(raw, director)  # 6.2.1 size and syntax, 6.2.2 signatures, 6.2.3 type
    assignment = wire.decode(payload)
    if assignment.fleet != fleet or assignment.device != device:  # 6.2.4
        raise NotForThisDevice(f"assignment is for {assignment.fleet}/{assignment.device}, this is {fleet}/{device}")
    if assignment.seq <= memory.seq:  # 6.2.5
        raise ReplayedAssignment(f"assignment {assignment.seq} is not newer than {memory.seq}")
    if not clock_believed and assignment.iat <= horizon_s:
        # 6.3.2: without a clock a signed time is all there is; it may not pass what two other keys vouch for, so a stolen
        # director key cannot push the device into a future in which all metadata has expired.
        now_s = max(now_s, assignment.iat)
    if not assignment.iat - CLOCK_SLACK_S <= now_s <= assignment.exp:  # 6.2.6
        raise StaleAssignment(f"valid from {assignment.iat} to {assignment.exp}, trusted time is {now_s:.0f}")
    return VerifiedAssignment(assignment, digest_of(raw), _SEAL)


def verify_item(
    item: wire.Item, target: Target | None, content: bytes, fingerprint: Fingerprint, memory: Memory
) -> VerifiedItem:
    """SPEC 6.5, in its order. ``target``: what TUF says of ``item.target``; ``content``: the manifest's bytes."""
    if target is None:  # 6.5.1
        raise NotReleased(f"{item.target} is not released (or was withdrawn)")
    if item.target_sha256 != target.sha256:  # 6.5.2
        raise ReleaseMismatch(f"the director names another {item.target} than the release keys signed")
    if len(content) != target.length or digest_of(content) != target.sha256:  # 6.5.3
        raise ReleaseMismatch(f"the bytes of {item.target} are not the ones that were released")
    parsed = manifest.parse(content)
    if parsed.target_path != item.target:  # 6.5.4
        raise ReleaseMismatch(f"{item.target} holds the manifest of {parsed.target_path}")
    if parsed.slot != item.slot:  # 6.5.5
        raise WrongSlot(f"{item.target} is made for slot {parsed.slot}, assigned to {item.slot}")
    unfit = mismatch(parsed, fingerprint)  # 6.5.6
    if unfit is not None:
        raise unfit
    floor = max(target.floor, memory.floors.get(SlotName(parsed.slot), 0))
    if parsed.counter < floor:  # 6.5.7
        raise BelowSecurityFloor(f"release counter {parsed.counter} is below the security floor {floor}")
    if item.blob_bytes != envelope.sealed_length(parsed.payload.length):  # 6.5.8
        raise PayloadMismatch(f"a payload of {parsed.payload.length} bytes does not seal to {item.blob_bytes}")
    return VerifiedItem(item, parsed, target.sha256, floor, _SEAL)


def open_key(verified: VerifiedItem, private: X25519PrivateKey, fleet: FleetId, device: DeviceId) -> OpenedItem:
    """SPEC 6.6: raises KeyNotForThisDevice unless the key was wrapped for this device, manifest and blob."""
    item = verified.item
    key = envelope.unwrap_key(item.wrapped, private, fleet, device, verified.digest, Digest(item.blob_sha256))
    return OpenedItem(verified, key, _SEAL)


def _only_here(seal: object) -> None:
    if seal is not _SEAL:
        raise TypeError("this type is made by a function of fleet_protocol.trust, not by hand")
