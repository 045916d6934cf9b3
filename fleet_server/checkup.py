"""``fleet-server check``: what is wrong with a server's state, or soon will be."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509

from fleet_protocol.errors import Conflict, FleetError
from fleet_server.adapters.broker import find_mosquitto
from fleet_server.app import open_fleet
from fleet_server.config import StateLayout, read_config
from fleet_server.fleet import Fleet

_DAY_S: Final = 86_400.0
WARN_BEFORE_S: Final[Mapping[str, float]] = {
    "root": 60 * _DAY_S,
    "targets": 30 * _DAY_S,
    "models": 21 * _DAY_S,
    "snapshot": 2 * _DAY_S,
    "timestamp": _DAY_S / 4,
}
"""Offline roles need a person, so they are announced while there is time; the server renews the online ones itself."""
CERTIFICATE_WARN_S: Final = 30 * _DAY_S
_RENEWAL: Final = ("restart the server, it renews this by itself", "found a new fleet and move the devices to it")
_REMEDY: Final[Mapping[str, str]] = {
    "root": "sign a new root with two root keys",
    "targets": "sign new targets metadata with two targets keys",
    "models": "sign a release",
    "snapshot": "start the server, it renews this by itself",
    "timestamp": "start the server, it renews this by itself",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that needs a person. ``level``: error (does not work now) or warning (will not)."""

    level: Literal["error", "warning"]
    subject: str
    sentence: str


def check(state: Path, now: float) -> list[Finding]:
    """Everything found; empty where all is well. Raises NotFound where there is no server."""
    layout = StateLayout(state.absolute())
    read_config(layout)
    found = list(_broker())
    found += _modes(layout)
    found += _certificates(layout, now)
    try:
        fleet = open_fleet(state, lambda: now)
    except Conflict as error:
        return [*found, Finding("error", "registry", str(error))]
    except (FleetError, OSError) as error:
        return [*found, Finding("error", "state", str(error))]
    try:
        return [*found, *_metadata(fleet, now), *_director(fleet)]
    finally:
        fleet.close()


def judge_expiry(subject: str, expires_at: float, warn_before_s: float, remedy: str, now: float) -> Finding | None:
    """An error once something ran out, a warning from ``warn_before_s`` before."""
    days = (expires_at - now) / _DAY_S
    if days <= 0:
        return Finding("error", subject, f"ran out {-days:.1f} days ago; {remedy}")
    if expires_at - now < warn_before_s:
        return Finding("warning", subject, f"runs out in {days:.1f} days; {remedy}")
    return None


def _broker() -> Iterator[Finding]:
    try:
        find_mosquitto()
    except FleetError as error:
        yield Finding("error", "mosquitto", str(error))


def _modes(layout: StateLayout) -> Iterator[Finding]:
    secrets = (
        layout.ca_key, layout.tls_key, layout.mqtt_key, layout.key_encryption_key, layout.director_key,
        layout.snapshot_key, layout.timestamp_key,
    )  # fmt: skip
    for path in secrets:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            yield Finding("error", path.name, "is missing; restore it from a backup")
            continue
        if mode & 0o077:
            yield Finding("error", path.name, f"can be read by others (mode {mode:o}); run chmod 600 {path}")


def _certificates(layout: StateLayout, now: float) -> Iterator[Finding]:
    for path in (layout.ca_certificate, layout.tls_certificate, layout.mqtt_certificate):
        try:
            expires = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
        except (OSError, ValueError):
            yield Finding("error", path.name, "is missing or damaged; restore it from a backup")
            continue
        finding = judge_expiry(path.name, expires, CERTIFICATE_WARN_S, _RENEWAL[path == layout.ca_certificate], now)
        if finding is not None:
            yield finding


def _metadata(fleet: Fleet, now: float) -> Iterator[Finding]:
    for role, expires_at in sorted(fleet.tuf.expiries().items()):
        finding = judge_expiry(role, expires_at, WARN_BEFORE_S[role], _REMEDY[role], now)
        if finding is not None:
            yield finding


def _director(fleet: Fleet) -> Iterator[Finding]:
    if fleet.assignments.director_keyid not in {key.keyid for key in fleet.tuf.director_keys().keys}:
        yield Finding("error", "director", "the offline keys do not name this server's director key; devices refuse it")
