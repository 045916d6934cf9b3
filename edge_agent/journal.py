"""The journal: what the device has decided, durable before it acts (SPEC 8.6). SQLite, WAL, ``synchronous=FULL``.

Every write goes through :meth:`Journal._commit`, one transaction each: after a power cut all of it is there or nothing. A
second copy of what must never be lost stands in a small file of its own (:mod:`edge_agent.second_copy`).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec

from edge_agent.errors import DamagedJournal, JournalUnwritable
from edge_agent.execution import Execution
from edge_agent.files import sync_folder
from edge_agent.records import ModelRecord, Remembered
from edge_agent.second_copy import SecondCopy
from fleet_protocol.identifiers import Digest, SlotName, digest_of

_LOG: Final = logging.getLogger(__name__)
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE document (name TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE execution (number INTEGER PRIMARY KEY, slot TEXT NOT NULL, is_over INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE model (slot TEXT NOT NULL, role TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (slot, role)) STRICT;
CREATE TABLE report (slot TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
"""
_MAX_DAMAGED: Final = 3
Role = Literal["candidate", "previous"]
Statement = tuple[str, tuple[Any, ...]]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The last message that the device did not believe. ``at``: trusted Unix seconds."""

    code: str
    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class Change:
    """One execution's new state and all that becomes true with it."""

    execution: Execution
    report: bytes | None = None
    remembered: Remembered | None = None
    candidate: ModelRecord | None = None


