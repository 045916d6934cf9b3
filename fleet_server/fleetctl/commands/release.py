"""``fleetctl release``: signed versions of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleet_protocol.errors import NotFound
from fleet_server.fleetctl import output
from fleet_server.fleetctl.session import connect

if TYPE_CHECKING:
    from fleet_server.fleetctl.connection import Connection


@click.group("release")
def command() -> None:
    """Signed versions of models.

    \b
    Example:
      fleetctl release create model.efpkg --keys offline-keys
      fleetctl release list
    """  # noqa: D301


@command.command("create")
@click.argument("package", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--keys", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Directory with the release keys."
)
@click.option(
    "--key",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="One release key; repeat.",
)
@click.option(
    "--floor",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Security floor: devices that saw this release never go back below this counter.",
)
@output.json_option
def create(package: Path, keys: Path | None, files: tuple[Path, ...], floor: int, as_json: bool) -> None:  # noqa: FBT001
    """Sign PACKAGE on this machine and upload it. The keys never leave it.

    \b
    Example:
      fleetctl release create model.efpkg --keys offline-keys
      fleetctl release create model.efpkg --key models-ci.pem --key models-person.pem --floor 3
    """  # noqa: D301
    from datetime import UTC, datetime

    from fleet_protocol import package as packages
    from fleet_server.fleetctl.signing import check_own, key_files
    from fleet_server.release_signing import add_release, load_signer

    signers = [load_signer(path) for path in key_files(keys, files)]
    output.note(f"checking {package.name}")
    with package.open("rb") as stream:
        contents = packages.read(stream)
    connection = connect()
    connection.get("/v1/whoami")
    current = connection.download("/v1/meta/models.json")
    check_own(current, signers)
    metadata = add_release(current, contents, signers, floor=floor, now=datetime.now(UTC))
    output.note(f"signed {contents.model} {contents.version} with {len(signers)} keys")
    meter = output.Meter("uploading", package.stat().st_size)
    release = connection.upload("/v1/releases", {"metadata": metadata}, package, meter)
    _show(release, as_json=as_json)


@command.command("list")
@output.json_option
def listing(as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """List releases, newest first.

    \b
    Example:
      fleetctl release list
    """  # noqa: D301
    releases = connect().get("/v1/releases", limit=200)
    if as_json:
        output.emit(releases)
        return
    rows = [
        (each["id"], each["model"], each["version"], each["slot"], each["counter"],
         " ".join(variant["name"] for variant in each["variants"]), each["created_by"], output.moment(each["created_at"]))
        for each in releases
    ]  # fmt: skip
    output.table(("id", "model", "version", "slot", "counter", "variants", "by", "at"), rows,
                 "no release yet; `fleetctl release create` makes one")  # fmt: skip


@command.command("get")
@click.argument("release")
@output.json_option
def get(release: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Show one release by id or MODEL@VERSION.

    \b
    Example:
      fleetctl release get line-orientation@1.0.0
    """  # noqa: D301
    connection = connect()
    _show(connection.get(f"/v1/releases/{release_id(connection, release)}"), as_json=as_json)


def release_id(connection: Connection, text: str) -> int:
    """The id of a release named by id or ``MODEL@VERSION``; raises NotFound."""
    if text.isdecimal():
        return int(text)
    model, _, version = text.partition("@")
    before: int | None = None
    while releases := connection.get("/v1/releases", limit=200, before=before):
        for each in releases:
            if (each["model"], each["version"]) == (model, version):
                return int(each["id"])
        before = releases[-1]["id"]
    raise NotFound(f"there is no release {text[:120]}; `fleetctl release list` shows them")


def _show(release: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.emit(release)
        return
    click.echo(f"release {release['id']}  {release['model']} {release['version']}  slot {release['slot']}")
    rows = [
        (each["name"], each["manifest_sha256"][:12], each["runtime"], each["precision"], f"{each['value']:.4f}",
         each["blob_bytes"], " ".join(each["boards"]))
        for each in release["variants"]
    ]  # fmt: skip
    metric = release["variants"][0]["metric"] if release["variants"] else "value"
    output.table(("variant", "digest", "runtime", "precision", metric, "bytes", "boards"), rows, "no variant")
