"""``fleetctl completion``: a script for the shell."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    Example:
      fleetctl completion bash > ~/.local/share/bash-completion/completions/fleetctl
    """  # noqa: D301
    from click.shell_completion import get_completion_class

    from fleet_server.fleetctl.cli import root

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(kind(root, {}, "fleetctl", "_FLEETCTL_COMPLETE").source())
