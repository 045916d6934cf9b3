"""``fleetctl claim``: one-time rights of devices to join."""

from __future__ import annotations

import click

from fleet_server.fleetctl import output
from fleet_server.fleetctl.session import connect


@click.group("claim")
def command() -> None:
    """One-time rights of devices to join.

    \b
    Example:
      fleetctl claim create cam-1 --board raspberry-pi-5 > claim
    """  # noqa: D301


@command.command("create")
@click.argument("device")
@click.option("--board", required=True, metavar="NAME", help="The board's name in firmware_configs.")
@click.option("--ttl", default="24h", show_default=True, metavar="DURATION", help="How long the claim can be redeemed.")
@output.json_option
def create(device: str, board: str, ttl: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Make a claim for DEVICE and print it; it is shown this once.

    \b
    Example:
      fleetctl claim create cam-1 --board raspberry-pi-5 --ttl 7d > claim
    """  # noqa: D301
    made = connect().post("/v1/claims", {"device": device, "board": board, "ttl_s": output.duration(ttl)})
    if as_json:
        output.emit(made)
        return
    click.echo(made["claim"])
    output.note(f"claim {made['id']} for {device}, once, until {output.moment(made['expires_at'])}")


@command.command("list")
@output.json_option
def listing(as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """List claims, without their secrets.

    \b
    Example:
      fleetctl claim list
    """  # noqa: D301
    claims = connect().get("/v1/claims")
    if as_json:
        output.emit(claims)
        return
    rows = [
        (
            each["id"],
            each["device_id"],
            each["board"],
            each["state"],
            each["created_by"],
            output.moment(each["expires_at"]),
        )
        for each in claims
    ]
    output.table(
        ("id", "device", "board", "state", "by", "expires"), rows, "no claim yet; `fleetctl claim create` makes one"
    )
