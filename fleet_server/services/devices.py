"""What operators change about a device."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from fleet_protocol.errors import NotFound
from fleet_protocol.identifiers import DeviceId
from fleet_server.changes import ChangeFeed
from fleet_server.db.models import Audit, Device
from fleet_server.ports import Clock
from fleet_server.tags import check_tags


class Devices:
    """Tags now; names, groups and notes can follow."""

    def __init__(self, sessions: sessionmaker[Session], changes: ChangeFeed, clock: Clock) -> None:
        self._sessions = sessions
        self._changes = changes
        self._clock = clock

    def set_tags(self, device: DeviceId, tags: Mapping[str, str], who: str, reason: str) -> None:
        """Replace a device's tags. Raises MalformedInput or NotFound."""
        check_tags(tags)
        with self._sessions.begin() as session:
            row = session.get(Device, device)
            if row is None:
                raise NotFound(f"no device {device} in this fleet; `fleetctl device list` shows them")
            row.tags = dict(tags)
            text = ",".join(f"{key}={value}" for key, value in sorted(tags.items()))
            note = f"{reason} ({text})" if reason else text
            session.add(Audit(at=self._clock(), who=who[:63], action="device.tags", subject=device, reason=note[:400]))
        self._changes.publish("device", device)

    def forget_presence(self) -> None:
        """Nobody is known to be online: the broker was replaced, and with it every connection. Devices say so again."""
        with self._sessions.begin() as session:
            session.execute(update(Device).where(Device.online.is_(True)).values(online=False))
