"""Who belongs to which wave, and which variant of the release a device gets (SPEC 9.2, 3.5)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fleet_protocol.errors import NoMatchingVariant, WrongBoard
from fleet_protocol.fingerprint import Fingerprint, mismatch
from fleet_protocol.identifiers import BUCKETS, DeviceId, Digest
from fleet_protocol.manifest import Manifest
from fleet_server.rollout.policy import WavePlan
from fleet_server.rollout.selector import Selector


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


@dataclass(frozen=True, slots=True)
class Prospect:
    """A device as a rollout looks at it. ``fingerprint``: None until its first health report."""

    device: DeviceId
    bucket: int
    board: str
    tags: Mapping[str, str]
    fingerprint: Fingerprint | None
    is_active: bool


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """A member: its wave, and the variant that it will get. ``blob_bytes``: what it will download at most."""

    device: DeviceId
    wave: int
    variant: str
    manifest_sha256: Digest
    blob_bytes: int


@dataclass(frozen=True, slots=True)
class Excluded:
    """A device that the selector means but that cannot take part now, and why."""

    device: DeviceId
    reason: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What a rollout would do. With the same ``salt`` it would begin with the same devices."""

    salt: int
    waves: tuple[PlannedWave, ...]
    devices: tuple[PlannedDevice, ...]
    excluded: tuple[Excluded, ...]

    @property
    def download_bytes(self) -> int:
        """Over all devices, if every one downloads its whole blob."""
        return sum(device.blob_bytes for device in self.devices)


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


def fit(prospect: Prospect, variants: Sequence[OfferedVariant]) -> OfferedVariant:
    """The variant that ``prospect`` gets; raises NoMatchingVariant saying why it cannot take part."""
    if not prospect.is_active:
        raise NoMatchingVariant("it is revoked")
    if prospect.fingerprint is None:
        raise NoMatchingVariant("it has not yet reported what it can run; it joins once it does")
    return choose(variants, prospect.fingerprint)


def draw_up(
    prospects: Iterable[Prospect],
    selector: Selector,
    variants: Sequence[OfferedVariant],
    plans: Sequence[WavePlan],
    salt: int,
) -> Preview:
    """Who would be in which wave with which variant, in order of opening, and who cannot take part."""
    members: list[tuple[int, DeviceId, OfferedVariant]] = []
    excluded = []
    for prospect in prospects:
        if not selector.matches(prospect.device, prospect.board, prospect.tags):
            continue
        try:
            variant = fit(prospect, variants)
        except NoMatchingVariant as reason:
            excluded.append(Excluded(prospect.device, str(reason)))
        else:
            members.append((offset_of(prospect.bucket, salt), prospect.device, variant))
    members.sort(key=lambda member: member[:2])
    waves = lay_out(plans, [offset for offset, _, _ in members])
    ends = [wave.window_end for wave in waves]
    planned = (
        PlannedDevice(
            device, bisect_right(ends, offset) + 1, variant.manifest.variant, variant.digest, variant.blob_bytes
        )
        for offset, device, variant in members
        if waves and offset < ends[-1]
    )
    return Preview(salt, waves, tuple(planned), tuple(sorted(excluded, key=lambda each: each.device)))
