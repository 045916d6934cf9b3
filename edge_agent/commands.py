"""The commands of ``edge-agent``. Data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import IO, Final

import click

_MAX_CLAIM_CHARS: Final = 4096

config_option = click.option(
    "--config",
    "config_path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The agent's TOML file.",
)


@click.command()
@config_option
@click.option("--claim-file", required=True, type=click.File("r"), help="A file with the claim; - for standard input.")
@click.option(
    "--replace", "is_again", is_flag=True, help="Also where the device is enrolled: its certificate has ended."
)
def enrol(config_path: Path, claim_file: IO[str], is_again: bool) -> None:  # noqa: FBT001 - click's flag
    """Redeem a claim: make keys, check the server, get a certificate.

    With --replace a device that is enrolled gets a new certificate; its agent may run, and goes on serving.

    \b
    Example:
      edge-agent enrol --config config.toml --claim-file - < claim.txt
    """  # noqa: D301 - \b is click's mark for text that is not wrapped
    from edge_agent.adapters.enrolment import Enrolment
    from edge_agent.adapters.keys import IdentityFolder
    from edge_agent.config import load, load_board
    from fleet_protocol.claim import Claim

    config = load(config_path)
    folder = IdentityFolder(config.state)
    member = folder.membership()
    if member is not None and not is_again:
        click.echo(f"already enrolled as {member.device} in fleet {member.fleet}", err=True)
        return
    claim = Claim.parse(claim_file.read(_MAX_CLAIM_CHARS))
    ca = None if config.ca is None else Path(config.ca)
    enrolment = Enrolment.at(config.server, claim, load_board(config).name, folder, ca)
    member = enrolment.run() if member is None else enrolment.run_again(member)
    click.echo(f"enrolled as {member.device} in fleet {member.fleet}", err=True)


@click.command()
@config_option
@click.option("--verbose", is_flag=True, help="Also say what goes well.")
def run(config_path: Path, verbose: bool) -> None:  # noqa: FBT001 - click passes options by name
    """Run the agent until SIGTERM or Ctrl-C.

    \b
    Example:
      edge-agent run --config /etc/edge-agent/config.toml
    """  # noqa: D301
    from edge_agent.agent import build
    from edge_agent.config import load
    from edge_agent.files import held

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.getLogger("tuf").setLevel(logging.WARNING)  # it tells of every key that did not sign
    config = load(config_path)
    with held(config.state / "lock"):
        agent = build(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        agent.run()


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def status(config_path: Path, as_json: bool) -> None:  # noqa: FBT001
    """What each slot serves and should serve, from the journal; also while the agent runs.

    \b
    Example:
      edge-agent status --config config.toml --json
    """  # noqa: D301
    from edge_agent.config import load
    from edge_agent.status import describe, lines

    described = describe(load(config_path))
    click.echo(json.dumps(described) if as_json else "\n".join(lines(described)))


@click.command()
def version() -> None:
    """Print the agent's version.

    \b
    Example:
      edge-agent version
    """  # noqa: D301 - click's \b keeps the example's lines
    from importlib.metadata import version as installed

    click.echo(installed("edgefleet"))
