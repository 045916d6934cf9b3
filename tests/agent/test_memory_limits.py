"""What the device remembers and checks again, each where no other check would notice the loss."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from edge_agent.errors import DamagedJournal
from edge_agent.journal import Journal
from edge_agent.records import ModelRecord, Remembered, memory_for
from edge_agent.worker.opening import open_payload
from fleet_protocol.errors import ModelNotLoadable
from fleet_protocol.identifiers import digest_of
from fleet_protocol.manifest import Manifest
from tests.agent.tiny_model import TinyRelease
from tests.protocol import samples


def test_a_floor_of_one_slot_keeps_those_of_the_others_and_never_sinks() -> None:
    kept = Remembered(floors={"cam": 3}).with_floor("door", 2).with_floor("cam", 1)
    assert kept.floors == {"cam": 3, "door": 2}


def test_a_lost_journal_takes_up_its_own_last_envelope_and_no_other_of_the_same_number() -> None:
    mine, other = digest_of(b"accepted last"), digest_of(b"another one")
    kept = Remembered(seq=7, assignment=mine)
    assert memory_for(kept, mine, is_lost=True).seq == 6
    assert memory_for(kept, other, is_lost=True).seq == 7
    assert memory_for(kept, mine, is_lost=False).seq == 7


def test_the_memory_with_the_lower_number_may_know_a_later_time() -> None:
    assert Remembered(seq=5, time_s=1.0).merged(Remembered(seq=4, time_s=9.0)).time_s == 9.0


def test_a_manifest_that_rotted_in_the_journal_is_not_used() -> None:
    made = samples.manifest()
    item = samples.item_of(made, digest_of(made.encode()), digest_of(b"blob"), 1, bytes(80))
    assert ModelRecord(item=item, manifest=made.encode()).parsed() == made
    with pytest.raises(DamagedJournal):
        ModelRecord(item=item, manifest=samples.manifest(counter=8).encode()).parsed()


def test_the_journal_waits_for_the_disk(tmp_path: Path) -> None:
    """SQLite's ``synchronous`` is 2 (FULL): a commit returns when it is on the disk."""
    journal, _ = Journal.open(tmp_path)
    database: sqlite3.Connection = journal._database
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    journal.close()


@pytest.mark.parametrize("body", [b"", b"{", b"[1]"])
@pytest.mark.parametrize(
    "row",
    [
        "INSERT OR REPLACE INTO model VALUES ('cam', 'previous', ?)",
        "INSERT OR REPLACE INTO execution VALUES (1, 'cam', 0, ?)",
        "INSERT OR REPLACE INTO document VALUES ('refusal', ?)",
        "INSERT OR REPLACE INTO document VALUES ('served', ?)",
        "INSERT OR REPLACE INTO document VALUES ('remembered', ?)",
    ],
)
def test_a_row_that_cannot_be_read_is_found_when_the_journal_opens(tmp_path: Path, row: str, body: bytes) -> None:
    """Found in the middle of a deployment it would end the agent at each start."""
    journal, _ = Journal.open(tmp_path)
    journal.remember(Remembered(seq=7))
    journal._database.execute(row, (body,))
    journal.close()
    again, loss = Journal.open(tmp_path)
    assert isinstance(loss, DamagedJournal)
    assert again.remembered.seq == 7, "the second copy stands in"
    again.close()


def test_a_part_whose_digest_is_not_the_manifests_is_not_loaded(tmp_path: Path) -> None:
    def lie(made: Manifest) -> Manifest:
        model, *rest = made.payload.parts
        parts = (msgspec.structs.replace(model, sha256="0" * 64), *rest)
        return msgspec.structs.replace(made, payload=msgspec.structs.replace(made.payload, parts=parts))

    sealed = TinyRelease(change=lie).seal(tmp_path)
    with pytest.raises(ModelNotLoadable, match="part model"):
        open_payload(sealed.blob, sealed.key, sealed.manifest)
