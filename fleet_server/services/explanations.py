"""Why is this device not updated? One sentence from facts, in the order in which a person would look (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet_protocol.errors import StateTimedOut
from fleet_protocol.states import TERMINAL, UNSUCCESSFUL, DeploymentState
from fleet_server.services.views import AttemptView, Explanation, ModelView, Presence, SlotView

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What the registry knows of one device. ``attempts``: newest first; ``cloned``: how its identity was seen used twice."""

    presence: Presence
    last_seen: float | None
    slots: Sequence[SlotView]
    attempts: Sequence[AttemptView]
    assignment_seq: int
    assignment_published_at: float | None
    cloned: str = ""


def short(digest: str) -> str:
    """The first twelve digits of a digest: enough to tell releases apart, short enough to compare by eye."""
    return digest[:12]


def named(model: ModelView | None) -> str:
    """``line-orientation 1.2.0 (ab12cd34ef56)``, or the digest alone, or ``nothing``."""
    if model is None:
        return "nothing"
    if not model.model:
        return short(model.manifest_sha256)
    return f"{model.model} {model.version} ({short(model.manifest_sha256)})"


def span(seconds: float) -> str:
    """A duration for people: ``42 s``, ``7 min``, ``3 h``, ``5 d``; never more than one unit."""
    seconds = max(0.0, seconds)
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds // _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR:.0f} h"
    return f"{seconds // _DAY:.0f} d"


def explain(facts: DeviceFacts, *, now: float) -> Explanation:
    """The first reason that holds, most fundamental first."""
    if facts.presence == "revoked":
        return Explanation("blocked", "This device was revoked: it gets no keys and no assignments.",
                           "It stays revoked; to take the board back, enrol it under a new name.")  # fmt: skip
    if facts.cloned:
        return Explanation("blocked", f"Two machines use its identity: {facts.cloned}.",
                           "Find out which one is yours, revoke the device, and enrol the board under a new name.")  # fmt: skip
    behind = next((slot for slot in facts.slots if not slot.is_desired), None)
    if behind is None:
        return _content(facts)
    attempt = next((each for each in facts.attempts if _is_about(each, behind)), None)
    if attempt is not None and _is_lost(attempt):
        return Explanation("blocked", f"It serves {named(behind.serves)}: {_failure(attempt)}.",
                           "The device keeps its old model; read the timeline, then release a fix.")  # fmt: skip
    return _transport(facts, now=now) or _progress(behind, attempt, now=now)


def _is_lost(attempt: AttemptView) -> bool:
    # A device that went silent is lost in whatever state it was last heard of.
    return attempt.state in UNSUCCESSFUL or attempt.code == StateTimedOut.code


def _is_about(attempt: AttemptView, slot: SlotView) -> bool:
    return slot.desired is not None and attempt.model.manifest_sha256 == slot.desired.manifest_sha256


def _content(facts: DeviceFacts) -> Explanation:
    wanted = [slot for slot in facts.slots if slot.desired is not None]
    if not wanted:
        return Explanation("waiting", "No rollout has assigned a model to this device yet.",
                           "Start a rollout whose selector matches it, or wait until its wave opens.")  # fmt: skip
    serves = ", ".join(named(slot.serves) for slot in wanted)
    last = facts.attempts[0] if facts.attempts else None
    if last is not None and _is_lost(last):
        return Explanation("up-to-date", f"It serves {serves}, as it should; {_failure(last)}.",
                           "Nothing is to be done here: the fault is in that release or rollout.")  # fmt: skip
    return Explanation("up-to-date", f"It serves {serves}, as it should.")


def _failure(attempt: AttemptView) -> str:
    if attempt.code == StateTimedOut.code:
        return f"rollout {attempt.rollout_id} gave up on {named(attempt.model)}: {attempt.detail or 'it went silent'}"
    reason = f"{attempt.code}: {attempt.detail}" if attempt.code else attempt.detail or "without a reason"
    return f"{named(attempt.model)} ended {attempt.state} in rollout {attempt.rollout_id} ({reason})"


def _transport(facts: DeviceFacts, *, now: float) -> Explanation | None:
    if facts.presence == "never":
        return Explanation(
            "waiting", "It has enrolled but never connected.", "Check that edge-agent runs on the board."
        )
    if facts.presence in {"offline", "silent"}:
        since = "" if facts.last_seen is None else f" for {span(now - facts.last_seen)}"
        how = "offline" if facts.presence == "offline" else "connected but silent"
        return Explanation("waiting", f"It has been {how}{since}; the assignment waits for it at the broker.",
                           "Check power and network; it converges by itself when it returns.")  # fmt: skip
    if facts.assignment_seq and facts.assignment_published_at is None:
        return Explanation("waiting", f"Assignment {facts.assignment_seq} is signed but not yet at the broker.",
                           "If this lasts, run `fleet-server check`: the broker may be down.")  # fmt: skip
    return None


def _progress(behind: SlotView, attempt: AttemptView | None, *, now: float) -> Explanation:
    if attempt is None:
        return Explanation("updating", f"It serves {named(behind.serves)} and shall serve {named(behind.desired)}.")
    since = span(now - attempt.state_since)
    state = DeploymentState(attempt.state)
    if state is DeploymentState.IDLE:
        return Explanation("waiting", f"It has not taken up its assignment in {since}.",
                           "If it stays silent, the rollout's limit for queued devices ends the attempt.")  # fmt: skip
    if state in TERMINAL:
        # COMMITTED without a heartbeat that says so is a claim, not a success (DESIGN 1.1).
        return Explanation("waiting", f"It says COMMITTED, but no heartbeat serves {named(behind.desired)} yet.",
                           "The next health report decides.")  # fmt: skip
    return Explanation("updating", f"It is {state} with {named(attempt.model)} for {since}.")
