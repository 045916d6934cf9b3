"""Claims: made one by one or for a whole production run, withdrawn, and as people see them (SPEC 9.1)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from sqlalchemy import ColumnElement, CursorResult, and_, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from fleet_protocol import claim as claims
from fleet_protocol.claim import SERVER_NAME, Claim
from fleet_protocol.errors import Conflict, DeviceRevoked, MalformedInput, NotFound
from fleet_protocol.identifiers import BoardName, DeviceId
from fleet_server.changes import ChangeFeed
from fleet_server.db.models import Audit, Device
from fleet_server.db.models import Claim as ClaimRow
from fleet_server.ports import Authority, Clock, SignedMetadata
from fleet_server.services.overview import MAX_PAGE
from fleet_server.services.views import ClaimState, ClaimView
from fleet_server.tags import check_tags

MAX_TTL_S: Final = 90 * 86_400.0
"""A claim is a secret on a card in somebody's pocket; it does not live longer than a season."""
MAX_BATCH: Final = 1000
"""Claims made in one transaction: a production run is split beyond it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A device that shall be able to join, of which board, and the tags that it gets when it does.

    ``replaces``: the device is a member already; its keys give way to those that redeem the claim (SPEC 9.1.7).
    """

    device: DeviceId
    board: BoardName
    tags: Mapping[str, str] = field(default_factory=dict)
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Pins:
    """What every claim of a fleet pins: its CA and its TUF root."""

    ca: bytes
    root: bytes

    @classmethod
    def of(cls, ca: Authority, tuf: SignedMetadata) -> Pins:
        """The pins of a fleet."""
        return cls(claims.pin_of(ca.certificate_der), claims.pin_of(tuf.root()))


def add_claim(session: Session, wish: Wish, ttl_s: float, who: str, *, now: float, pins: Pins) -> Claim:
    """Add a claim and its audit entry; the secret is in the returned claim only.

    Raises Conflict or MalformedInput; NotFound or DeviceRevoked where there is nothing to replace.
    """
    if wish.device == SERVER_NAME:
        # The broker takes rights from the certificate's name, and this name has all of them.
        raise Conflict(f"{SERVER_NAME} is the server's own name; name the device otherwise")
    if not 0 < ttl_s <= MAX_TTL_S:
        raise Conflict(f"a claim lives between a second and {MAX_TTL_S / 86_400:.0f} days")
    check_tags(wish.tags)
    if wish.replaces:
        _check_replaceable(session, wish.device)
    secret = secrets.token_bytes(claims.SECRET_BYTES)
    row = ClaimRow(
        id=secrets.token_hex(6),
        secret_sha256=hashlib.sha256(secret).digest(),
        device_id=wish.device,
        board=wish.board,
        created_at=now,
        created_by=who,
        expires_at=now + ttl_s,
        tags=dict(wish.tags),
        replaces=wish.replaces,
    )
    session.add(row)
    told = f"claim {row.id} for board {wish.board}, valid {ttl_s:.0f} s{', replaces its keys' if wish.replaces else ''}"
    session.add(Audit(at=now, who=who[:63], action="claim.create", subject=wish.device, reason=told))
    return Claim(row.id, secret, pins.ca, pins.root)


def _check_replaceable(session: Session, device: DeviceId) -> None:
    row = session.get(Device, device)
    if row is None:
        raise NotFound(f"no device {device} in this fleet; a new one needs a claim without --replace")
    if row.state != "active":
        # The broker goes by the name: taking the revocation back would let the old certificate in as well.
        raise DeviceRevoked(f"{device} is {row.state} and stays it; the replacement gets a new name")


