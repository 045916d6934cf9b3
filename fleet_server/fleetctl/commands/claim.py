"""``fleetctl claim``: one-time rights of devices to join."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from fleet_server.fleetctl import output
from fleet_server.fleetctl.session import connect

_FILE = click.Path(path_type=Path)


@click.group("claim")
def command() -> None:
    """One-time rights of devices to join.

    \b
    Example:
      fleetctl claim create cam-1 --board raspberry-pi-5 > claim
    """  # noqa: D301


@command.command("create")
@click.argument("device", required=False)
@click.option("--board", metavar="NAME", help="The board's name in firmware_configs.")
@click.option("--replace", is_flag=True, help="DEVICE is enrolled already: new keys take the place of its own.")
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="A list of devices: device,board,tags.")
@click.option("--out", type=_FILE, metavar="CSV|DIR", help="With --csv: the file or folder for the claims.")
@click.option("--labels", type=_FILE, metavar="HTML", help="With --csv: labels with QR codes, to print.")
@click.option("--ttl", default="24h", show_default=True, metavar="DURATION", help="How long the claim can be redeemed.")
@output.json_option
def create(
    device: str | None,
    board: str | None,
    replace: bool,  # noqa: FBT001 - click's flag
    csv_file: Path | None,
    out: Path | None,
    labels: Path | None,
    ttl: str,
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """Make a claim for DEVICE and print it (it is shown this once), or one for every row of a list.

    A list is checked whole first; one wrong row, and no claim is made. The files can be read by you only.

    \b
    Example:
      fleetctl claim create cam-1 --board raspberry-pi-5 --ttl 7d > claim
      fleetctl claim create cam-1 --board raspberry-pi-5 --replace > claim
      fleetctl claim create --csv devices.csv --out claims.csv --labels labels.html --ttl 30d
    """  # noqa: D301
    if (device is None) == (csv_file is None):
        raise click.UsageError("give DEVICE or --csv")
    if csv_file is not None:
        if out is None or board is not None or replace:
            raise click.UsageError("--csv needs --out, the boards stand in the list, and --replace is for one DEVICE")
        _create_all(csv_file, out, labels, output.duration(ttl), as_json=as_json)
        return
    if board is None or out is not None or labels is not None:
        raise click.UsageError("a claim for one DEVICE needs --board; --out and --labels go with --csv")
    order = {"device": device, "board": board, "ttl_s": output.duration(ttl), "replace": replace}
    made = connect().post("/v1/claims", order)
    if as_json:
        output.emit(made)
        return
    click.echo(made["claim"])
    output.note(f"claim {made['id']} for {device}, once, until {output.moment(made['expires_at'])}")


def _create_all(csv_file: Path, out: Path, labels: Path | None, ttl_s: float, *, as_json: bool) -> None:
    from fleet_server.fleetctl import production

    rows = production.read_roster(csv_file)
    production.check_free([path for path in (out, labels) if path is not None])
    made = production.produce(rows, ttl_s, out, labels, connect())
    if as_json:
        output.emit(made)
    output.note(f"{len(made)} claims in {out}, each once, until {output.moment(made[0]['expires_at'])}")
    if labels is not None:
        output.note(f"{labels}: labels to print; whoever reads a label can redeem its claim")


@command.command("list")
@click.option("--state", type=click.Choice(["open", "used", "expired", "revoked"]), help="Only claims in this state.")
@click.option("--device", metavar="DEVICE", help="Only claims for this device.")
@output.json_option
def listing(state: str | None, device: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """List claims, newest first, without their secrets: who made them, for what, and what became of them.

    \b
    Example:
      fleetctl claim list --state open
    """  # noqa: D301
    claims = connect().get("/v1/claims", state=state, device=device)
    if as_json:
        output.emit(claims)
        return
    rows = [
        (each["id"], each["device_id"], each["board"], each["state"], each["created_by"],
         output.moment(each["created_at"]), _end(each))
        for each in claims
    ]  # fmt: skip
    output.table(
        ("id", "device", "board", "state", "by", "made", "what became of it"),
        rows,
        "no claim; `fleetctl claim create` makes one",
    )


@command.command("revoke")
@click.argument("claim", metavar="ID")
@output.reason_option
@output.yes_option
def revoke(claim: str, reason: str, yes: bool) -> None:  # noqa: FBT001 - click's flag
    """Withdraw a claim that was not used, by its id.

    \b
    Example:
      fleetctl claim revoke 3f9c0a1b2c4d --reason "the card was lost" --yes
    """  # noqa: D301
    output.confirm(f"Revoke claim {claim}?", yes=yes)
    connect().post(f"/v1/claims/{quote(claim, safe='')}/revoke", {"reason": reason})
    output.note(f"claim {claim} is revoked")


def _end(claim: dict[str, Any]) -> str:
    if claim["state"] == "used":
        return f"used {output.moment(claim['used_at'])} by keys {claim['used_by'][:12]}"
    if claim["state"] == "revoked":
        because = f": {claim['revoked_because']}" if claim["revoked_because"] else ""
        return f"revoked {output.moment(claim['revoked_at'])} by {claim['revoked_by']}{because}"
    return f"{'until' if claim['state'] == 'open' else 'ended'} {output.moment(claim['expires_at'])}"
