"""The broker follows the registry: a revoked device loses its rights, then its live session (measured order)."""

from __future__ import annotations

import logging

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from fleet_protocol import topics
from fleet_protocol.errors import BrokerUnreachable
from fleet_protocol.identifiers import DeviceId
from fleet_server.db.models import Device
from fleet_server.ports import Broker, BrokerAccess

log = logging.getLogger(__name__)


def revoked_devices(readers: sessionmaker[Session]) -> frozenset[DeviceId]:
    """Devices that the registry no longer trusts."""
    with readers() as session:
        return frozenset(
            DeviceId(device) for device in session.scalars(select(Device.id).where(Device.state == "revoked"))
        )


class AccessKeeper:
    """One instance, one thread. ``denied``: whom the broker's access list denies already."""

    def __init__(
        self, readers: sessionmaker[Session], broker: Broker, access: BrokerAccess, denied: frozenset[DeviceId]
    ) -> None:
        self._readers = readers
        self._broker = broker
        self._access = access
        self._denied = denied
        self._to_end: set[DeviceId] = set()

    def step(self) -> frozenset[DeviceId]:
        """Deny who was revoked since the last step, end their sessions, clear their topics; who they were.

        Raises BrokerUnreachable; then the next step goes on.
        """
        wanted = revoked_devices(self._readers)
        new = wanted - self._denied
        if wanted != self._denied:
            # Rights first: a device that is only disconnected comes back within a second.
            self._access.write_access(wanted)
            self._denied = wanted
            self._to_end |= new
        for device in sorted(self._to_end):
            self._end(device)
        return new

    def _end(self, device: DeviceId) -> None:
        try:
            self._access.end_session(device)
        except BrokerUnreachable as error:
            log.warning("%s has no rights any more, but its session could not be ended: %s", device, error)
            raise
        for topic in (topics.ASSIGNMENT, topics.PRESENCE):
            self._broker.publish(topic.of(device), b"", retain=True)
        self._to_end.discard(device)
