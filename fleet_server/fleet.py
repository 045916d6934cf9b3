"""The open server: everything that the API, the pages and the background work share. Built by ``app.open_fleet``."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from fleet_server.adapters.blob_store import BlobStore
from fleet_server.adapters.ca import FleetAuthority
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.changes import ChangeFeed
from fleet_server.config import ServerConfig, StateLayout
from fleet_server.db.session import Registry
from fleet_server.ports import Clock
from fleet_server.services.assignments import Assignments
from fleet_server.services.claims import Claims
from fleet_server.services.devices import Devices
from fleet_server.services.enrolment import Enrolment
from fleet_server.services.ingest import Ingest
from fleet_server.services.releases import Releases
from fleet_server.services.renewal import Renewals
from fleet_server.services.rollouts import Rollouts


@dataclass(frozen=True, slots=True)
class Fleet:
    """One fleet's services. ``registry.sessions`` begins writing transactions, ``registry.readers`` reading ones."""

    config: ServerConfig
    layout: StateLayout
    clock: Clock
    registry: Registry
    ca: FleetAuthority
    tuf: TufRepository
    blobs: BlobStore
    claims: Claims
    enrolment: Enrolment
    renewals: Renewals
    devices: Devices
    releases: Releases
    assignments: Assignments
    rollouts: Rollouts
    ingest: Ingest
    changes: ChangeFeed

    @property
    def sessions(self) -> sessionmaker[Session]:
        """For transactions that may write: they wait for the write lock when they begin."""
        return self.registry.sessions

    @property
    def readers(self) -> sessionmaker[Session]:
        """For transactions that only read: they see a snapshot and never wait."""
        return self.registry.readers

    def close(self) -> None:
        """End subscriptions and close the registry."""
        self.changes.close()
        self.registry.close()
