"""``model-compiler report``: how a package came about, as a page, a record and a bill of materials."""

from __future__ import annotations

from pathlib import Path

import click

from fleet_protocol.errors import NotFound
from model_compiler.commands.options import cache_option, json_option, package_argument
from model_compiler.errors import MalformedRecord
from model_compiler.files import check_writable, written_whole
from model_compiler.packages import PackageFile, open_package
from model_compiler.report import documents
from model_compiler.report import record as records
from model_compiler.report.record import Record


@click.command("report")
@package_argument("file")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Directory; by default that of the package."
)
@click.option(
    "--record",
    "kept",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Record from another machine.",
)
@json_option("The record as JSON on stdout; no file is written.")
@cache_option
def command(file: Path, *, out: Path | None, kept: Path | None, as_json: bool, cache_dir: Path | None) -> None:
    r"""Write FILE's report: <package>.report.html, .report.json and the CycloneDX bill of materials .cdx.json.

    The page needs no network and no script. What a compilation measured is kept on the machine that compiled; elsewhere give its
    .report.json with --record.

    \b
    Example:
      model-compiler report textline-orientation-1.0.0.efpkg
    """
    record = _record(open_package(file), kept, cache_dir)
    if as_json:
        click.echo(records.encode(record))
        return
    base = (out or file.parent) / file.name
    for suffix, content in documents.all_of(record):
        path = base.with_suffix(suffix)
        check_writable(path)
        with written_whole(path) as stream:
            stream.write(content)
        click.echo(str(path))


def _record(package: PackageFile, kept: Path | None, cache_dir: Path | None) -> Record:
    if kept is None:
        known = package.record(cache_dir)
        if known is None:
            raise NotFound(
                f"no record of {package.path} is kept here; give its .report.json with --record, or compile it again"
            )
        return known
    with kept.open("rb") as stream:
        record = records.decode(stream.read(records.MAX_BYTES + 1))
    if record.package_sha256 != package.digest:
        raise MalformedRecord(f"{kept} tells about another package than {package.path}; take the one written with it")
    return record
