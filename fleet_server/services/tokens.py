"""Who may do what: API tokens, browser sessions and the four roles.

A token is ``eft_`` and 256 random bits; a session is a cookie of 256 random bits that was opened with a token and ends with
it. Only SHA-256 of either is kept, so a stolen registry opens nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, get_args

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from fleet_protocol.errors import Conflict, MalformedIdentifier, NotAllowed, NotAuthenticated, NotFound
from fleet_server.db.models import Audit, Session, Token

Role = Literal["viewer", "operator", "release", "admin"]
Permission = Literal[
    "fleet.read",
    "events.read",
    "session.close",
    "claims.write",
    "devices.write",
    "devices.revoke",
    "rollouts.write",
    "releases.write",
    "audit.read",
    "tokens.write",
]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""From the least to the most powerful: each may do what those before it may."""


def _from(role: Role) -> frozenset[Role]:
    return frozenset(ROLES[ROLES.index(role) :])


PERMISSIONS: Final[Mapping[Permission, frozenset[Role]]] = MappingProxyType(
    {
        "fleet.read": _from("viewer"),
        "events.read": _from("viewer"),
        "session.close": _from("viewer"),
        "claims.write": _from("operator"),
        "devices.write": _from("operator"),
        "devices.revoke": _from("operator"),
        "rollouts.write": _from("operator"),
        "releases.write": _from("release"),
        "audit.read": _from("operator"),
        "tokens.write": _from("admin"),
    }
)

TOKEN_PREFIX: Final = "eft_"  # noqa: S105 - not a secret: it marks one, so that scanners find a leaked token
SECRET_BYTES: Final = 32
SESSION_IDLE_S: Final = 3600.0
SESSION_LIFE_S: Final = 12 * 3600.0
_TOUCH_S: Final = 60.0
"""A session's last use is written at most this often: a live page asks every second, a disk should not write that often."""
_TEXT: Final = re.compile(r"eft_[A-Za-z0-9_-]{43}")
_COOKIE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_TOKEN_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.@-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: the token's name and role, however it was presented."""

    token_id: int
    name: str
    role: Role

    def require(self, permission: Permission) -> None:
        """Raises NotAllowed where the role does not have ``permission``, naming one that has."""
        allowed = PERMISSIONS[permission]
        if self.role not in allowed:
            least = next(role for role in ROLES if role in allowed)
            raise NotAllowed(f"{permission} needs the role {least} or higher, token {self.name} has {self.role}")


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token at the only moment at which its text is known."""

    id: int
    name: str
    role: Role
    expires_at: float | None
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as it may be shown: without its secret. Times in Unix seconds."""

    id: int
    name: str
    role: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None


def token_text(randomness: bytes) -> str:
    """The token for 32 random bytes."""
    return TOKEN_PREFIX + base64.urlsafe_b64encode(randomness).rstrip(b"=").decode()


def digest_of_secret(text: str) -> bytes:
    """What the registry keeps of a token or cookie. A 256-bit secret needs no slow hash: it cannot be guessed."""
    return hashlib.sha256(text.encode()).digest()


def is_session_alive(created_at: float, last_used_at: float, *, now: float) -> bool:
    """Whether a session is within its idle hour and its twelve hours."""
    return now - created_at < SESSION_LIFE_S and now - last_used_at < SESSION_IDLE_S


