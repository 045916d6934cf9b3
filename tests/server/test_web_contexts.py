"""Which server and token ``fleetctl`` uses, how it explains itself, and its words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fleet_protocol.errors import MalformedInput, NotAuthenticated, NotFound
from fleet_server.fleetctl import output, watching
from fleet_server.fleetctl.cli import NOUNS, root
from fleet_server.fleetctl.commands.device import changed_tags
from fleet_server.fleetctl.target import Contexts, Flags, Target, resolve
from tests.server.ctl_fixtures import *  # noqa: F403 - fixtures
from tests.server.ctl_fixtures import TOKEN, Ctl
from tests.server.web_fixtures import *  # noqa: F403 - fixtures
from tests.server.web_kit import WebServer


# --- contexts --------------------------------------------------------------------------------------------------------
def test_a_context_is_kept_for_its_owner_only(ctl: Ctl, web: WebServer, tmp_path: Path) -> None:
    ca = str(web.fleet.layout.ca_certificate)
    added = ctl("context", "add", "lab", "--server", web.url, "--ca", ca, "--token-stdin", stdin=web.admin + "\n")
    assert added.code == 0, added.err
    assert "fleet acme, signed in as admin (admin)" in added.err
    kept = tmp_path / "home" / ".config" / "edgefleet" / "config.toml"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert ctl("device", "list").code == 0
    listed = ctl("context", "list")
    assert "lab" in listed.out
    assert web.admin not in listed.out + added.out + added.err
    assert ctl("context", "check", "--json").json["name"] == "admin"
    assert ctl("context", "remove", "lab").code == 0
    assert ctl("device", "list").code == 4


def test_a_context_with_a_wrong_token_is_not_kept(ctl: Ctl, web: WebServer) -> None:
    ca = str(web.fleet.layout.ca_certificate)
    assert ctl("context", "add", "lab", "--server", web.url, "--ca", ca, "--token-stdin", stdin=TOKEN).code == 4
    assert ctl("context", "list", "--json").json == []


def test_a_token_is_never_an_argument(ctl: Ctl, web: WebServer) -> None:
    ca = str(web.fleet.layout.ca_certificate)
    said = ctl("context", "add", "lab", "--server", web.url, "--ca", ca)
    assert said.code == 2
    assert "--token-stdin" in said.err


def contexts() -> Contexts:
    known = {name: Target(f"https://{name}:1", Path(f"/{name}.pem"), TOKEN) for name in ("one", "two")}
    return Contexts(Path("/none"), "one", known)


def test_flags_win_over_environment_over_context(tmp_path: Path) -> None:
    other = tmp_path / "token"
    other.write_text("eft_" + "B" * 43)
    assert resolve(Flags(), {}, contexts()).server == "https://one:1"
    assert resolve(Flags(context="two"), {}, contexts()).server == "https://two:1"
    environment = {"EDGE_SERVER": "https://three:1", "EDGE_TOKEN": "eft_" + "C" * 43}
    from_environment = resolve(Flags(), environment, contexts())
    assert (from_environment.server, from_environment.token[4]) == ("https://three:1", "C")
    from_flags = resolve(Flags(server="https://four:1", token_file=str(other)), environment, contexts())
    assert (from_flags.server, from_flags.token[4]) == ("https://four:1", "B")


def test_a_contexts_token_goes_to_its_own_server_only() -> None:
    with pytest.raises(NotAuthenticated, match="token"):
        resolve(Flags(server="https://elsewhere:1"), {}, contexts())


def test_a_context_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.toml"
    made = Contexts.load(path).with_context("lab", Target("https://h:1", Path('/with "quotes".pem'), TOKEN))
    made.save()
    assert Contexts.load(path).named("lab") == made.named("lab")
    with pytest.raises(NotFound):
        made.without("nobody")


def test_a_damaged_configuration_is_named_and_kept(ctl: Ctl, tmp_path: Path) -> None:
    kept = tmp_path / "home" / ".config" / "edgefleet" / "config.toml"
    kept.parent.mkdir(parents=True)
    kept.write_text("contexts = 3")
    said = ctl("device", "list")
    assert said.err.startswith("error [malformed-config]:")
    assert kept.read_text() == "contexts = 3"


# --- help, words, start-up -------------------------------------------------------------------------------------------
def commands(group: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    found = [(path, group)]
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            inner = group.get_command(context, name)
            assert inner is not None
            found += commands(inner, (*path, name))
    return found


def test_every_command_explains_itself_with_an_example(ctl: Ctl) -> None:
    found = commands(root)
    assert len(found) > 35
    for path, command in found:
        said = ctl(*path, "--help")
        assert said.code == 0, path
        assert "Example:\n" in said.out, path
        assert "fleetctl " + " ".join(path[:1]) in said.out, path
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (path, parameter.name)


def test_the_nouns_of_the_help_are_the_modules(ctl: Ctl) -> None:
    from fleet_server.fleetctl import commands as package

    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
    assert modules == set(NOUNS)
    assert all(noun in ctl("--help").out for noun in NOUNS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(ctl: Ctl, shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("bash is not installed here")
    assert "_FLEETCTL_COMPLETE" in ctl("completion", shell).out


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("15min", 900), ("7d", 604_800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert output.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "1 week", "5m", "1e9s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(MalformedInput):
        output.duration(text)


def test_tags_are_set_and_removed() -> None:
    assert changed_tags({"a": "1", "b": "2"}, ("a=3", "b-", "c=x=y")) == {"a": "3", "c": "x=y"}


def test_watching_tells_only_what_changed() -> None:
    wave = {"number": 0, "title": "canary", "state": "RUNNING", "members": 1, "confirmed": 0, "in_flight": 1,
            "failed": 0, "timed_out": 0, "restored": 0, "verdict": ""}  # fmt: skip
    first = {
        "id": 1,
        "model": "m",
        "version": "1",
        "state": "RUNNING",
        "waves": [wave, {**wave, "number": 1, "state": "PENDING"}],
    }
    assert watching.lines(None, first) == [
        "rollout 1 m 1: RUNNING", "wave 0 (canary) RUNNING: 0 of 1 serving, 1 on the way",
    ]  # fmt: skip
    assert watching.lines(first, first) == []
    breached = {**wave, "state": "BREACHED", "in_flight": 0, "failed": 1, "verdict": "1 of 1 failed"}
    after = {**first, "state": "ROLLED_BACK", "waves": [breached]}
    assert watching.lines(first, after)[1] == "wave 0 (canary) BREACHED: 0 of 1 serving, 1 failed - 1 of 1 failed"
    assert watching.closing(after) == "rollout 1 ended ROLLED_BACK: 1 of 1 failed"


def test_help_starts_without_the_heavy_libraries() -> None:
    """The budget of 150 ms is kept by what is not imported; the list is sure where a stopwatch on a busy machine is not."""
    code = (
        "import sys; sys.argv = ['fleetctl', 'device', '--help']\n"
        "from fleet_server.fleetctl.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    for heavy in ("sqlalchemy", "fastapi", "pydantic", "rich", "numpy", "tuf", "cryptography", "securesystemslib"):
        assert f"'{heavy}'" not in loaded, heavy
