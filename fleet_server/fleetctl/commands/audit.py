"""``fleetctl audit``: who did what, when and why."""

from __future__ import annotations

import click

from fleet_server.fleetctl import output
from fleet_server.fleetctl.session import connect


@click.group("audit")
def command() -> None:
    """Who did what, when and why.

    \b
    Example:
      fleetctl audit list
    """  # noqa: D301


@command.command("list")
@click.option("--before", type=int, metavar="ID", help="Only entries older than this one.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="At most so many.")
@output.json_option
def listing(before: int | None, limit: int, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """List what was done, newest first.

    \b
    Example:
      fleetctl audit list --limit 20
    """  # noqa: D301
    entries = connect().get("/v1/audit", before=before, limit=limit)
    if as_json:
        output.emit(entries)
        return
    rows = [
        (each["id"], output.moment(each["at"]), each["who"], each["action"], each["subject"], each["reason"])
        for each in entries
    ]
    output.table(("id", "at", "who", "action", "subject", "reason"), rows, "nothing was done yet")
