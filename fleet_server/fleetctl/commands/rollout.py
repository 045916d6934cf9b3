"""``fleetctl rollout``: releases on their way to devices."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

import click

from fleet_protocol.errors import MalformedInput, ServerUnreachable
from fleet_server.fleetctl import output, watching
from fleet_server.fleetctl.commands.release import release_id
from fleet_server.fleetctl.refusals import RolloutEndedBadly, WaitTimedOut
from fleet_server.fleetctl.session import connect

_POLL_S: Final = 0.5
_PATIENCE_S: Final = 60.0
"""How long ``watch`` waits for a server that does not answer: a restart takes seconds and ends no rollout."""
_DESTRUCTIVE: Final = {
    "abort": "Stop it here? Proven devices keep the new model, all others get the one before back.",
    "undo": "Take the new model back from every device?",
}


@click.group("rollout")
def command() -> None:
    """Releases on their way to devices.

    \b
    Example:
      fleetctl rollout create model@1.0.0 --waves "1,10%,100%" --bake 10min --start
      fleetctl rollout watch 3
    """  # noqa: D301


def _policy_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--selector", default="all", show_default=True, metavar="TEXT", help='Which devices, e.g. "site=berlin,!legacy".'),
        click.option("--waves", default="1,10%,100%", show_default=True, metavar="LIST", help="Counts add devices, shares open up to."),
        click.option("--success", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share that must serve it, by their heartbeats."),
        click.option("--error", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="More than this share lost is a breach."),
        click.option("--min-sample", type=click.IntRange(min=1), default=1, show_default=True, help="Devices that must have ended before a breach is judged."),
        click.option("--bake", default="60s", show_default=True, metavar="DURATION", help="How long a wave must stay well."),
        click.option("--max-in-flight", type=click.IntRange(min=1), default=500, show_default=True, help="Devices on their way at once."),
        click.option("--queued-limit", metavar="DURATION", help="Longest silence after the assignment (default 15min)."),
        click.option("--limit", "limits", multiple=True, metavar="STATE=DURATION", help="Longest time in a state; repeat."),
        click.option("--no-auto-rollback", is_flag=True, help="A breach pauses instead of rolling back."),
        click.option("--salt", type=click.IntRange(0, 9999), help="Of a preview: begin with the same devices."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@command.command("preview")
@click.argument("release")
@_policy_options
@output.json_option
def preview(release: str, as_json: bool, **choices: Any) -> None:  # noqa: FBT001 - click's flag
    """Show who would be in which wave of RELEASE (id or MODEL@VERSION), and who cannot take part and why.

    \b
    Example:
      fleetctl rollout preview model@1.0.0 --waves "1,100%" --selector site=berlin
    """  # noqa: D301
    connection = connect()
    made = connection.post("/v1/rollouts/preview", order(release_id(connection, release), "", **choices))
    if as_json:
        output.emit(made)
        return
    wave_of = {wave["number"]: wave["title"] for wave in made["waves"]}
    rows = [(wave_of[each["wave"]], each["device"], each["variant"], each["blob_bytes"]) for each in made["devices"]]
    output.table(("wave", "device", "variant", "bytes"), rows, "no device would take part")
    for each in made["excluded"]:
        click.echo(f"not {each['device']}: {each['reason']}")
    output.note(
        f"{made['members']} devices, {made['download_bytes']} bytes at most; --salt {made['salt']} begins with the same"
    )


@command.command("create")
@click.argument("release")
@_policy_options
@click.option("--start", is_flag=True, help="Start it at once.")
@output.reason_option
@output.json_option
def create(release: str, start: bool, reason: str, as_json: bool, **choices: Any) -> None:  # noqa: FBT001
    """Draft a rollout of RELEASE (id or MODEL@VERSION).

    \b
    Example:
      fleetctl rollout create model@1.0.0 --waves "1,10%,100%" --success 0.98 --bake 10min --start --reason "new labels"
    """  # noqa: D301
    connection = connect()
    made = connection.post("/v1/rollouts", order(release_id(connection, release), reason, **choices))
    if start:
        made = connection.post(f"/v1/rollouts/{made['id']}/start", {"reason": reason})
    _show(made, as_json=as_json)


@command.command("list")
@output.json_option
def listing(as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """List rollouts, newest first.

    \b
    Example:
      fleetctl rollout list
    """  # noqa: D301
    rollouts = connect().get("/v1/rollouts", limit=200)
    if as_json:
        output.emit(rollouts)
        return
    rows = [
        (each["id"], f"{each['model']} {each['version']}", each["state"], each["selector"], each["created_by"],
         output.moment(each["created_at"]), each["reason"])
        for each in rollouts
    ]  # fmt: skip
    output.table(("id", "release", "state", "selector", "by", "at", "reason"), rows,
                 "no rollout yet; `fleetctl rollout create` drafts one")  # fmt: skip


@command.command("get")
@click.argument("rollout", type=int)
@output.json_option
def get(rollout: int, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Show one rollout with its waves.

    \b
    Example:
      fleetctl rollout get 3
    """  # noqa: D301
    _show(connect().get(f"/v1/rollouts/{rollout}"), as_json=as_json)


