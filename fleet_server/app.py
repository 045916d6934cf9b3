"""The composition root: names the concrete classes, opens a fleet, and runs everything that a server consists of."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import msgspec

from fleet_protocol.errors import Conflict, MalformedConfig
from fleet_protocol.identifiers import FleetId
from fleet_server.adapters.blob_store import BlobStore
from fleet_server.adapters.ca import DEVICE_LIFE, read_authority
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.changes import ChangeFeed
from fleet_server.config import ServerConfig, StateLayout, read_config
from fleet_server.db import migrate
from fleet_server.db.session import open_registry
from fleet_server.fleet import Fleet
from fleet_server.ports import Clock
from fleet_server.release_signing import load_signer
from fleet_server.services.assignments import Assignments
from fleet_server.services.claims import Claims
from fleet_server.services.devices import Devices
from fleet_server.services.enrolment import Address, Enrolment
from fleet_server.services.ingest import Ingest
from fleet_server.services.releases import Releases
from fleet_server.services.renewal import Renewals
from fleet_server.services.rollouts import Rollouts
from fleet_server.services.sealing import ContentKeys
from fleet_server.tuf_metadata import OnlineKeys


def open_fleet(
    state: Path,
    clock: Clock,
    *,
    listen: str | None = None,
    broker_port: int | None = None,
    device_life: timedelta = DEVICE_LIFE,
) -> Fleet:
    """Open an initialised state directory; ``listen`` and ``broker_port`` override its configuration;
    ``device_life``: how long a device's certificate is valid.

    Raises NotFound (no server there), MalformedConfig (damaged), Conflict (the registry needs ``fleet-server migrate``).
    """
    layout = StateLayout(state.absolute())
    config = _override(read_config(layout), listen, broker_port)
    registry = open_registry(config.database_url(layout))
    if not migrate.is_current(registry.engine):
        registry.close()
        raise Conflict(f"the registry in {layout.root} is of another version; run `fleet-server migrate`")
    fleet, changes = FleetId(config.fleet), ChangeFeed()
    ca = read_authority(layout.ca_key, layout.ca_certificate, device_life)
    tuf = TufRepository(layout.tuf, OnlineKeys(load_signer(layout.snapshot_key), load_signer(layout.timestamp_key)))
    keys = ContentKeys(_secret(layout.key_encryption_key))
    assignments = Assignments(fleet, load_signer(layout.director_key), keys)
    address = Address(fleet, config.public_host, config.broker_port)
    sessions, blobs = registry.sessions, BlobStore(layout.blobs, keys)
    return Fleet(
        config=config,
        layout=layout,
        clock=clock,
        registry=registry,
        ca=ca,
        tuf=tuf,
        blobs=blobs,
        claims=Claims(sessions, ca, tuf, changes, clock),
        enrolment=Enrolment(sessions, ca, tuf, changes, clock, address),
        renewals=Renewals(sessions, ca, changes, fleet, secrets.token_bytes(32)),
        devices=Devices(sessions, changes, clock),
        releases=Releases(sessions, tuf, blobs, changes, clock),
        assignments=assignments,
        rollouts=Rollouts(sessions, registry.readers, assignments, changes, clock),
        ingest=Ingest(sessions, changes),
        changes=changes,
    )


def _override(config: ServerConfig, listen: str | None, broker_port: int | None) -> ServerConfig:
    changed = {"listen": listen, "broker_port": broker_port}
    return ServerConfig.parse(
        msgspec.structs.replace(config, **{key: value for key, value in changed.items() if value is not None}).encode()
    )


def _secret(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MalformedConfig(f"{path} cannot be read; restore it from a backup") from error
