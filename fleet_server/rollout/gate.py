"""What the evidence of one wave allows. "Not enough" is an answer of its own (HELD), never a pass (DESIGN 1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet_server.rollout.actions import Action, BeginBake, BreachWave, HoldWave, PassWave, ResumeWave
from fleet_server.rollout.policy import Policy
from fleet_server.rollout.view import IN_FLIGHT, LOST, Member, Outcome, Snapshot, WaveStand, WaveState, tally


@dataclass(frozen=True, slots=True)
class Evidence:
    """Counts of devices. ``lost_earlier``: members of earlier waves that failed since this wave opened.

    ``fresh``: successes whose newest heartbeat came in after the bake began. ``first_loss``: who, and why.
    """

    assigned: int
    success: int
    fresh: int
    lost: int
    lost_earlier: int
    in_flight: int
    waiting: int
    first_loss: str

    @property
    def ended(self) -> int:
        """Devices of the wave that have proved themselves or failed."""
        return self.success + self.lost

    @property
    def loss_share(self) -> float:
        """Lost devices among all that count against the wave, 0..1."""
        lost = self.lost + self.lost_earlier
        return lost / (self.assigned + self.lost_earlier) if lost else 0.0


def evidence(view: Snapshot, wave: WaveStand) -> Evidence:
    """What is known about ``wave``. Revoked devices count as nothing: not as success, not as failure."""
    members = view.of_wave(wave)
    counted = tally(members)
    earlier = [member for member in view.members if member.wave < wave.number and _lost_since(member, wave.opened_at)]
    lost = [member for member in members if member.outcome in LOST]
    return Evidence(
        assigned=len(members) - counted[Outcome.WITHDRAWN],
        success=counted[Outcome.SUCCESS],
        fresh=sum(_is_fresh(member, wave.baking_since) for member in members),
        lost=len(lost),
        lost_earlier=len(earlier),
        in_flight=sum(counted[outcome] for outcome in IN_FLIGHT),
        waiting=len(view.waiting),
        first_loss=_first_loss([*lost, *earlier]),
    )


def judge(wave: WaveStand, found: Evidence, policy: Policy, now: float) -> Action | None:
    """The next step of a wave that is under test; None: wait."""
    sample = min(policy.min_sample, max(wave.members, 1))
    # In a baking or held wave late joiners wait for the next wave: a growing fleet must not keep a wave open for ever.
    is_complete = not found.in_flight and (wave.state is not WaveState.RUNNING or not found.waiting)
    is_judged = found.ended + found.lost_earlier >= sample or is_complete
    if is_judged and found.loss_share > policy.error_threshold:
        return BreachWave(wave.number, _breach_sentence(found, policy))
    if not is_complete:
        return None if wave.state is WaveState.RUNNING else ResumeWave(wave.number)
    if found.ended < sample or _share(found.success, found) < policy.success_threshold:
        return None if wave.state is WaveState.HELD else HoldWave(wave.number, _hold_sentence(found, policy, sample))
    if wave.state is not WaveState.BAKING or wave.baking_since is None:
        return BeginBake(wave.number)
    # A pass rests on heartbeats of the bake itself: what was confirmed before it began may be gone by now.
    is_proven = _share(found.fresh, found) >= policy.success_threshold
    if now - wave.baking_since >= policy.bake_s and is_proven:
        return PassWave(wave.number, _pass_sentence(found, policy))
    return None


def _share(number: int, found: Evidence) -> float:
    return number / found.assigned if found.assigned else 0.0


def _is_fresh(member: Member, since: float | None) -> bool:
    if since is None or member.heard_at is None:
        return False
    return member.outcome is Outcome.SUCCESS and member.heard_at >= since


def _lost_since(member: Member, since: float | None) -> bool:
    return since is not None and member.outcome in LOST and member.state_since >= since


def _first_loss(lost: Sequence[Member]) -> str:
    if not lost:
        return ""
    first = min(lost, key=lambda member: (member.state_since, member.device))
    return f"{first.device}: {first.code or first.state}"


def _breach_sentence(found: Evidence, policy: Policy) -> str:
    earlier = f", and {found.lost_earlier} of earlier waves failed since" if found.lost_earlier else ""
    return (
        f"{found.lost} of {found.assigned} devices failed or went silent{earlier}: {found.loss_share:.1%}, "
        f"more than the {policy.error_threshold:.1%} allowed (first {found.first_loss})"
    )


def _hold_sentence(found: Evidence, policy: Policy, sample: int) -> str:
    if found.ended < sample:
        return f"{found.ended} devices ended, {sample} are needed to judge: not enough evidence to pass or to breach"
    return (
        f"{found.success} of {found.assigned} devices confirmed ({_share(found.success, found):.1%}), "
        f"{policy.success_threshold:.1%} are asked; {found.lost} lost do not exceed the {policy.error_threshold:.1%} allowed"
    )


def _pass_sentence(found: Evidence, policy: Policy) -> str:
    return (
        f"{found.fresh} of {found.assigned} devices committed and confirmed by heartbeats ({_share(found.fresh, found):.1%}, "
        f"{policy.success_threshold:.1%} asked), {found.lost} lost, baked for {policy.bake_s:g} s"
    )