class Tokens:
    """Tokens and sessions in the registry. ``random_bytes``: a cryptographic source, e.g. ``secrets.token_bytes``."""

    def __init__(
        self,
        sessions: sessionmaker[DbSession],
        readers: sessionmaker[DbSession],
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._sessions = sessions
        self._readers = readers
        self._clock = clock
        self._random_bytes = random_bytes

    def create(self, name: str, role: Role, ttl_s: float | None, who: str) -> NewToken:
        """Make a token; raises MalformedIdentifier or Conflict where the name was ever used."""
        if not _TOKEN_NAME.fullmatch(name):
            raise MalformedIdentifier(
                f"a token name is 1-63 lower-case letters, digits, dots, hyphens or @, got {name[:80]!r}"
            )
        now = self._clock()
        text = token_text(self._random_bytes(SECRET_BYTES))
        expires_at = None if ttl_s is None else now + ttl_s
        row = Token(
            name=name,
            role=role,
            token_sha256=digest_of_secret(text),
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
        )
        with self._sessions.begin() as db:
            if db.scalar(select(Token.id).where(Token.name == name)) is not None:
                # Names stand in the audit: a second token of the same name would blur who did what.
                raise Conflict(f"a token named {name} exists or existed; choose another name")
            db.add(row)
            db.add(Audit(at=now, who=who, action="token.create", subject=name, reason=f"role {role}"))
            db.flush()
            return NewToken(row.id, name, role, expires_at, text)

    def list(self) -> list[TokenView]:
        """Every token that was ever made, oldest first."""
        with self._readers() as db:
            return [
                TokenView(row.id, row.name, row.role, row.created_at, row.expires_at, row.revoked_at)
                for row in db.scalars(select(Token).order_by(Token.id))
            ]

    def revoke(self, token_id: int, who: str, reason: str) -> None:
        """End a token and every session opened with it; a second call changes nothing. Raises NotFound, Conflict."""
        now = self._clock()
        with self._sessions.begin() as db:
            row = db.get(Token, token_id)
            if row is None:
                raise NotFound(f"there is no token {token_id}; `fleetctl token list` shows them")
            if row.revoked_at is not None:
                return
            self._keep_one_admin(db, row, now)
            row.revoked_at = now
            db.execute(delete(Session).where(Session.token_id == token_id))
            db.add(Audit(at=now, who=who, action="token.revoke", subject=row.name, reason=reason))

    def authenticate(self, text: str) -> Principal:
        """The principal of a bearer token; raises NotAuthenticated with one sentence for every reason."""
        with self._readers() as db:
            return self._principal(self._live_token(db, text))

    def open_session(self, text: str) -> str:
        """Start a browser session with a token: the cookie's value. Raises NotAuthenticated."""
        now = self._clock()
        cookie = token_text(self._random_bytes(SECRET_BYTES)).removeprefix(TOKEN_PREFIX)
        with self._sessions.begin() as db:
            token = self._live_token(db, text)
            db.execute(
                delete(Session).where(
                    (Session.created_at <= now - SESSION_LIFE_S) | (Session.last_used_at <= now - SESSION_IDLE_S)
                )
            )
            db.add(Session(cookie_sha256=digest_of_secret(cookie), token_id=token.id, created_at=now, last_used_at=now))
            db.add(Audit(at=now, who=token.name, action="session.open", subject=token.name, reason=""))
        return cookie

    def authenticate_session(self, cookie: str) -> Principal:
        """The principal of a session, whose idle hour begins anew; raises NotAuthenticated."""
        now = self._clock()
        if not _COOKIE.fullmatch(cookie):
            raise NotAuthenticated("this session has ended; sign in again")
        digest = digest_of_secret(cookie)
        with self._readers() as db:
            row = db.get(Session, digest)
            if row is None or not is_session_alive(row.created_at, row.last_used_at, now=now):
                raise NotAuthenticated("this session has ended; sign in again")
            token = db.get(Token, row.token_id)
            if token is None or not _is_live(token, now):
                raise NotAuthenticated("the token that opened this session has ended; sign in with another")
            principal = self._principal(token)
            is_due = now - row.last_used_at >= _TOUCH_S
        if is_due:
            with self._sessions.begin() as db:
                db.execute(update(Session).where(Session.cookie_sha256 == digest).values(last_used_at=now))
        return principal

    def close_session(self, cookie: str) -> None:
        """Sign out; unknown cookies are no error."""
        with self._sessions.begin() as db:
            db.execute(delete(Session).where(Session.cookie_sha256 == digest_of_secret(cookie)))

    def _live_token(self, db: DbSession, text: str) -> Token:
        refusal = NotAuthenticated("the token is unknown, expired or revoked; ask an admin for a new one")
        if not _TEXT.fullmatch(text):
            raise refusal
        digest = digest_of_secret(text)
        row = db.scalar(select(Token).where(Token.token_sha256 == digest))
        # The index finds by digest, so timing tells nothing of the secret; the comparison says so once more.
        if row is None or not hmac.compare_digest(row.token_sha256, digest) or not _is_live(row, self._clock()):
            raise refusal
        return row

    def _principal(self, token: Token) -> Principal:
        role = next((role for role in ROLES if role == token.role), None)
        if role is None:
            raise NotAllowed(f"token {token.name} has the unknown role {token.role!r}; make a new one")
        return Principal(token.id, token.name, role)

    def _keep_one_admin(self, db: DbSession, leaving: Token, now: float) -> None:
        others = db.scalars(select(Token).where(Token.role == "admin", Token.id != leaving.id))
        if leaving.role == "admin" and not any(_is_live(other, now) for other in others):
            raise Conflict(f"{leaving.name} is the last admin token; create another before revoking it")


def _is_live(token: Token, now: float) -> bool:
    return token.revoked_at is None and (token.expires_at is None or now < token.expires_at)
