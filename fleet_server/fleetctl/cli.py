"""The entry of ``fleetctl``: nouns are loaded when they are called, so that the program starts in milliseconds."""

from __future__ import annotations

import importlib
import sys
from typing import Final, NoReturn

import click

from fleet_protocol.errors import FleetError
from fleet_server.fleetctl.refusals import exit_code_of, line_of

INTERRUPTED: Final = 130

NOUNS: Final = {
    "context": "Servers and tokens that this machine knows.",
    "claim": "One-time rights of devices to join.",
    "device": "What devices serve, and why they do not serve what they should.",
    "release": "Signed versions of models.",
    "rollout": "Releases on their way to devices.",
    "token": "Access for people and programs.",
    "audit": "Who did what, when and why.",
    "board": "What is known of each kind of board.",
    "image": "What a board needs on its card.",
    "completion": "Shell completion.",
}
"""Modules of :mod:`fleet_server.fleetctl.commands` with their one-line help, which is shown without loading them."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click asks so
        """The nouns, in the order of a fleet's life."""
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click asks so
        """Import one noun; None where there is no such noun."""
        if cmd_name not in NOUNS:
            return None
        module = importlib.import_module(f"fleet_server.fleetctl.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click asks so
        """The help's list, from the table: no noun is imported for it."""
        with formatter.section("Nouns"):
            formatter.write_dl(list(NOUNS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--server", metavar="URL", help="Address of the fleet server (else EDGE_SERVER, else the context).")
@click.option("--ca", metavar="FILE", help="The fleet's CA certificate (else EDGE_CA, else the context).")
@click.option("--token-file", metavar="FILE", help="A file that holds the token (else EDGE_TOKEN, else the context).")
@click.option("--context", "context_name", metavar="NAME", help="A context other than the current one.")
@click.version_option(package_name="edgefleet", prog_name="fleetctl")
@click.pass_context
def root(
    ctx: click.Context, server: str | None, ca: str | None, token_file: str | None, context_name: str | None
) -> None:
    """Operate a fleet of edge devices.

    \b
    Example:
      fleetctl context add production --server https://fleet.example:8443 --ca ca.pem --token-stdin
      fleetctl claim create cam-1 --board raspberry-pi-5
      fleetctl release create model.efpkg --keys offline-keys
      fleetctl rollout create model@1.0.0 --waves "1,10%,100%" --start

    Answers go to standard output, progress to standard error; --json where a program reads.
    Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 not allowed, 5 conflict, 6 rolled back or aborted, 124 timed out.
    """  # noqa: D301 - click's \b keeps the example's lines
    from fleet_server.fleetctl.target import Flags

    ctx.obj = Flags(server, ca, token_file, context_name)


def main() -> NoReturn:
    """Run ``fleetctl`` and end the process with its exit code."""
    try:
        sys.exit(root.main(standalone_mode=False, prog_name="fleetctl"))
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except FleetError as error:
        click.echo(line_of(error), err=True)
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
