"""``fleetctl context``: servers and tokens that this machine knows."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fleet_protocol.errors import FleetError
from fleet_server.fleetctl import output
from fleet_server.fleetctl.session import contexts
from fleet_server.fleetctl.target import Target, checked_server, checked_token, read_token


@click.group("context")
def command() -> None:
    """Servers and tokens that this machine knows.

    \b
    Example:
      fleetctl context add production --server https://fleet.example:8443 --ca ca.pem --token-stdin < token
      fleetctl context use production
    """  # noqa: D301


@command.command("add")
@click.argument("name")
@click.option("--server", required=True, metavar="URL", help="https://host:port")
@click.option("--ca", required=True, type=click.Path(exists=True, dir_okay=False), help="The fleet's CA certificate.")
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False), help="Read the token from a file.")
def add(name: str, server: str, ca: str, token_stdin: bool, token_file: str | None) -> None:  # noqa: FBT001 - click's flag
    """Keep a server with a token (mode 0600) and use it from now on; the token is tried first.

    \b
    Example:
      fleetctl context add production --server https://fleet.example:8443 --ca ca.pem --token-stdin < token
    """  # noqa: D301
    if token_stdin == (token_file is not None):
        raise click.UsageError(
            "give the token by --token-stdin or by --token-file (never as an argument: others can see those)"
        )
    text = read_token(Path(token_file)) if token_file else sys.stdin.readline(200)
    target = Target(checked_server(server), Path(ca).absolute(), checked_token(text))
    from fleet_server.fleetctl.connection import Connection

    connection = Connection(target)
    try:
        who = connection.get("/v1/whoami")
    finally:
        connection.close()
    contexts().with_context(name, target).save()
    output.note(f"{name}: fleet {who['fleet']}, signed in as {who['name']} ({who['role']})")


@command.command("use")
@click.argument("name")
def use(name: str) -> None:
    """Make another context the current one.

    \b
    Example:
      fleetctl context use staging
    """  # noqa: D301
    known = contexts()
    known.with_context(name, known.named(name)).save()


@command.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Forget a context and its token.

    \b
    Example:
      fleetctl context remove staging
    """  # noqa: D301
    contexts().without(name).save()


@command.command("list")
@output.json_option
def listing(as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """List contexts, without their tokens.

    \b
    Example:
      fleetctl context list
    """  # noqa: D301
    known = contexts()
    rows = [
        {"name": name, "server": each.server, "ca": str(each.ca), "current": name == known.current}
        for name, each in sorted(known.known.items())
    ]
    if as_json:
        output.emit(rows)
        return
    table = [("*" if row["current"] else " ", row["name"], row["server"], row["ca"]) for row in rows]
    output.table(("", "name", "server", "ca"), table, "no context yet; `fleetctl context add` keeps one")


@command.command("check")
@output.json_option
def check(as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Ask the server who this token is.

    \b
    Example:
      fleetctl context check
    """  # noqa: D301
    from fleet_server.fleetctl.session import connect

    try:
        who = connect().get("/v1/whoami")
    except FleetError:
        output.note("the current context does not work:")
        raise
    if as_json:
        output.emit(who)
    else:
        output.pairs([("fleet", who["fleet"]), ("name", who["name"]), ("role", who["role"])])
