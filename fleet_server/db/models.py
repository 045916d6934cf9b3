"""Every table of the registry (SQLAlchemy 2). Times are Unix seconds (UTC), digests 64 hexadecimal digits.

Alembic migrations under ``fleet_server/migrations`` follow this file; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, MetaData, String, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can drop them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Device(Base):
    """A member of the fleet. ``state``: active | revoked. ``bucket``: SPEC 9.2."""

    __tablename__ = "device"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    bucket: Mapped[int] = mapped_column(index=True)
    board: Mapped[str] = mapped_column(String(63))
    state: Mapped[str] = mapped_column(String(16), default="active")
    tags: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    enrolled_at: Mapped[float]
    tls_spki: Mapped[bytes] = mapped_column(LargeBinary)
    hpke_key: Mapped[bytes] = mapped_column(LargeBinary)
    serial: Mapped[str] = mapped_column(String(64))
    previous_serial: Mapped[str | None] = mapped_column(String(64))
    online: Mapped[bool] = mapped_column(default=False)
    last_seen: Mapped[float | None]
    fingerprint: Mapped[dict[str, str] | None] = mapped_column(JSON)
    assignment_seq: Mapped[int] = mapped_column(default=0)


class Claim(Base):
    """A one-time right to enrol as ``device_id``, which then gets ``tags``. Only SHA-256 of the secret is kept.

    ``used_by``: SHA-256 of the two public keys that redeemed it. ``revoked_*``: when, by whom and why it was withdrawn.
    ``replaces``: it is for a device that is a member already, and takes the place of its keys.
    """

    __tablename__ = "claim"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    device_id: Mapped[str] = mapped_column(String(63))
    board: Mapped[str] = mapped_column(String(63))
    created_at: Mapped[float]
    created_by: Mapped[str] = mapped_column(String(63))
    expires_at: Mapped[float]
    used_at: Mapped[float | None]
    used_by: Mapped[bytes | None] = mapped_column(LargeBinary)
    tags: Mapped[dict[str, str]] = mapped_column(JSON, default=dict, server_default=text("'{}'"))
    revoked_at: Mapped[float | None]
    revoked_by: Mapped[str | None] = mapped_column(String(63))
    revoked_because: Mapped[str | None] = mapped_column(String(400))
    replaces: Mapped[bool] = mapped_column(default=False, server_default=text("0"))


class Release(Base):
    """One version of one model, signed by the release keys."""

    __tablename__ = "release"
    __table_args__ = (UniqueConstraint("model", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(String(63))
    version: Mapped[str] = mapped_column(String(32))
    slot: Mapped[str] = mapped_column(String(63))
    counter: Mapped[int]
    created_at: Mapped[float]
    created_by: Mapped[str] = mapped_column(String(63))


class Variant(Base):
    """One variant of a release: its manifest, and its payload as a sealed blob.

    ``sealed_key``: the content key, encrypted with the server's key-encryption key. ``position``: order of preference.
    """

    __tablename__ = "variant"

    manifest_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("release.id"), index=True)
    name: Mapped[str] = mapped_column(String(63))
    position: Mapped[int]
    target_path: Mapped[str] = mapped_column(String(200))
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    blob_sha256: Mapped[str] = mapped_column(String(64), index=True)
    blob_bytes: Mapped[int]
    sealed_key: Mapped[bytes] = mapped_column(LargeBinary)


class Desired(Base):
    """What a device shall serve in a slot now, and which rollout said so."""

    __tablename__ = "desired"

    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), primary_key=True)
    slot: Mapped[str] = mapped_column(String(63), primary_key=True)
    manifest_sha256: Mapped[str] = mapped_column(ForeignKey("variant.manifest_sha256"))
    rollout_id: Mapped[int | None] = mapped_column(ForeignKey("rollout.id"))
    since: Mapped[float]


class Assignment(Base):
    """The newest signed assignment of a device: what is retained at the broker. ``published_at``: None = still to send."""

    __tablename__ = "assignment"

    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), primary_key=True)
    seq: Mapped[int]
    issued_at: Mapped[float]
    expires_at: Mapped[float]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    published_at: Mapped[float | None] = mapped_column(index=True)


class Rollout(Base):
    """A release on its way to the devices that ``selector`` names. A rule, not a row per device (DESIGN 7).

    A device with ``bucket`` is in the open part iff ``(bucket - salt) mod 10000 < opened``. ``policy``: see
    ``fleet_server.rollout.policy``. ``revision`` grows with every change (If-Match, SSE).
    """

    __tablename__ = "rollout"

    id: Mapped[int] = mapped_column(primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("release.id"), index=True)
    selector: Mapped[str] = mapped_column(String(400))
    salt: Mapped[int]
    opened: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(24), index=True)
    policy: Mapped[dict[str, Any]] = mapped_column(JSON)
    reason: Mapped[str] = mapped_column(String(400), default="")
    created_at: Mapped[float]
    created_by: Mapped[str] = mapped_column(String(63))
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    revision: Mapped[int] = mapped_column(default=1)


class Wave(Base):
    """One wave of a rollout: the bucket offsets from the previous wave's ``window_end`` up to its own."""

    __tablename__ = "wave"

    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollout.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(63))
    window_end: Mapped[int]
    members: Mapped[int]
    state: Mapped[str] = mapped_column(String(24))
    opened_at: Mapped[float | None]
    baking_since: Mapped[float | None]
    finished_at: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(String(400), default="")


