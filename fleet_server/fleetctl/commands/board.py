"""``fleetctl board``: what is known of each kind of board. No server is asked."""

from __future__ import annotations

import click

from fleet_protocol.board import Board
from fleet_server.fleetctl import output


@click.group("board")
def command() -> None:
    """What is known of each kind of board. No server is asked.

    \b
    Example:
      fleetctl board list
    """  # noqa: D301


@command.command("list")
@output.json_option
def listing(as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """List the boards of firmware_configs.

    \b
    Example:
      fleetctl board list
    """  # noqa: D301
    from fleet_server.image import sources

    boards = [sources.read_board(name)[0] for name in sources.board_names()]
    if as_json:
        output.emit([_plain(board) for board in boards])
        return
    rows = [
        (
            each.name,
            each.hardware.architecture,
            each.hardware.cores,
            f"{each.hardware.memory_mib} MiB",
            each.hardware.accelerator,
            each.runtime.name,
            each.title,
        )
        for each in boards
    ]
    output.table(("name", "arch", "cores", "memory", "accelerator", "runtime", "title"), rows, "no board")


@command.command("show")
@click.argument("board", metavar="NAME|FILE")
@output.json_option
def show(board: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Print every key of a board, by its name or from a TOML file.

    \b
    Example:
      fleetctl board show raspberry-pi-5
    """  # noqa: D301
    from fleet_server.image import sources

    plain = _plain(sources.read_board(board)[0])
    if as_json:
        output.emit(plain)
        return
    for key, value in plain.items():
        if isinstance(value, dict):
            output.pairs((f"{key}.{inner}", _text(each)) for inner, each in value.items())
        else:
            output.pairs([(key, value)])


@command.command("check")
@click.argument("file", type=click.Path())
@output.json_option
def check(file: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Say whether FILE describes a board that all three programs take, or the first thing that is wrong with it.

    \b
    Example:
      fleetctl board check my-board.toml
    """  # noqa: D301
    from pathlib import Path

    from fleet_server.image import sources

    board, _ = sources.read_board_file(Path(file))
    if as_json:
        output.emit({"file": file, "board": board.name, "ok": True})
        return
    output.note(f"{file}: {board.name} is a board that compiler, server and agent take")


def _plain(board: Board) -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(board)
    return plain


def _text(value: object) -> object:
    return ", ".join(value) if isinstance(value, list | tuple) else value