class Claims:
    """Claims in numbers, and their end. One by one they are made by :class:`Enrolment`."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        ca: Authority,
        tuf: SignedMetadata,
        changes: ChangeFeed,
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._ca = ca
        self._tuf = tuf
        self._changes = changes
        self._clock = clock

    def create_batch(self, wishes: Sequence[Wish], ttl_s: float, who: str) -> tuple[Claim, ...]:
        """One claim per wish, in their order: all of them, or none.

        Raises MalformedInput (none, too many, a device twice, a bad tag) or Conflict (a device is a member already).
        """
        names = [wish.device for wish in wishes]
        if not 1 <= len(names) <= MAX_BATCH:
            raise MalformedInput(f"a batch has 1 to {MAX_BATCH} devices, got {len(names)}")
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise MalformedInput(f"{twice} stands in the batch twice; a claim is for one device")
        pins = Pins.of(self._ca, self._tuf)
        with self._sessions.begin() as session:
            member = session.scalar(select(Device.id).where(Device.id.in_(names)).order_by(Device.id).limit(1))
            if member is not None:
                raise Conflict(f"{member} is already enrolled; take it out of the batch")
            made = tuple(add_claim(session, wish, ttl_s, who, now=self._clock(), pins=pins) for wish in wishes)
        self._changes.publish("claim", "batch")
        return made

    def revoke(self, claim_id: str, who: str, reason: str) -> None:
        """Withdraw a claim; a second call changes nothing. Raises NotFound, or Conflict where it was used."""
        now = self._clock()
        with self._sessions.begin() as session:
            row = session.get(ClaimRow, claim_id)
            if row is None:
                raise NotFound(f"there is no claim {claim_id[:80]}; `fleetctl claim list` shows them")
            if row.revoked_at is not None:
                return
            # One statement, so that of a revocation and an enrolment at the same moment one wins (SPEC 9.1.6).
            result = session.execute(
                update(ClaimRow)
                .where(ClaimRow.id == claim_id, ClaimRow.used_at.is_(None))
                .values(revoked_at=now, revoked_by=who[:63], revoked_because=reason[:400])
            )
            assert isinstance(result, CursorResult)  # noqa: S101  # what an UPDATE gives; the type is wider
            if result.rowcount == 0:
                raise Conflict(
                    f"claim {claim_id} was used; `fleetctl device revoke {row.device_id}` ends the membership"
                )
            why = f"claim {claim_id}: {reason}" if reason else f"claim {claim_id}"
            session.add(Audit(at=now, who=who[:63], action="claim.revoke", subject=row.device_id, reason=why[:400]))
        self._changes.publish("claim", claim_id)


def state_of(row: ClaimRow, *, now: float) -> ClaimState:
    """What became of a claim. Used beats all: nothing can be withdrawn from a member through its claim."""
    if row.used_at is not None:
        return "used"
    if row.revoked_at is not None:
        return "revoked"
    return "open" if now < row.expires_at else "expired"


def claim_views(
    db: Session, *, now: float, state: ClaimState | Literal[""] = "", device: str = "", limit: int = MAX_PAGE
) -> tuple[ClaimView, ...]:
    """Claims, newest first, without their secrets; only those in ``state`` or for ``device`` where one is given."""
    query = select(ClaimRow).order_by(ClaimRow.created_at.desc(), ClaimRow.device_id, ClaimRow.id)
    if state:
        query = query.where(_are(state, now=now))
    if device:
        query = query.where(ClaimRow.device_id == device)
    return tuple(_view(row, now=now) for row in db.scalars(query.limit(max(1, min(limit, MAX_PAGE)))))


def claim_counts(db: Session, *, now: float) -> Mapping[ClaimState, int]:
    """How many claims are in each state."""
    states: tuple[ClaimState, ...] = ("open", "used", "expired", "revoked")
    return {
        state: db.scalar(select(func.count()).select_from(ClaimRow).where(_are(state, now=now))) or 0
        for state in states
    }


def _are(state: ClaimState, *, now: float) -> ColumnElement[bool]:
    """:func:`state_of` for the database."""
    is_unused, is_kept = ClaimRow.used_at.is_(None), ClaimRow.revoked_at.is_(None)
    return {
        "used": ClaimRow.used_at.is_not(None),
        "revoked": and_(is_unused, ClaimRow.revoked_at.is_not(None)),
        "open": and_(is_unused, is_kept, ClaimRow.expires_at > now),
        "expired": and_(is_unused, is_kept, ClaimRow.expires_at <= now),
    }[state]


def _view(row: ClaimRow, *, now: float) -> ClaimView:
    return ClaimView(
        id=row.id,
        device_id=row.device_id,
        board=row.board,
        tags=row.tags,
        state=state_of(row, now=now),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        used_at=row.used_at,
        used_by=None if row.used_by is None else row.used_by.hex(),
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        revoked_because=row.revoked_because,
    )