class RolloutDevice(Base):
    """A device that a rollout has assigned: its progress as reported, followed along the contract's state table.

    ``confirmed_at``: when a heartbeat first said that the slot serves the new digest; success needs COMMITTED and this.
    ``restored_at``: when, after a rollback, a heartbeat said that the slot no longer serves the new digest.
    """

    __tablename__ = "rollout_device"
    __table_args__ = (Index("ix_rollout_device_state", "rollout_id", "state"),)

    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollout.id"), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), primary_key=True)
    wave: Mapped[int]
    slot: Mapped[str] = mapped_column(String(63))
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    previous_sha256: Mapped[str | None] = mapped_column(String(64))
    assignment_seq: Mapped[int]
    state: Mapped[str] = mapped_column(String(24))
    execution: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column(default=0)
    assigned_at: Mapped[float]
    state_since: Mapped[float]
    confirmed_at: Mapped[float | None]
    restored_at: Mapped[float | None]
    code: Mapped[str] = mapped_column(String(64), default="")
    detail: Mapped[str] = mapped_column(String(400), default="")


class LatestHealth(Base):
    """The newest health report of a device. ``served``: slot name to manifest digest."""

    __tablename__ = "latest_health"

    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), primary_key=True)
    seq: Mapped[int]
    at: Mapped[float]
    received_at: Mapped[float]
    served: Mapped[dict[str, str]] = mapped_column(JSON)
    report: Mapped[bytes] = mapped_column(LargeBinary)


class HealthHistory(Base):
    """One row per report and slot, wide; bounded by retention (``ingest``). ``latency``: an encoded sketch (ms)."""

    __tablename__ = "health_history"
    __table_args__ = (Index("ix_health_history_at", "at"), Index("ix_health_history_device", "device_id", "at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(String(63))
    at: Mapped[float]
    slot: Mapped[str] = mapped_column(String(63))
    served_sha256: Mapped[str] = mapped_column(String(64))
    cpu_percent: Mapped[float]
    memory_used_bytes: Mapped[int]
    temperature_celsius: Mapped[float | None]
    fps: Mapped[float]
    frames: Mapped[int]
    errors: Mapped[int]
    latency: Mapped[bytes] = mapped_column(LargeBinary)


class DeploymentEvent(Base):
    """What a device said of a deployment, as it came. ``fault``: why it was not believed, empty where it was."""

    __tablename__ = "deployment_event"
    __table_args__ = (Index("ix_deployment_event_device", "device_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(String(63))
    received_at: Mapped[float]
    at: Mapped[float]
    slot: Mapped[str] = mapped_column(String(63))
    assignment_seq: Mapped[int]
    execution: Mapped[int]
    version: Mapped[int]
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(24))
    code: Mapped[str] = mapped_column(String(64))
    detail: Mapped[str] = mapped_column(String(400))
    fault: Mapped[str] = mapped_column(String(200), default="")


class Token(Base):
    """An API token; only SHA-256 of it is kept. ``role``: viewer | operator | release | admin."""

    __tablename__ = "token"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    token_sha256: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class Session(Base):
    """A browser's session: SHA-256 of the cookie, the token it was opened with, when it began and was last used."""

    __tablename__ = "session"

    cookie_sha256: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    token_id: Mapped[int] = mapped_column(ForeignKey("token.id"))
    created_at: Mapped[float]
    last_used_at: Mapped[float]


class Audit(Base):
    """Who did what, when and why. Only ever appended."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    who: Mapped[str] = mapped_column(String(63))
    action: Mapped[str] = mapped_column(String(63))
    subject: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(String(400), default="")
