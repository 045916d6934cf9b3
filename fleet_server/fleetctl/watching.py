"""What ``rollout watch`` says: lines from one look at a rollout to the next (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

ENDED_WELL: Final = frozenset({"FINISHED"})
ENDED_BADLY: Final = frozenset({"ROLLED_BACK", "ABORTED"})
_COUNTS: Final = (
    ("in_flight", "on the way"),
    ("failed", "failed"),
    ("timed_out", "timed out"),
    ("restored", "restored"),
)


def lines(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """One line for each thing that changed between two looks; all of it at the first."""
    said = []
    if before is None or before["state"] != after["state"]:
        said.append(f"rollout {after['id']} {after['model']} {after['version']}: {after['state']}")
    known = {wave["number"]: _told(wave) for wave in before["waves"]} if before else {}
    opened = (wave for wave in after["waves"] if wave["state"] != "PENDING")
    said += [_told(wave) for wave in opened if known.get(wave["number"]) != _told(wave)]
    return said


def closing(rollout: Mapping[str, Any]) -> str:
    """Why a rollout ended as it did: the verdict of the last wave that has one."""
    verdicts = [wave["verdict"] for wave in rollout["waves"] if wave["verdict"]]
    return f"rollout {rollout['id']} ended {rollout['state']}: {verdicts[-1] if verdicts else 'no wave was judged'}"


def _told(wave: Mapping[str, Any]) -> str:
    counts = [f"{wave['confirmed']} of {wave['members']} serving"]
    counts += [f"{wave[key]} {words}" for key, words in _COUNTS if wave[key]]
    verdict = f" - {wave['verdict']}" if wave["verdict"] else ""
    return f"wave {wave['number']} ({wave['title']}) {wave['state']}: {', '.join(counts)}{verdict}"