class Journal:
    """The open journal. One thread at a time; :meth:`open` is the way in."""

    def __init__(self, path: Path, second: SecondCopy, mode: Literal["rwc", "ro"] = "rwc") -> None:
        """Open or create the file; raises DamagedJournal where it cannot be read."""
        self._second = second
        try:
            self._database = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True, isolation_level=None, check_same_thread=False, timeout=5,
            )  # fmt: skip
            self._prepare()
            stored = self._document("remembered", Remembered)
            self._read_every_row()
        except (sqlite3.DatabaseError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedJournal(f"the journal cannot be read: {error}") from error
        self.remembered = self._with_second_copy(stored)

    @classmethod
    def open(cls, folder: Path) -> tuple[Self, DamagedJournal | None]:
        """The journal in ``folder``. A damaged one is kept aside, a fresh one continues from the second copy."""
        path, second = folder / "journal.db", SecondCopy(folder / "second-copy")
        try:
            return cls(path, second), None
        except DamagedJournal as error:
            _LOG.error("journal.damaged detail=%s", error)
            _put_aside(path)
            return cls(path, second), error

    def close(self) -> None:
        """Close the file. Not closing it loses nothing."""
        self._database.close()

    # --- reading ------------------------------------------------------------------------------------------------------
    @property
    def envelope(self) -> bytes | None:
        """The last accepted assignment as it came; None before the first and after the journal was lost."""
        row = self._database.execute("SELECT body FROM document WHERE name = 'assignment'").fetchone()
        return None if row is None else bytes(row[0])

    @property
    def refusal(self) -> Refusal | None:
        """The last message that was not believed."""
        refusal: Refusal | None = self._document("refusal", Refusal)
        return refusal

    @property
    def is_lost(self) -> bool:
        """Whether an assignment was accepted of which this journal knows no more than its digest."""
        envelope = self.envelope
        known = None if envelope is None else digest_of(envelope)
        return self.remembered.seq > 0 and known != self.remembered.assignment

    @property
    def served(self) -> dict[str, str]:
        """What each slot served when the agent last looked; empty text for nothing."""
        return self._document("served", dict[str, str]) or {}

    def executions(self) -> list[Execution]:
        """Every execution that is not over, and each slot's last one, oldest first."""
        rows = self._database.execute("SELECT body FROM execution ORDER BY number").fetchall()
        return [msgspec.json.decode(body, type=Execution) for (body,) in rows]

    def model(self, slot: SlotName, role: Role) -> ModelRecord | None:
        """The model that is being installed in a slot, or the one before the present one."""
        row = self._database.execute("SELECT body FROM model WHERE slot = ? AND role = ?", (slot, role)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=ModelRecord)

    def committed(self, slot: SlotName) -> ModelRecord | None:
        """The model that a slot runs."""
        return self.remembered.committed.get(slot)

    def last_reports(self) -> list[bytes]:
        """The newest deployment report of each slot, as it was sent."""
        return [bytes(body) for (body,) in self._database.execute("SELECT body FROM report ORDER BY slot")]

    def referenced_blobs(self) -> frozenset[Digest]:
        """Every ciphertext that is still needed: running, the one before, being installed."""
        models = [record.blob for record in self._models()]
        running = [record.blob for record in self.remembered.committed.values()]
        offered = [Digest(each.item.blob_sha256) for each in self.executions() if not each.is_over]
        return frozenset((*models, *running, *offered))

    # --- writing ------------------------------------------------------------------------------------------------------
    def remember(self, remembered: Remembered) -> None:
        """Raise the floors."""
        self._write([], remembered)

    def refuse(self, refusal: Refusal) -> None:
        """Note why a message was not believed, for ``edge-agent status``; the same reason again writes nothing."""
        last = self.refusal
        if last is None or (last.code, last.detail) != (refusal.code, refusal.detail):
            self._write([_document("refusal", refusal)])

    def note_served(self, served: Mapping[str, str]) -> None:
        """Keep what the slots serve, for ``edge-agent status``; nothing is decided by it."""
        if served != self.served:
            self._write([_document("served", dict(served))])

    def accept(
        self,
        remembered: Remembered,
        envelope: bytes,
        offered: Sequence[Execution],
        reports: Mapping[SlotName, bytes],
        withdrawn: Sequence[SlotName],
    ) -> None:
        """An assignment, whole: floors, envelope, an OFFERED execution per item, no model for the slots it left out."""
        committed = {slot: record for slot, record in remembered.committed.items() if slot not in withdrawn}
        statements: list[Statement] = [("INSERT OR REPLACE INTO document VALUES ('assignment', ?)", (envelope,))]
        statements += [_execution(execution) for execution in offered]
        statements += [_report(slot, body) for slot, body in reports.items()]
        statements += [("DELETE FROM model WHERE slot = ? AND role = 'previous'", (slot,)) for slot in withdrawn]
        self._write(statements, msgspec.structs.replace(remembered, committed=committed))

    def record(self, change: Change) -> None:
        """A step of one execution, before anything is done about it. Slots keep their last finished execution only."""
        execution = change.execution
        statements = [_execution(execution)]
        if change.report is not None:
            statements.append(_report(execution.slot, change.report))
        if change.candidate is not None:
            statements.append(_model(execution.slot, "candidate", change.candidate))
        if execution.is_over:
            statements.append(
                ("DELETE FROM execution WHERE slot = ? AND number < ? AND is_over", (execution.slot, execution.number))
            )
            statements.append(("DELETE FROM model WHERE slot = ? AND role = 'candidate'", (execution.slot,)))
        self._write(statements, change.remembered)

    def commit(self, execution: Execution, candidate: ModelRecord, report: bytes) -> None:
        """The end of a bake: the new model is the slot's, the old one the one before, in one transaction."""
        before = self.remembered.committed.get(execution.slot)
        after = {**self.remembered.committed, execution.slot: candidate}
        statements = [
            _execution(execution),
            _report(execution.slot, report),
            ("DELETE FROM execution WHERE slot = ? AND number < ? AND is_over", (execution.slot, execution.number)),
            ("DELETE FROM model WHERE slot = ? AND role = 'candidate'", (execution.slot,)),
        ]
        if before is not None and before.digest != candidate.digest:
            statements.append(_model(execution.slot, "previous", before))
        self._write(statements, msgspec.structs.replace(self.remembered, committed=after))

    def _write(self, statements: list[Statement], remembered: Remembered | None = None) -> None:
        if remembered is not None:
            statements = [*statements, _document("remembered", remembered)]
        self._commit(statements)
        if remembered is not None:
            self.remembered = remembered
            self._second.write(remembered)

    def _commit(self, statements: Sequence[Statement]) -> None:
        """All ``statements`` or none, on the disk when this returns. The only place that writes; raises JournalUnwritable."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                self._database.execute(sql, values)
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise JournalUnwritable(f"the device goes on as it is until the journal can be written: {error}") from error

    # --- opening ------------------------------------------------------------------------------------------------------
    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        if self._database.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise DamagedJournal("the journal fails SQLite's own check")
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._database.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={_VERSION};COMMIT;")
        elif version != _VERSION:
            raise DamagedJournal(f"expected journal version {_VERSION}, got {version}")

    def _read_every_row(self) -> None:
        # A row that does not decode is found now, while the second copy can still stand in, and not in mid-deployment.
        self.executions()
        self._models()
        _ = self.refusal, self.served

    def _models(self) -> list[ModelRecord]:
        rows = self._database.execute("SELECT body FROM model").fetchall()
        return [msgspec.json.decode(body, type=ModelRecord) for (body,) in rows]

    def _with_second_copy(self, stored: Remembered | None) -> Remembered:
        try:
            copy = self._second.read()
        except DamagedJournal as error:
            _LOG.error("second_copy.damaged detail=%s", error)
            copy = None
        if stored is None:
            # A fresh journal beside an old copy: the journal was lost, the copy is all there is.
            return copy or Remembered()
        return stored if copy is None else stored.merged(copy)

    def _document(self, name: str, kind: type[Any]) -> Any:
        row = self._database.execute("SELECT body FROM document WHERE name = ?", (name,)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=kind)


def read_only(folder: Path) -> Journal | None:
    """The journal of a running agent, for ``edge-agent status``; None where there is none. Raises DamagedJournal."""
    path = folder / "journal.db"
    return Journal(path, SecondCopy(folder / "second-copy"), "ro") if path.exists() else None


def _document(name: str, value: Any) -> Statement:
    return "INSERT OR REPLACE INTO document VALUES (?, ?)", (name, msgspec.json.encode(value))


def _execution(execution: Execution) -> Statement:
    body = msgspec.json.encode(execution)
    return (
        "INSERT OR REPLACE INTO execution VALUES (?, ?, ?, ?)",
        (execution.number, execution.slot, int(execution.is_over), body),
    )


def _report(slot: str, body: bytes) -> Statement:
    return "INSERT OR REPLACE INTO report VALUES (?, ?)", (slot, body)


def _model(slot: str, role: Role, record: ModelRecord) -> Statement:
    return "INSERT OR REPLACE INTO model VALUES (?, ?, ?)", (slot, role, msgspec.json.encode(record))


def _put_aside(path: Path) -> None:
    taken = sorted(path.parent.glob(f"{path.name}.damaged-*"))
    for old in taken[: max(0, len(taken) - _MAX_DAMAGED + 1)]:
        old.unlink()
    # The content's digest as the name: a second look at the same damage does not make a second file.
    target = path.with_name(f"{path.name}.damaged-{digest_of(path.read_bytes())[:12]}")
    path.replace(target)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    sync_folder(path.parent)
