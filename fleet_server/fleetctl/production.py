"""Claims for a production run: from the checked list of devices to files that only their owner reads."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet_protocol.claim import Claim
from fleet_protocol.errors import Conflict, FleetError, MalformedMessage, NotFound
from fleet_protocol.identifiers import BoardName
from fleet_server.adapters.files import PRIVATE, StagedFile, new_file, sync_directory, write_file
from fleet_server.fleetctl import labels, output, roster
from fleet_server.fleetctl.roster import Row
from fleet_server.image import sources

if TYPE_CHECKING:
    from fleet_server.fleetctl.connection import Connection

Made = dict[str, Any]


class CannotSave(FleetError):
    code = "cannot-save"


def read_roster(path: Path) -> tuple[Row, ...]:
    """The devices in a CSV file; a board that ends in .toml is a path from the file's folder.

    Raises NotFound, InputTooLarge or MalformedRoster.
    """
    try:
        with path.open("rb") as file:
            content = file.read(roster.MAX_BYTES + 1)
    except OSError as error:
        raise NotFound(f"the list {path} cannot be read: {error.strerror}") from error
    names: dict[str, BoardName] = {}

    def board_of(cell: str) -> BoardName:
        if cell not in names:
            reference = str(path.parent / cell) if cell.endswith(".toml") else cell
            names[cell] = BoardName(sources.read_board(reference)[0].name)
        return names[cell]

    return roster.parse(content, board_of)


def check_free(paths: Sequence[Path]) -> None:
    """Raises Conflict where a file or folder stands already: it may hold claims that are shown nowhere else."""
    for path in paths:
        if path.exists():
            raise Conflict(f"{path} exists; it may hold claims, so choose another name")


def produce(rows: Sequence[Row], ttl_s: float, out: Path, sheet: Path | None, connection: Connection) -> list[Made]:
    """Make a claim per row and save all of them; what was made, without the secrets, in the order of ``rows``.

    ``out``: a .csv file, else a folder of one file per device. ``sheet``: labels to print. The places are taken before the
    server is asked. Raises CannotSave; then the claims, if they were made at all, have been revoked.
    """
    devices = [{"device": row.device, "board": row.board, "tags": row.tags} for row in rows]
    try:
        with ExitStack() as stack:
            folder = None if out.suffix == ".csv" else stack.enter_context(_new_folder(out))
            table = None if folder else stack.enter_context(new_file(out.parent))
            labelled = stack.enter_context(new_file(sheet.parent)) if sheet else None
            made = _checked(connection.post("/v1/claims/batch", {"devices": devices, "ttl_s": ttl_s}), rows)
            try:
                if labelled and sheet:
                    _keep(labelled, labels.sheet(_labels(rows, made)), sheet)
                if table:
                    _keep(table, _csv(rows, made), out)
                if folder:
                    _fill(folder, made, out)
            except (OSError, KeyboardInterrupt):
                _withdraw(connection, made)
                raise
    except OSError as error:
        raise CannotSave(
            f"the claims could not be saved ({error.strerror}); none is left that could be used"
        ) from error
    return [{key: value for key, value in each.items() if key != "claim"} for each in made]


def _checked(reply: Any, rows: Sequence[Row]) -> list[Made]:
    if not isinstance(reply, list) or [each.get("device") for each in reply] != [row.device for row in rows]:
        raise MalformedMessage("the server's answer does not name the devices that were asked for")
    for each in reply:
        Claim.parse(each["claim"])
    return reply


def _withdraw(connection: Connection, made: Sequence[Made]) -> None:
    for each in made:
        connection.post(f"/v1/claims/{each['id']}/revoke", {"reason": "could not be saved"})


@contextmanager
def _new_folder(final: Path) -> Iterator[Path]:
    """A folder beside ``final`` that only its owner enters, gone at the end unless it was renamed."""
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=final.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, made: Sequence[Made], final: Path) -> None:
    for each in made:
        write_file(folder / f"{each['device']}.claim", f"{each['claim']}\n".encode(), PRIVATE)
    folder.replace(final)
    sync_directory(final.parent)


def _keep(staged: StagedFile, content: bytes, final: Path) -> None:
    staged.stream.write(content)
    staged.keep_as(final, PRIVATE)


def _csv(rows: Sequence[Row], made: Sequence[Made]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("device", "board", "tags", "claim_id", "expires_at", "claim"))
    for row, each in zip(rows, made, strict=True):
        writer.writerow((row.device, row.board, _tags(row), each["id"], int(each["expires_at"]), each["claim"]))
    return text.getvalue().encode()


def _labels(rows: Sequence[Row], made: Sequence[Made]) -> Iterator[labels.Label]:
    for row, each in zip(rows, made, strict=True):
        until = output.moment(each["expires_at"])
        yield labels.Label(row.device, row.board, _tags(row), each["id"], until, each["claim"])


def _tags(row: Row) -> str:
    return ";".join(f"{key}={value}" for key, value in sorted(row.tags.items()))
