"""What the server believes of what devices say: pure, one message at a time (SPEC 8.4, 8.5, 10).

Bytes become messages whose every number and text is bounded; a deployment report moves an attempt only by compare-and-set
along the contract's state table; a heartbeat confirms, withdraws or restores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from fleet_protocol import messages
from fleet_protocol.errors import MalformedMessage
from fleet_protocol.identifiers import Digest, digest, slot_name
from fleet_protocol.messages import DeploymentReport, HealthReport, Message, MissingChunks, SlotHealth
from fleet_protocol.sketch import Sketch
from fleet_protocol.states import TERMINAL, DeploymentState, is_legal
from fleet_server.ports import Incoming
from fleet_server.rollout.view import Custody

MAX_SLOTS: Final = 16
MAX_CODE: Final = 64
MAX_DETAIL: Final = 400
HISTORY_S: Final = 7 * 86_400.0
"""Health history is kept this long (DESIGN 7: roll-ups come later)."""
CLOCK_SLACK_S: Final = 300.0
_MAX_NUMBER: Final = 2**53


@dataclass(frozen=True, slots=True)
class Attempt:
    """One device's attempt at a rollout's manifest, as the registry has it."""

    manifest: Digest
    assignment_seq: int
    state: DeploymentState
    execution: int
    version: int
    is_given_up: bool
    is_confirmed: bool
    is_restored: bool
    custody: Custody


class Sign(Enum):
    """What a heartbeat says about an attempt."""

    NOTHING_NEW = auto()
    CONFIRMED = auto()
    NOT_SERVED = auto()
    RESTORED = auto()
    SERVED_AGAIN = auto()


class Repeated(Exception):
    """The report is known already; devices repeat their newest on every connection (SPEC 8.4)."""


def decode(incoming: Incoming) -> Message:
    """The message inside; raises MalformedMessage, MalformedIdentifier or InputTooLarge."""
    if incoming.topic.message is None:
        raise MalformedMessage(f"devices do not write {incoming.topic.name}")
    message = messages.decode(incoming.payload, incoming.topic.message, is_json=incoming.is_json)
    match message:
        case HealthReport():
            _check_health(message)
        case DeploymentReport():
            _check_deployment(message)
        case MissingChunks():
            digest(message.blob_sha256)
            _check_count("blob_bytes", message.blob_bytes, at_least=1)
    return message


def disbelief(attempt: Attempt, report: DeploymentReport) -> str:
    """Why ``report`` does not move ``attempt``, in one clause; empty where it does. Raises Repeated where it is known.

    Compare-and-set: only a higher (execution, version) counts, only along the table, and never out of a terminal state.
    """
    known, said = (attempt.execution, attempt.version), (report.execution, report.version)
    if said == known and (report.state is attempt.state or attempt.is_given_up):
        raise Repeated
    if said <= known:
        return f"attempt {said[0]}, report {said[1]} is not after attempt {known[0]}, report {known[1]}"
    if attempt.state in TERMINAL or attempt.is_given_up:
        return f"{attempt.state} is final"
    is_same_execution = said[0] == known[0]
    before = attempt.state if is_same_execution else DeploymentState.IDLE
    skipped = max(said[1] - (known[1] if is_same_execution else 0) - 1, 0)
    if is_legal(before, report.state, skipped=skipped):
        return ""
    return f"{report.state} cannot follow {before}"


def read_heartbeat(attempt: Attempt, served: str, *, accepted_seq: int, issued_seq: int) -> Sign:
    """What a heartbeat says about ``attempt``. ``served``: the slot's digest, empty where nothing is served.

    ``accepted_seq``: the newest assignment that the device has accepted; ``issued_seq``: the newest that it was sent. A
    device that serves its old model *before* it has heard of the return has returned from nothing.
    """
    serves_it = served == attempt.manifest
    if attempt.custody is Custody.RETURNED:
        if serves_it:
            return Sign.SERVED_AGAIN if attempt.is_restored else Sign.NOTHING_NEW
        is_news = not attempt.is_restored and accepted_seq >= issued_seq
        return Sign.RESTORED if is_news else Sign.NOTHING_NEW
    if attempt.custody is Custody.OTHER or attempt.is_given_up:
        return Sign.NOTHING_NEW
    if not serves_it:
        return Sign.NOT_SERVED if attempt.is_confirmed else Sign.NOTHING_NEW
    is_news = not attempt.is_confirmed and accepted_seq >= attempt.assignment_seq
    return Sign.CONFIRMED if is_news else Sign.NOTHING_NEW


def served_by(report: HealthReport) -> dict[str, str]:
    """Slot name to manifest digest, of the slots that serve something."""
    return {slot.slot: slot.served_sha256 for slot in report.slots if slot.served_sha256}


def history_time(report: HealthReport, now: float) -> float:
    """When the report was made; where its clock cannot be right (outside what is kept), when it came in."""
    return report.at if now - HISTORY_S <= report.at <= now + CLOCK_SLACK_S else now


def text(given: str, limit: int) -> str:
    """``given`` fit for a column of ``limit`` characters; PostgreSQL stores no NUL."""
    return given.replace("\0", "�")[:limit]


def _check_health(report: HealthReport) -> None:
    if len(report.slots) > MAX_SLOTS or len({slot.slot for slot in report.slots}) != len(report.slots):
        raise MalformedMessage(f"a health report names at most {MAX_SLOTS} slots, each once")
    _check_count("seq", report.seq, at_least=1)
    _check_count("assignment_seq", report.assignment_seq)
    _check_count("memory_used_bytes", report.memory_used_bytes)
    for name in ("at", "cpu_percent", "temperature_celsius"):
        _check_finite(name, getattr(report, name))
    for part in (report.fingerprint.board, report.fingerprint.runtime, report.fingerprint.runtime_version):
        _check_short("fingerprint", part)
    _check_short("fingerprint", report.fingerprint.architecture)
    for slot in report.slots:
        _check_slot(slot)


def _check_slot(slot: SlotHealth) -> None:
    slot_name(slot.slot)
    if slot.served_sha256:
        digest(slot.served_sha256)
    for name in ("frames", "errors", "dropped"):
        _check_count(name, getattr(slot, name))
    _check_finite("fps", slot.fps)
    Sketch.decode(slot.latency)


def _check_deployment(report: DeploymentReport) -> None:
    slot_name(report.slot)
    digest(report.manifest_sha256)
    for name in ("assignment_seq", "execution", "version"):
        _check_count(name, getattr(report, name))
    _check_finite("at", report.at)


def _check_count(name: str, number: int, *, at_least: int = 0) -> None:
    if not at_least <= number < _MAX_NUMBER:
        raise MalformedMessage(f"{name} is a count from {at_least}, got {number}")


def _check_finite(name: str, number: float | None) -> None:
    if number is not None and not math.isfinite(number):
        raise MalformedMessage(f"{name} is a number, got {number}")


def _check_short(name: str, part: str) -> None:
    if len(part) > MAX_CODE:
        raise MalformedMessage(f"each part of the {name} has at most {MAX_CODE} characters")
