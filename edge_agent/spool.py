"""Reports on their way out: in SQLite, bounded, in order, forgotten only when the broker has acknowledged them (SPEC 10.4)."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from edge_agent.ports import Clock, Transport
from fleet_protocol.errors import BrokerUnreachable, DeliveryError, DiskFull, InputTooLarge
from fleet_protocol.messages import MAX_BYTES

log = logging.getLogger(__name__)

MIN_BYTES: Final = 256 * 1024
MAX_STATES: Final = 1000
"""The updater repeats the newest state of each slot on every connection, so even the oldest of these are history."""
BATCH: Final = 32
"""Reports sent between two deletions; a power cut sends at most these again, which the server drops by their numbers."""
RETRY_S: Final = (0.5, 15.0)
"""First and longest wait after a failed delivery; each is shortened by up to half, so that a fleet does not return at once."""
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS report (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL, is_state INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS report_by_kind ON report (is_state, id);
CREATE TABLE IF NOT EXISTS number (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_NEXT_NUMBER: Final = (
    "INSERT INTO number VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value"
)
_ResultT = TypeVar("_ResultT")


@dataclass(frozen=True, slots=True)
class SpooledReport:
    """One report that waits; ``number`` gives the order."""

    number: int
    topic: str
    payload: bytes


class SqliteSpool:
    """Implements :class:`edge_agent.ports.Spool`. All methods may be called from any thread.

    The file, its log included, stays below ``max_bytes``. A file that is damaged is put aside (``<path>.damaged``) and a
    new one begins. Every method but ``put`` raises DiskFull where the disk refuses; ``put`` counts the report as dropped.
    """

    def __init__(self, path: Path, max_bytes: int, clock: Clock = time.time) -> None:
        """``max_bytes`` is at least 256 KiB; ``clock`` only gives the first number of a new file."""
        self._path, self._clock = path, clock
        self._max_bytes = max(max_bytes, MIN_BYTES)
        self._changed = threading.Condition()
        self._unsaved_drops = 0
        self._is_closed = False
        self._database = self._open_or_begin_anew()

    # --- keeping -----------------------------------------------------------------------------------------------------
    def put(self, topic: str, payload: bytes, *, is_state: bool) -> None:
        """See the port. Returns when the report is on the disk, or was counted as dropped because that is impossible."""
        if len(payload) > MAX_BYTES:
            raise InputTooLarge(f"a report has at most {MAX_BYTES} bytes, got {len(payload)}")
        with self._changed:
            try:
                self._write(lambda database: self._insert(database, (topic, payload, int(is_state))))
            except DiskFull as error:
                self._unsaved_drops += 1
                log.warning("spool: a report is lost: %s", error)
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """See the port."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_closed or self._count() > 0, timeout_s) and self._count() > 0

    def oldest(self, count: int) -> list[SpooledReport]:
        """Up to ``count`` reports, oldest first."""
        with self._changed:
            rows = self._read("SELECT id, topic, payload FROM report ORDER BY id LIMIT ?", (count,))
        return [SpooledReport(*row) for row in rows]

    def forget(self, numbers: Sequence[int]) -> None:
        """Remove reports that were delivered."""
        with self._changed:
            self._write(
                lambda database: database.executemany("DELETE FROM report WHERE id = ?", [(each,) for each in numbers])
            )
            if self._count() == 0:
                # As a script: as a statement, Python would step it once, which frees one page.
                self._write(lambda database: database.executescript("PRAGMA incremental_vacuum"))

    # --- figures -----------------------------------------------------------------------------------------------------
    @property
    def depth(self) -> int:
        """Reports waiting."""
        with self._changed:
            return self._count()

    @property
    def dropped(self) -> int:
        """Reports given up since the spool was first made."""
        with self._changed:
            rows = self._read("SELECT value FROM number WHERE name = 'dropped'")
            return (int(rows[0][0]) if rows else 0) + self._unsaved_drops

    def next_number(self, name: str) -> int:
        """1 more than the last number of this name, over restarts; a new file begins at the present Unix second.

        So the numbers also grow over the loss of the file, as long as they are taken less often than once a second.
        """
        first = max(int(self._clock()), 1)
        with self._changed:
            return self._write(lambda database: int(database.execute(_NEXT_NUMBER, (name, first)).fetchone()[0]))

    def close(self) -> None:
        """Close the file; ``wait`` returns."""
        with self._changed:
            self._is_closed = True
            self._database.close()
            self._changed.notify_all()

    # --- the file ----------------------------------------------------------------------------------------------------
    def _insert(self, database: sqlite3.Connection, row: tuple[str, bytes, int]) -> None:
        database.execute("INSERT INTO report (topic, payload, is_state) VALUES (?, ?, ?)", row)
        while self._is_over_budget(database) and _drop_oldest(database):
            pass

    def _is_over_budget(self, database: sqlite3.Connection) -> bool:
        pages, free, size = (_pragma(database, name) for name in ("page_count", "freelist_count", "page_size"))
        states = database.execute("SELECT count(*) FROM report WHERE is_state").fetchone()[0]
        # Half of the space is for the write-ahead log, which holds at most the pages of a few transactions.
        return (pages - free) * size > self._max_bytes // 2 or states > MAX_STATES

    def _count(self) -> int:
        return 0 if self._is_closed else int(self._read("SELECT count(*) FROM report")[0][0])

    def _read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._healed(lambda: self._database.execute(query, values).fetchall())

    def _write(self, change: Callable[[sqlite3.Connection], _ResultT]) -> _ResultT:
        """Make ``change`` in one transaction; it is on the disk when this returns."""

        def transaction() -> _ResultT:
            with self._database:
                return change(self._database)

        return self._healed(transaction)

    def _healed(self, act: Callable[[], _ResultT]) -> _ResultT:
        """Do ``act``, if need be on a new file. Raises DiskFull where the disk refuses."""
        try:
            try:
                return act()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._database.close()
                self._database = self._open_or_begin_anew()
                return act()
        except sqlite3.OperationalError as error:
            raise DiskFull(f"the spool {self._path.name} cannot be used: {error}") from error

    def _open_or_begin_anew(self) -> sqlite3.Connection:
        try:
            return _open(self._path, self._max_bytes)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            log.warning("spool: %s is damaged (%s); put aside, unsent reports are lost", self._path.name, error)
        self._path.replace(self._path.with_name(f"{self._path.name}.damaged"))
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        return _open(self._path, self._max_bytes)


