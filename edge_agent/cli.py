"""``edge-agent``: the program on the device. Commands are imported when they are called, so ``--help`` stays quick."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import click

from fleet_protocol.errors import FleetError, NotAuthenticated, NotFound, RefusedRequest

_COMMANDS: Final[Mapping[str, str]] = {
    "enrol": "edge_agent.commands:enrol",
    "run": "edge_agent.commands:run",
    "status": "edge_agent.commands:status",
    "version": "edge_agent.commands:version",
}
_EXITS: Final[tuple[tuple[type[FleetError], int], ...]] = (
    (NotFound, 3),
    (NotAuthenticated, 4),
    (RefusedRequest, 5),
)


class _LazyGroup(click.Group):
    """Knows its commands by name only, until one is asked for; says a FleetError in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FleetError as error:
            click.echo(f"error [{error.code}]: {error}", err=True)
            ctx.exit(next((code for kind, code in _EXITS if isinstance(error, kind)), 1))
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Enrols this device, runs its models, follows its fleet.

    \b
    Example:
      edge-agent enrol --config /etc/edge-agent/config.toml --claim-file claim.txt
      edge-agent run --config /etc/edge-agent/config.toml
    """  # noqa: D301 - \b is click's mark for text that is not wrapped
