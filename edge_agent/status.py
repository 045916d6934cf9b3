"""What ``edge-agent status`` says: read from the journal of a running or stopped agent, without disturbing it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from edge_agent.adapters.credentials import Credentials
from edge_agent.adapters.keys import IdentityFolder
from edge_agent.config import AgentConfig
from edge_agent.execution import Execution
from edge_agent.files import is_held
from edge_agent.journal import Journal, read_only
from fleet_protocol.identifiers import SlotName


def describe(config: AgentConfig) -> dict[str, Any]:
    """Everything that status shows, ready for JSON. Raises DamagedJournal or MalformedConfig."""
    folder = IdentityFolder(config.state)
    member = folder.membership()
    journal = read_only(config.state)
    try:
        return {
            "fleet": member.fleet if member else None,
            "device": member.device if member else None,
            "certificate": _certificate(Credentials(folder)) if member else None,
            "is_running": is_held(config.state / "lock"),
            "assignment_seq": journal.remembered.seq if journal else 0,
            "root_version": journal.remembered.root_version if journal else 0,
            "last_refusal": _refusal(journal),
            "slots": [_slot(SlotName(slot.name), journal) for slot in config.slots],
        }
    finally:
        if journal is not None:
            journal.close()


def lines(described: dict[str, Any]) -> Iterator[str]:
    """The same for a person."""
    who = f"{described['device']} in fleet {described['fleet']}" if described["device"] else "not enrolled"
    yield f"{who}, agent {'running' if described['is_running'] else 'not running'}, seq {described['assignment_seq']}"
    yield from _certificate_lines(described["certificate"])
    for slot in described["slots"]:
        yield (
            f"slot {slot['slot']}: serves {slot['served'][:12] or 'nothing'}, "
            f"desired {slot['desired'][:12] or 'nothing'}, {slot['state']}"
        )
        if slot["error"]:
            yield f"  last error [{slot['error']['code']}]: {slot['error']['detail']}"
    if described["last_refusal"]:
        yield f"last refused message [{described['last_refusal']['code']}]: {described['last_refusal']['detail']}"


def _certificate(credentials: Credentials) -> dict[str, Any]:
    refusal = credentials.refusal()
    return {
        "ends_at": credentials.present().life().end_s,
        "is_new_one_waiting": credentials.following() is not None,
        "refusal": {"code": refusal.code, "detail": refusal.detail, "at": refusal.at} if refusal else None,
    }


def _certificate_lines(certificate: dict[str, Any] | None) -> Iterator[str]:
    if certificate is None:
        return
    yield f"certificate until {dt.datetime.fromtimestamp(certificate['ends_at'], dt.UTC):%Y-%m-%d %H:%M} UTC"
    refusal = certificate["refusal"]
    if refusal:
        yield f"  not renewed [{refusal['code']}]: {refusal['detail']}"
        yield "  with a new claim: edge-agent enrol --replace"


def _refusal(journal: Journal | None) -> dict[str, Any] | None:
    refusal = journal.refusal if journal else None
    return {"code": refusal.code, "detail": refusal.detail, "at": refusal.at} if refusal else None


def _slot(slot: SlotName, journal: Journal | None) -> dict[str, Any]:
    if journal is None:
        return {"slot": slot, "served": "", "committed": "", "desired": "", "state": "IDLE", "error": None}
    committed = journal.committed(slot)
    last = next((each for each in reversed(journal.executions()) if each.slot == slot), None)
    kept = committed.digest if committed else ""
    return {
        "slot": slot,
        "served": journal.served.get(slot, ""),
        "committed": kept,
        "desired": last.digest if last else kept,
        "state": last.state if last else "IDLE",
        "error": _error(last),
    }


def _error(last: Execution | None) -> dict[str, str] | None:
    return {"code": last.code, "detail": last.detail} if last is not None and last.code else None