def _open(path: Path, max_bytes: int) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA wal_autocheckpoint = {max(max_bytes // 16 // _pragma(database, 'page_size'), 4)}")
        _check(database)
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _Damaged(verdict)


class _Damaged(sqlite3.DatabaseError):
    """``quick_check`` found what no statement has stumbled over yet."""


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    # A program's own mistakes carry no code; extended codes keep the kind in the low byte.
    return isinstance(error, _Damaged) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def _drop_oldest(database: sqlite3.Connection) -> bool:
    """Give up the oldest sample, where there is none the oldest state, and count it; whether there was anything."""
    row = database.execute("SELECT id FROM report ORDER BY is_state, id LIMIT 1").fetchone()
    if row is None:
        return False
    database.execute("DELETE FROM report WHERE id = ?", row)
    database.execute(_NEXT_NUMBER, ("dropped", 1))
    return True


def drain(spool: SqliteSpool, transport: Transport, stop: threading.Event, random: Callable[[], float]) -> None:
    """Deliver reports in order until ``stop`` is set. ``random``: uniform in 0..1, for the jitter."""
    failures = 0
    while not stop.is_set():
        try:
            if spool.wait(1.0):
                _send(spool, transport)
            failures = 0
        except DeliveryError as error:
            failures += 1
            log.debug("spool: %s", error)
            stop.wait(retry_delay(failures, random()))


def retry_delay(failures: int, jitter: float) -> float:
    """Seconds to wait after so many failures in a row (1 or more); ``jitter`` in 0..1 takes up to half away."""
    first, longest = RETRY_S
    return min(first * 2.0 ** min(failures - 1, 16), longest) * (1.0 - jitter / 2)


def _send(spool: SqliteSpool, transport: Transport) -> None:
    if not transport.is_connected:
        raise BrokerUnreachable("the broker is not connected; reports wait on disk")
    delivered: list[int] = []
    try:
        for report in spool.oldest(BATCH):
            transport.publish(report.topic, report.payload)
            delivered.append(report.number)
    finally:
        spool.forget(delivered)
