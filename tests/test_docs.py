"""The README cannot lie: every command in it exists with every option that it uses, and every file that it links is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from edge_agent.cli import main as edge_agent
from fleet_server.cli import root as fleet_server
from fleet_server.fleetctl.cli import root as fleetctl
from model_compiler.cli import root as model_compiler

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS: dict[str, click.Command] = {
    "model-compiler": model_compiler,
    "fleet-server": fleet_server,
    "fleetctl": fleetctl,
    "edge-agent": edge_agent,
}
TYPED = re.findall(r"^\$ (.+?)(?:\s+#.*)?$", README, re.MULTILINE)


def commands() -> list[str]:
    return [line for line in TYPED if line.split()[0] in PROGRAMS]


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_readme_is_accepted_by_its_program(line: str) -> None:
    program, *arguments = shlex.split(line)
    command, context = PROGRAMS[program], click.Context(PROGRAMS[program])
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments[0])
        assert found is not None, f"{line}: no command {arguments[0]}"
        command, arguments = found, arguments[1:]
        context = click.Context(command, parent=context)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    assert used <= known, f"{line}: unknown {used - known}"


@pytest.mark.parametrize("line", [line for line in TYPED if line.startswith("make ")])
def test_a_make_target_of_the_readme_exists(line: str) -> None:
    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_recipe_of_the_readme_is_a_valid_recipe() -> None:
    from model_compiler.recipe import parse

    (recipe,) = re.findall(r"```toml\n(model = .*?)```", README, re.DOTALL)
    assert parse(recipe).model == "textline-orientation"


def leaf_commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    return [
        leaf
        for name in command.list_commands(context)
        if (child := command.get_command(context, name)) is not None
        for leaf in leaf_commands(child, (*path, name))
    ]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_says_what_it_does_and_shows_an_example(program: str) -> None:
    for path in leaf_commands(PROGRAMS[program]):
        command: click.Command = PROGRAMS[program]
        for name in path:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), name)
            assert found is not None
            command = found
        text = f"{command.help or ''} {command.epilog or ''}"
        assert command.help, path
        assert "example" in text.lower() or f"{program} {' '.join(path)}" in text, f"{path} shows no example"
