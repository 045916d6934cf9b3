"""``fleetctl token``: access for people and programs."""

from __future__ import annotations

import click

from fleet_server.fleetctl import output
from fleet_server.fleetctl.session import connect


@click.group("token")
def command() -> None:
    """Access for people and programs.

    \b
    Example:
      fleetctl token create wall-display --role viewer
    """  # noqa: D301


@command.command("create")
@click.argument("name")
@click.option(
    "--role", required=True, type=click.Choice(["viewer", "operator", "release", "admin"]), help="What it may do."
)
@click.option("--ttl", metavar="DURATION", help="How long it is valid (default: until it is revoked).")
@output.json_option
def create(name: str, role: str, ttl: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Make a token and print it; it is shown this once.

    \b
    Example:
      fleetctl token create ci --role release --ttl 90d > ci.token
    """  # noqa: D301
    ttl_s = None if ttl is None else output.duration(ttl)
    made = connect().post("/v1/tokens", {"name": name, "role": role, "ttl_s": ttl_s})
    if as_json:
        output.emit(made)
        return
    click.echo(made["token"])
    until = "it is revoked" if made["expires_at"] is None else output.moment(made["expires_at"])
    output.note(f"token {made['id']} {name} ({role}) until {until}")


@command.command("list")
@output.json_option
def listing(as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """List tokens, without their secrets.

    \b
    Example:
      fleetctl token list
    """  # noqa: D301
    tokens = connect().get("/v1/tokens")
    if as_json:
        output.emit(tokens)
        return
    rows = [
        (each["id"], each["name"], each["role"], output.moment(each["created_at"]), output.moment(each["expires_at"]),
         output.moment(each["revoked_at"]))
        for each in tokens
    ]  # fmt: skip
    output.table(("id", "name", "role", "created", "expires", "revoked"), rows, "no token")


@command.command("revoke")
@click.argument("token", type=int)
@output.reason_option
@output.yes_option
def revoke(token: int, reason: str, yes: bool) -> None:  # noqa: FBT001 - click's flag
    """End a token by its id, and every browser session opened with it.

    \b
    Example:
      fleetctl token revoke 4 --reason "left the company" --yes
    """  # noqa: D301
    output.confirm(f"Revoke token {token}?", yes=yes)
    connect().post(f"/v1/tokens/{token}/revoke", {"reason": reason})
    output.note(f"token {token} is revoked")
