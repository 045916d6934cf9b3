"""From what a device shall serve to one signed statement for it (SPEC 4.3).

The registry's ``desired`` rows are the wish, the ``assignment`` row is the newest signed statement of it. Both change in the
caller's transaction; sending is the publisher's business, which looks for rows that are not yet published (an outbox).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from securesystemslib.signer import Signer
from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.orm import Session

from fleet_protocol import assignment as wire
from fleet_protocol import envelope
from fleet_protocol.errors import DeviceRevoked, NotFound
from fleet_protocol.identifiers import DeviceId, Digest, FleetId, SlotName
from fleet_server.db.models import Assignment, Desired, Device, Variant
from fleet_server.services.sealing import ContentKeys

VALIDITY_S: Final = 7 * 86_400.0
"""An assignment is valid this long: how late a replay of it can be believed."""
RENEWAL_S: Final = 2 * 86_400.0
"""It is signed again when less than this is left, so that a device which returns from a long weekend finds a valid one."""

_DUE_NOW: Final = 0.0


@dataclass(frozen=True, slots=True)
class Unsent:
    """A signed assignment that the broker does not retain yet."""

    device: DeviceId
    seq: int
    envelope: bytes


class Assignments:
    """Desired state in, signed assignments out. Every method works inside the caller's transaction."""

    def __init__(self, fleet: FleetId, director: Signer, keys: ContentKeys) -> None:
        self._fleet = fleet
        self._director = director
        self._keys = keys

    @property
    def director_keyid(self) -> str:
        """Id of the key that signs here; devices accept it where ``keys/director.json`` names it."""
        return str(self._director.public_key.keyid)

    def set_desired(
        self,
        session: Session,
        device_id: DeviceId,
        slot: SlotName,
        manifest_sha256: Digest | None,
        rollout_id: int | None,
        now: float,
    ) -> None:
        """Wish for ``manifest_sha256`` in ``slot`` (None: nothing), and mark the device as due for a new assignment.

        The caller may ``issue`` at once, where it needs the new sequence number; else the publisher does within a second.
        """
        row = session.get(Desired, (device_id, slot))
        if manifest_sha256 is None:
            if row is not None:
                session.delete(row)
        elif row is None:
            session.add(
                Desired(
                    device_id=device_id, slot=slot, manifest_sha256=manifest_sha256, rollout_id=rollout_id, since=now
                )
            )
        else:
            row.manifest_sha256, row.rollout_id, row.since = manifest_sha256, rollout_id, now
        newest = session.get(Assignment, device_id)
        if newest is not None:
            newest.expires_at = _DUE_NOW
        session.flush()

    def issue(self, session: Session, device_id: DeviceId, now: float) -> int:
        """Sign what the device shall serve under its next sequence number, and return that number; it is not sent yet.

        Raises NotFound or DeviceRevoked: no key is wrapped for a device that the registry does not trust.
        """
        device = session.get(Device, device_id, with_for_update=True)
        if device is None:
            raise NotFound(f"no device {device_id} in this fleet")
        if device.state != "active":
            raise DeviceRevoked(f"{device_id} is {device.state}; it gets no assignment")
        statement = wire.Assignment(
            fleet=self._fleet,
            device=device_id,
            seq=device.assignment_seq + 1,
            iat=int(now),
            exp=int(now + VALIDITY_S),
            items=tuple(self._item(device, variant, slot) for slot, variant in _desired(session, device_id)),
        )
        device.assignment_seq = statement.seq
        _keep(session, statement, wire.sign(statement, [self._director]))
        return statement.seq

    def due(self, session: Session, now: float, limit: int) -> Sequence[DeviceId]:
        """At most ``limit`` active devices whose wish changed or whose assignment runs out: to be issued for."""
        rows = session.scalars(
            select(Device.id)
            .outerjoin(Assignment, Assignment.device_id == Device.id)
            .where(
                Device.state == "active",
                or_(
                    Assignment.expires_at < now + RENEWAL_S,
                    Assignment.device_id.is_(None) & exists().where(Desired.device_id == Device.id),
                ),
            )
            .order_by(Device.id)
            .limit(limit)
        )
        return [DeviceId(device) for device in rows]

    def unsent(self, session: Session, limit: int) -> Sequence[Unsent]:
        """Assignments of active devices that are still to be published, at most ``limit``."""
        rows = session.execute(
            select(Assignment.device_id, Assignment.seq, Assignment.envelope)
            .join(Device, Device.id == Assignment.device_id)
            .where(Assignment.published_at.is_(None), Device.state == "active")
            .order_by(Assignment.issued_at)
            .limit(limit)
        )
        return [Unsent(DeviceId(device), seq, signed) for device, seq, signed in rows]

    def mark_sent(self, session: Session, sent: Sequence[Unsent], now: float) -> None:
        """Remember that the broker retains these. One that was replaced meanwhile stays unsent."""
        for each in sent:
            session.execute(
                update(Assignment)
                .where(Assignment.device_id == each.device, Assignment.seq == each.seq)
                .values(published_at=now)
            )

    def forget_sent(self, session: Session) -> int:
        """The broker was replaced: every assignment is to be sent again. How many there are."""
        session.execute(update(Assignment).values(published_at=None))
        return session.scalar(select(func.count()).select_from(Assignment)) or 0

    def _item(self, device: Device, variant: Variant, slot: str) -> wire.Item:
        manifest, blob = Digest(variant.manifest_sha256), Digest(variant.blob_sha256)
        wrapped = envelope.wrap_key(
            self._keys.reveal(variant.sealed_key, manifest, blob),
            X25519PublicKey.from_public_bytes(device.hpke_key),
            self._fleet,
            DeviceId(device.id),
            manifest,
            blob,
        )
        return wire.Item(
            slot=slot,
            target=variant.target_path,
            target_sha256=manifest,
            blob_sha256=blob,
            blob_bytes=variant.blob_bytes,
            wrapped_key=base64.b64encode(wrapped).decode(),
        )


def _desired(session: Session, device_id: DeviceId) -> list[tuple[str, Variant]]:
    rows = session.execute(
        select(Desired.slot, Variant)
        .join(Variant, Variant.manifest_sha256 == Desired.manifest_sha256)
        .where(Desired.device_id == device_id)
        .order_by(Desired.slot)
    )
    return [(slot, variant) for slot, variant in rows]


def _keep(session: Session, statement: wire.Assignment, signed: bytes) -> None:
    row = session.get(Assignment, statement.device)
    if row is None:
        row = Assignment(device_id=statement.device)
        session.add(row)
    row.seq, row.envelope, row.published_at = statement.seq, signed, None
    row.issued_at, row.expires_at = float(statement.iat), float(statement.exp)
    session.flush()
