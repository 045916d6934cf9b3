"""Opening the registry: one engine, a session maker for writing and one for reading.

SQLite allows one writer. A transaction that first reads and then writes may be refused at its first write ("database is
locked", at once, whatever the timeout), because another one wrote in between. So writing transactions take the write lock
when they begin and wait for it; reading ones see a snapshot and never wait. On PostgreSQL both are ordinary transactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

BUSY_TIMEOUT_MS: Final = 10_000
_READS: Final = "edgefleet_reads"

_PRAGMAS: Final = (
    "PRAGMA journal_mode=WAL",  # readers do not block the writer
    "PRAGMA synchronous=FULL",  # an acknowledged report or issued sequence number survives a power cut
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
)


@dataclass(frozen=True, slots=True)
class Registry:
    """``sessions`` for transactions that may write, ``readers`` for those that only read."""

    engine: Engine
    sessions: sessionmaker[Session]
    readers: sessionmaker[Session]

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def open_registry(url: str) -> Registry:
    """Open the database at ``url`` (``sqlite:///…`` or PostgreSQL); its tables are made by migrations."""
    engine = create_engine(url, pool_size=10, max_overflow=20)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    reading = engine.execution_options(**{_READS: True})
    # Rows stay readable after their transaction: services return them.
    return Registry(engine, sessionmaker(engine, expire_on_commit=False), sessionmaker(reading, expire_on_commit=False))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transaction control would begin only at the first write; ours is in _begin_sqlite.
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READS) else "BEGIN IMMEDIATE")
