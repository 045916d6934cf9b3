"""Bodies that the JSON API takes, and the few answers that are no view. Unknown keys are refused."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fleet_server.services.claims import MAX_BATCH
from fleet_server.services.tokens import Role

MAX_REASON: int = 400


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reason(_Body):
    """Why; it stands in the audit."""

    reason: str = Field(default="", max_length=MAX_REASON)


class ClaimOrder(_Body):
    """A claim for one device of one board, valid for ``ttl_s`` seconds. ``replace``: for one that is a member already."""

    device: str = Field(max_length=63)
    board: str = Field(max_length=63)
    ttl_s: float = Field(default=86_400.0, gt=0, le=365 * 86_400.0)
    replace: bool = False


class ClaimWish(_Body):
    """A device of a batch; ``tags`` are its own from the moment at which it enrols."""

    device: str = Field(max_length=63)
    board: str = Field(max_length=63)
    tags: dict[str, str] = Field(default_factory=dict, max_length=32)


class ClaimBatch(_Body):
    """Claims for several devices, all or none, valid for ``ttl_s`` seconds."""

    devices: tuple[ClaimWish, ...] = Field(min_length=1, max_length=MAX_BATCH)
    ttl_s: float = Field(default=86_400.0, gt=0, le=365 * 86_400.0)


class NewClaim(_Body):
    """The claim's text, shown this once."""

    id: str
    device: str
    board: str
    expires_at: float
    claim: str


class Tags(_Body):
    """All tags of a device; those not named are removed."""

    tags: dict[str, str] = Field(max_length=32)
    reason: str = Field(default="", max_length=MAX_REASON)


class RolloutOrder(_Body):
    """Which release goes to which devices, and how (``fleet_server.rollout.policy``). ``salt``: of a preview, to begin alike."""

    release_id: int
    selector: str = Field(default="all", max_length=400)
    policy: dict[str, Any]
    salt: int | None = Field(default=None, ge=0, lt=10_000)
    reason: str = Field(default="", max_length=MAX_REASON)


class TokenOrder(_Body):
    """A token with a role; ``ttl_s`` None: until it is revoked."""

    name: str = Field(max_length=63)
    role: Role
    ttl_s: float | None = Field(default=None, gt=0, le=10 * 365 * 86_400.0)


class TokenReply(_Body):
    """The token's text, shown this once."""

    id: int
    name: str
    role: Role
    expires_at: float | None
    token: str


class Health(_Body):
    """That the server answers, and its version; nothing about the fleet."""

    ok: bool
    version: str


class Whoami(_Body):
    """The fleet, and who the token says is asking."""

    fleet: str
    name: str
    role: Role


class Problem(_Body):
    """RFC 9457: ``code`` is stable, ``detail`` one sentence."""

    code: str
    detail: str
    status: int
    title: str
