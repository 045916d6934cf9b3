"""``fleetctl device``: what devices serve, and why they do not serve what they should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from fleet_protocol.errors import MalformedInput
from fleet_server.fleetctl import output
from fleet_server.fleetctl.session import connect

if TYPE_CHECKING:
    from fleet_server.fleetctl.connection import Connection


@click.group("device")
def command() -> None:
    """What devices serve, and why they do not serve what they should.

    \b
    Example:
      fleetctl device list --filter cam
      fleetctl device why cam-1
    """  # noqa: D301


@command.command("list")
@click.option("--filter", "text", default="", metavar="TEXT", help="Part of an id or board.")
@click.option("--board", default="", metavar="NAME", help="Only this board.")
@click.option(
    "--presence", type=click.Choice(["online", "offline", "revoked"]), help="Only devices with this connection."
)
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many.")
@output.json_option
def listing(text: str, board: str, presence: str | None, limit: int, as_json: bool) -> None:  # noqa: FBT001
    """List devices with what each slot serves; an asterisk marks what is not (yet) as desired.

    \b
    Example:
      fleetctl device list --presence offline
      fleetctl device list --json
    """  # noqa: D301
    devices = _pages(connect(), limit, text=text, board=board, presence=presence)
    if as_json:
        output.emit(devices)
        return
    headings = ("device", "board", "connection", "slot", "serves", "fps", "p95 ms", "temp", "last seen")
    rows = [row for device in devices for row in _rows(device)]
    output.table(headings, rows, "no device; `fleetctl claim create` makes a claim for one")


@command.command("get")
@click.argument("device")
@output.json_option
def get(device: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Show one device: slots, board, the latest attempts.

    \b
    Example:
      fleetctl device get cam-1
    """  # noqa: D301
    detail = connect().get(f"/v1/devices/{quote(device, safe='')}")
    if as_json:
        output.emit(detail)
        return
    view = detail["device"]
    tags = ",".join(f"{key}={value}" for key, value in sorted(view["tags"].items()))
    output.pairs(
        [
            ("device", view["id"]),
            ("board", view["board"]),
            ("connection", view["presence"]),
            ("last seen", output.moment(view["last_seen"])),
            ("tags", tags),
            ("assignment", detail["assignment_seq"] or None),
            ("agent", detail["agent_version"]),
            ("why", detail["why"]["sentence"]),
        ]
    )
    for slot in view["slots"]:
        click.echo(f"\nslot {slot['slot']}")
        output.pairs(
            [("  shall serve", output.model_text(slot["desired"])), ("  serves", output.model_text(slot["serves"]))]
        )


@command.command("why")
@click.argument("device")
@output.json_option
def why(device: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Say in one sentence why DEVICE is (not) on its desired release.

    \b
    Example:
      fleetctl device why cam-1
    """  # noqa: D301
    answer = connect().get(f"/v1/devices/{quote(device, safe='')}/why")
    if as_json:
        output.emit(answer)
        return
    click.echo(f"{answer['verdict']}: {answer['sentence']}")
    if answer["advice"]:
        click.echo(answer["advice"])


@command.command("set")
@click.argument("device")
@click.argument("tags", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
@output.reason_option
@output.json_option
def set_tags(device: str, tags: tuple[str, ...], reason: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Set tags (KEY=VALUE) or remove them (KEY-); the others stay.

    \b
    Example:
      fleetctl device set cam-1 site=berlin line=2 legacy-
    """  # noqa: D301
    connection, path = connect(), f"/v1/devices/{quote(device, safe='')}"
    present = connection.get(path)["device"]["tags"]
    detail = connection.put(f"{path}/tags", {"tags": changed_tags(present, tags), "reason": reason})
    if as_json:
        output.emit(detail)
    else:
        output.pairs(sorted(detail["device"]["tags"].items()) or [("tags", None)])


@command.command("revoke")
@click.argument("device")
@output.reason_option
@output.yes_option
@output.json_option
def revoke(device: str, reason: str, yes: bool, as_json: bool) -> None:  # noqa: FBT001 - click's flags
    """Take DEVICE out of the fleet: no keys, no assignments, no connection. What it already holds stays with it.

    \b
    Example:
      fleetctl device revoke cam-1 --reason "stolen" --yes
    """  # noqa: D301
    output.confirm(f"Revoke {device}? It can come back only with a new claim.", yes=yes)
    detail = connect().post(f"/v1/devices/{quote(device, safe='')}/revoke", {"reason": reason})
    if as_json:
        output.emit(detail)
    else:
        output.note(f"{device} is revoked")


def changed_tags(present: dict[str, str], changes: tuple[str, ...]) -> dict[str, str]:
    """``present`` with ``key=value`` set and ``key-`` removed; raises MalformedInput."""
    tags = dict(present)
    for change in changes:
        key, separator, value = change.partition("=")
        if separator and key:
            tags[key] = value
        elif not separator and key.endswith("-") and len(key) > 1:
            tags.pop(key[:-1], None)
        else:
            raise MalformedInput(f"a tag is set by KEY=VALUE and removed by KEY-, got {change[:80]!r}")
    return tags


def _pages(connection: Connection, limit: int, **query: str | None) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None and len(devices) < limit:
        page = connection.get("/v1/devices", after=after, limit=min(200, limit - len(devices)), **query)
        devices += page["devices"]
        after = page["next_after"]
    return devices


def _rows(device: dict[str, Any]) -> list[tuple[object, ...]]:
    head = (device["id"], device["board"], device["presence"])
    tail = (device["temperature_celsius"], output.moment(device["last_seen"]))
    if not device["slots"]:
        return [(*head, None, None, None, None, *tail)]
    return [
        (
            *head,
            slot["slot"],
            output.model_text(slot["serves"]) + ("" if slot["is_desired"] else " *"),
            slot["fps"],
            slot["p95_ms"],
            *tail,
        )
        for slot in device["slots"]
    ]
