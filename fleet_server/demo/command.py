"""``fleet-server demo``."""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path
from typing import Final

import click

_MARK: Final = ".edgefleet-demo"


@click.command(epilog="Example:  fleet-server demo --once")
@click.option("--once", is_flag=True, help="End with exit code 0 when the story is told, instead of running on.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-state"),
    show_default=True,
    help="Everything that the demo makes; replaced at each run.",
)
def demo(*, once: bool, state: Path) -> None:
    """The whole path with real parts: compile, release, enrol, roll out, refuse a bad version. About two minutes."""
    from fleet_server.demo.story import Story

    story = Story(_fresh(state.resolve()), click.echo)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: stop every program, then end
    try:
        story.tell()
        _invite(story.server.url, story.token_file)
        if not once:
            click.echo("   Ctrl-C ends the demo.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    finally:
        click.echo("   stopping ...", err=True)
        story.close()


def _fresh(state: Path) -> Path:
    # Only a directory that an earlier demo made is ever removed.
    if (state / _MARK).exists():
        shutil.rmtree(state)
    elif state.exists() and any(state.iterdir()):
        raise click.UsageError(f"{state} is not empty and not a demo's state; choose another with --state")
    state.mkdir(parents=True, exist_ok=True)
    (state / _MARK).touch()
    return state


def _invite(url: str, token_file: Path) -> None:
    click.echo("")
    click.echo(click.style(f"   Dashboard: {url}/", bold=True))
    click.echo(
        f"   Sign in with the token in {token_file} (the certificate is the demo's own: let the browser accept it)."
    )
