"""``fleet-server``: found a fleet, run it, look after it. What a command needs is imported when it is called."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from fleet_protocol.errors import FleetError
from fleet_server.demo.command import demo
from fleet_server.fleetctl.refusals import exit_code_of, line_of

INTERRUPTED: Final = 130

_STATE = click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), required=True, help="The server's state directory."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="edgefleet", prog_name="fleet-server")
def root() -> None:
    """Run the server of a fleet of edge devices.

    \b
    Example:
      fleet-server init --state /var/lib/edgefleet --offline-keys /media/usb/fleet-keys --host fleet.example
      fleet-server run --state /var/lib/edgefleet --listen 0.0.0.0:8443

    Exit codes: 0 done, 1 error, 2 usage, 3 not found, 5 conflict, 130 interrupted.
    """  # noqa: D301 - click's \b keeps the example's lines


@root.command()
@_STATE
@click.option(
    "--offline-keys",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where the keys that sign releases go; take them off this machine afterwards.",
)
@click.option("--fleet", default="edgefleet", show_default=True, help="The fleet's name.")
@click.option("--host", "hosts", multiple=True, help="A name or address of this server; the first is told to devices.")
@_JSON
def init(state: Path, offline_keys: Path, fleet: str, hosts: tuple[str, ...], *, as_json: bool) -> None:
    """Found a fleet: make every key, the signed metadata, the registry and an admin token.

    \b
    Example:
      fleet-server init --state /var/lib/edgefleet --offline-keys /media/usb/fleet-keys --host fleet.example
    """  # noqa: D301 - click's \b keeps the example's lines
    import time

    from fleet_server.ceremony import found_fleet
    from fleet_server.config import ServerConfig

    config = ServerConfig.parse(ServerConfig(fleet=fleet, hosts=hosts or ("127.0.0.1",)).encode())
    founding = found_fleet(state, offline_keys, config, time.time())
    click.echo(f"fleet {fleet} founded in {founding.state}", err=True)
    click.echo(
        f"offline keys in {founding.offline}: keep them off this machine, models-* are needed to release", err=True
    )
    click.echo("the admin token is shown this once:", err=True)
    if as_json:
        files = [str(path) for path in founding.offline_files]
        click.echo(
            json.dumps(
                {"fleet": fleet, "state": str(founding.state), "offline_keys": files, "token": founding.admin_token}
            )
        )
    else:
        click.echo(founding.admin_token)


@root.command()
@_STATE
@click.option("--listen", metavar="HOST:PORT", help="HTTPS address (else as configured); port 0 is any free one.")
@click.option(
    "--broker-port", type=click.IntRange(0, 65_535), help="The broker's port (else as configured); 0: any free."
)
@click.option("--verbose", is_flag=True, help="Say more on standard error.")
def run(state: Path, listen: str | None, broker_port: int | None, *, verbose: bool) -> None:
    """Run the server and its broker until SIGTERM or Ctrl-C.

    \b
    Example:
      fleet-server run --state /var/lib/edgefleet --listen 0.0.0.0:8443
    """  # noqa: D301 - click's \b keeps the example's lines
    import logging

    from fleet_server import running

    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format=form, stream=sys.stderr)
    running.run(state, listen=listen, broker_port=broker_port, say=click.echo)


@root.command()
@_STATE
def migrate(state: Path) -> None:
    """Bring the registry to this program's version.

    \b
    Example:
      fleet-server migrate --state /var/lib/edgefleet
    """  # noqa: D301 - click's \b keeps the example's lines
    from fleet_server.config import StateLayout, read_config
    from fleet_server.db.migrate import upgrade
    from fleet_server.db.session import open_registry

    layout = StateLayout(state.absolute())
    registry = open_registry(read_config(layout).database_url(layout))
    try:
        upgrade(registry.engine)
    finally:
        registry.close()
    click.echo("the registry is up to date", err=True)


@root.command()
@_STATE
@_JSON
def check(state: Path, *, as_json: bool) -> None:
    """Say what is wrong or will be: metadata and certificates that run out, a missing broker, readable keys.

    \b
    Example:
      fleet-server check --state /var/lib/edgefleet

    Ends with 1 where something does not work now.
    """  # noqa: D301 - click's \b keeps the example's lines
    import dataclasses
    import time

    from fleet_server.checkup import check as check_state

    findings = check_state(state, time.time())
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in findings]))
    else:
        for each in findings:
            click.echo(f"{each.level:8} {each.subject}: {each.sentence}")
    if not findings:
        click.echo("nothing is wrong", err=True)
    if any(each.level == "error" for each in findings):
        sys.exit(1)


root.add_command(demo)


def main() -> NoReturn:
    """Run ``fleet-server`` and end the process with its exit code."""
    try:
        root(standalone_mode=False)
    except FleetError as error:
        click.echo(line_of(error), err=True)
        sys.exit(exit_code_of(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    sys.exit(0)
