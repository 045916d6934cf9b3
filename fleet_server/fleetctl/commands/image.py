"""``fleetctl image``: what a board needs on its card."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import click

from fleet_protocol.claim import Claim
from fleet_protocol.errors import MalformedInput, NotFound
from fleet_server.fleetctl import output
from fleet_server.fleetctl.session import connect, target

_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("image")
def command() -> None:
    """What a board needs on its card.

    \b
    Example:
      fleetctl image overlay --board raspberry-pi-5 --new-claim cam-1 --out overlay.tar
    """  # noqa: D301


@command.command("overlay")
@click.option(
    "--board", "board_text", required=True, metavar="NAME|FILE", help="A board of firmware_configs, or a TOML file."
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The tar to write.")
@click.option("--server", metavar="URL", help="Where the device finds the server (else the context's).")
@click.option("--ca", type=_EXISTING, help="The fleet's CA certificate (else the context's).")
@click.option("--claim", "claim_file", type=click.File("r"), help="A file with a claim; - for standard input.")
@click.option("--new-claim", metavar="DEVICE", help="Make a claim for this device at the server.")
@click.option(
    "--ttl", default="7d", show_default=True, metavar="DURATION", help="How long the new claim can be redeemed."
)
@click.option("--slot", "slot_texts", multiple=True, metavar="NAME=KIND:PATH[:FPS]", help="A source of frames; repeat.")
@click.option("--agent-wheel", type=_EXISTING, help="A wheel of edgefleet instead of this installation.")
@output.json_option
def overlay(
    board_text: str,
    out: Path,
    server: str | None,
    ca: Path | None,
    claim_file: IO[str] | None,
    new_claim: str | None,
    ttl: str,
    slot_texts: tuple[str, ...],
    agent_wheel: Path | None,
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """Pack agent, configuration, claim, CA and systemd units for a board, to be unpacked onto its mounted card.

    The claim is read from a file, never from the command line, where others could see it.

    \b
    Example:
      fleetctl image overlay --board raspberry-pi-5 --new-claim cam-1 --slot textline=directory:/srv/frames:5 --out overlay.tar
      fleetctl image overlay --board my-board.toml --claim claim --server https://fleet.example:8443 --ca ca.pem --out overlay.tar
    """  # noqa: D301
    from fleet_server.fleetctl.target import checked_server
    from fleet_server.image import archive, sources
    from fleet_server.image.overlay import overlay_entries, parse_slot

    if claim_file is not None and new_claim is not None:
        raise click.UsageError("give --claim or --new-claim, not both")
    board, board_toml = sources.read_board(board_text)
    address = checked_server(server or target().server)
    ca_pem = _ca(ca or target().ca)
    slots = [parse_slot(text) for text in slot_texts]
    agent = sources.wheel_agent(agent_wheel, board) if agent_wheel else sources.installed_agent(board)
    claim = _claim(claim_file, new_claim, board.name, output.duration(ttl))
    if claim is not None:
        claim.check_ca(_der(ca_pem))
    entries = overlay_entries(
        board=board, board_toml=board_toml, server=address, ca_pem=ca_pem, claim=claim, slots=slots, agent=agent,
        texts=sources.texts(),
    )  # fmt: skip
    archive.save_tar(out, entries)
    if as_json:
        told = {"file": str(out), "board": board.name, "agent": agent.version, "entries": len(entries)}
        output.emit(told | {"claim": claim is not None})
        return
    output.note(f"{out}: edgefleet {agent.version} for {board.name}, {len(entries)} entries")
    if claim is None:
        output.note(f"without a claim: put one at {board.image.boot_mount}/edgefleet/claim before the first boot")


def _claim(file: IO[str] | None, device: str | None, board: str, ttl_s: float) -> Claim | None:
    if device is not None:
        return Claim.parse(connect().post("/v1/claims", {"device": device, "board": board, "ttl_s": ttl_s})["claim"])
    return None if file is None else Claim.parse(file.read(4096))


def _ca(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(f"the fleet's CA certificate {path} cannot be read") from error


def _der(pem: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    except ValueError as error:
        raise MalformedInput("the CA file does not hold a certificate in PEM form") from error
