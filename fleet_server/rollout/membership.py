"""Who belongs to which wave, and which variant of the release a device gets (SPEC 9.2, 3.5)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleet_protocol.errors import NoMatchingVariant, WrongBoard
from fleet_protocol.fingerprint import Fingerprint, mismatch
from fleet_protocol.identifiers import BUCKETS, Digest
from fleet_protocol.manifest import Manifest
from fleet_server.rollout.policy import WavePlan


@dataclass(frozen=True, slots=True)
class PlannedWave:
    """The bucket offsets from the previous wave's ``window_end`` up to its own, and how many devices were there."""

    number: int
    title: str
    window_end: int
    members: int


@dataclass(frozen=True, slots=True)
class OfferedVariant:
    """One variant of a release as devices are matched with it. ``blob_bytes``: what it costs on the wire."""

    digest: Digest
    manifest: Manifest
    blob_bytes: int


def offset_of(bucket: int, salt: int) -> int:
    """The device's place in the order in which a rollout opens; the salt makes each rollout begin with other devices."""
    return (bucket - salt) % BUCKETS


def bucket_ranges(salt: int, opened: int) -> tuple[tuple[int, int], ...]:
    """The buckets whose offset is below ``opened``, as one or two half-open ranges."""
    end = salt + opened
    if end <= BUCKETS:
        return ((salt, end),)
    return (salt, BUCKETS), (0, end - BUCKETS)


def lay_out(plans: Sequence[WavePlan], offsets: Sequence[int]) -> tuple[PlannedWave, ...]:
    """Waves over the members' ``offsets``; a wave that would find nobody is merged into the one before.

    A count takes that many devices (more only where several share the last bucket). A share takes at least one device: in
    a small fleet 10 % of the buckets may hold nobody, and a wave without devices would prove nothing.
    """
    ordered = sorted(offsets)
    waves: list[PlannedWave] = []
    end = inside = 0
    for plan in plans:
        share = plan.buckets
        if inside < len(ordered):
            last = ordered[inside] if share is not None else ordered[min(inside + int(plan.size), len(ordered)) - 1]
            end = max(last + 1, share or 0, end)
            members = bisect_left(ordered, end) - inside
            waves.append(PlannedWave(len(waves) + 1, plan.title, end, members))
            inside += members
        elif waves and share is not None:
            end = max(end, share)
            waves[-1] = replace(waves[-1], window_end=end)
    return tuple(waves)


def choose(variants: Sequence[OfferedVariant], fingerprint: Fingerprint) -> OfferedVariant:
    """The first variant, in the release's order of preference, that the device can run; raises NoMatchingVariant."""
    reasons = []
    for variant in variants:
        reason = mismatch(variant.manifest, fingerprint)
        if reason is None:
            return variant
        reasons.append(reason)
    # A variant for this board that fails for its runtime says more than one for another board.
    telling = [reason for reason in reasons if not isinstance(reason, WrongBoard)] or reasons
    raise NoMatchingVariant(str(telling[0]) if telling else "the release has no variant")
