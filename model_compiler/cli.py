"""``model-compiler``: the command line. Commands are imported when they are called, so that ``--help`` costs nothing."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from fleet_protocol import errors
from fleet_protocol.errors import FleetError

_COMMANDS: Final[dict[str, str]] = {
    "compile": "Compile recipes or models into model packages.",
    "inspect": "Show what a model package promises.",
    "report": "Write how a package came about: page, record, bill of materials.",
    "diff": "Say what changed between two packages.",
    "bench": "Time a package's variants on this machine.",
    "eval": "Measure a packaged variant on labelled images.",
}

_EXIT_CODES: Final[tuple[tuple[type[FleetError], int], ...]] = (
    (errors.AccuracyRefused, 6),
    (errors.NotFound, 3),
    (errors.NotAuthenticated, 4),
    (errors.NotAllowed, 4),
    (errors.Conflict, 5),
)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"model_compiler.commands.{cmd_name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgefleet")
def root() -> None:
    r"""From a trained model to verified variants for the boards of a fleet.

    \b
    Example:
      model-compiler compile recipe.toml --out packages/
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code: 0 ok, 1 error, 2 usage, 3 not found, 6 gate failed,
    130 interrupted.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, every refusal is one line ``error [code]: sentence`` on stderr."""
    try:
        result = root.main(arguments, prog_name="model-compiler", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; no package was written", err=True)
        return 130
    except FleetError as error:
        click.echo(f"error [{error.code}]: {error}", err=True)
        return exit_code(error)
    except BrokenPipeError:
        # The reader of our output has gone; without this the interpreter complains once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def exit_code(error: FleetError) -> int:
    """The exit code that a refusal has."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