@command.command("watch")
@click.argument("rollout", type=int)
@click.option("--timeout", metavar="DURATION", help="Give up waiting after this time (exit code 124).")
@output.json_option
def watch(rollout: int, timeout: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Follow a rollout until it ends: exit code 0 finished, 6 rolled back or aborted, 124 timed out.

    \b
    Example:
      fleetctl rollout watch 3 --timeout 30min
    """  # noqa: D301
    limit_s = None if timeout is None else output.duration(timeout)
    connection, before = connect(), None
    began = heard = time.monotonic()
    while True:
        try:
            after = connection.get(f"/v1/rollouts/{rollout}")
            heard = time.monotonic()
        except ServerUnreachable:
            if time.monotonic() - heard > _PATIENCE_S:
                raise
            after = before
        if after is not None:
            _tell(before, after, as_json=as_json)
            before = after
            if after["state"] in watching.ENDED_WELL:
                return
            if after["state"] in watching.ENDED_BADLY:
                raise RolloutEndedBadly(watching.closing(after))
        if limit_s is not None and time.monotonic() - began > limit_s:
            raise WaitTimedOut(f"rollout {rollout} has not ended within {timeout}; it goes on")
        time.sleep(_POLL_S)


def _verb(name: str, summary: str, example: str) -> None:
    """Add the command for one verb of a rollout."""

    @click.argument("rollout", type=int)
    @output.reason_option
    @output.yes_option
    @output.json_option
    def move(rollout: int, reason: str, yes: bool, as_json: bool) -> None:  # noqa: FBT001 - click's flags
        connection = connect()
        if name in _DESTRUCTIVE:
            view = connection.get(f"/v1/rollouts/{rollout}")
            touched = sum(wave["assigned"] for wave in view["waves"])
            what = f"Rollout {rollout} of {view['model']} {view['version']} has touched {touched} devices."
            output.confirm(f"{what} {_DESTRUCTIVE[name]}", yes=yes)
        _show(connection.post(f"/v1/rollouts/{rollout}/{name}", {"reason": reason}), as_json=as_json)

    command.command(name, help=f"{summary}\n\n\b\nExample:\n  {example}")(move)


_verb("start", "Open the first wave of a draft.", "fleetctl rollout start 3")
_verb(
    "pause", "Open and assign nothing more; devices on their way arrive.", 'fleetctl rollout pause 3 --reason "storm"'
)
_verb("resume", "Go on where it paused.", "fleetctl rollout resume 3")
_verb("promote", "Pass the present wave on your word.", 'fleetctl rollout promote 3 --reason "checked by hand"')
_verb(
    "abort",
    "Stop here; unproven devices get the model before back.",
    'fleetctl rollout abort 3 --reason "wrong labels" --yes',
)
_verb("undo", "Take the new model back from every device.", 'fleetctl rollout undo 3 --reason "worse at night" --yes')


def order(
    release: int,
    reason: str,
    *,
    selector: str,
    waves: str,
    success: float,
    error: float,
    min_sample: int,
    bake: str,
    max_in_flight: int,
    queued_limit: str | None,
    limits: tuple[str, ...],
    no_auto_rollback: bool,
    salt: int | None,
) -> dict[str, Any]:
    """The body of ``POST /v1/rollouts`` for the command's choices; raises MalformedInput."""
    import msgspec

    from fleet_server.rollout.policy import parse_waves

    state_limits = dict(_limit(text) for text in limits)
    if queued_limit is not None:
        state_limits["IDLE"] = output.duration(queued_limit)
    policy = {
        "waves": msgspec.to_builtins(parse_waves(waves)),
        "success_threshold": success,
        "error_threshold": error,
        "min_sample": min_sample,
        "bake_s": output.duration(bake),
        "max_in_flight": max_in_flight,
        "state_limits_s": state_limits,
        "auto_rollback": not no_auto_rollback,
    }
    return {"release_id": release, "selector": selector, "policy": policy, "reason": reason, "salt": salt}


def _limit(text: str) -> tuple[str, float]:
    state, separator, seconds = text.partition("=")
    if not separator:
        raise MalformedInput(f"a limit reads STATE=DURATION, e.g. DOWNLOADING=30min, got {text[:80]!r}")
    return state.upper(), output.duration(seconds)


def _tell(before: dict[str, Any] | None, after: dict[str, Any], *, as_json: bool) -> None:
    said = watching.lines(before, after)
    if as_json and said:
        click.echo(json.dumps(after))
    elif said:
        clock = time.strftime("%H:%M:%S")
        for line in said:
            click.echo(f"{clock}  {line}")


def _show(rollout: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.emit(rollout)
        return
    click.echo(
        f"rollout {rollout['id']}  {rollout['model']} {rollout['version']}  {rollout['state']}  ({rollout['selector']})"
    )
    rows = [
        (each["number"], each["title"], each["state"], each["members"], each["confirmed"], each["in_flight"],
         each["failed"], each["timed_out"], each["verdict"])
        for each in rollout["waves"]
    ]  # fmt: skip
    headings = ("wave", "title", "state", "members", "serving", "on the way", "failed", "timed out", "verdict")
    output.table(headings, rows, "no wave")
