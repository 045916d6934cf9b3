"""Tokens, sessions and roles."""

from __future__ import annotations

import secrets

import pytest
from sqlalchemy import select

from fleet_protocol.errors import Conflict, MalformedIdentifier, NotAllowed, NotAuthenticated, NotFound
from fleet_server.db.models import Audit, Session, Token
from fleet_server.fleet import Fleet
from fleet_server.services.tokens import (
    PERMISSIONS,
    ROLES,
    SESSION_IDLE_S,
    SESSION_LIFE_S,
    Principal,
    Tokens,
    is_session_alive,
)
from tests.server.kit import SteppedClock


@pytest.fixture
def tokens(fleet: Fleet) -> Tokens:
    return Tokens(fleet.sessions, fleet.readers, fleet.clock, secrets.token_bytes)


def test_a_token_says_who_and_which_role(tokens: Tokens) -> None:
    made = tokens.create("ci", "release", None, "admin")
    principal = tokens.authenticate(made.text)
    assert (principal.name, principal.role) == ("ci", "release")


@pytest.mark.attack("34")
def test_the_registry_holds_no_secret(tokens: Tokens, fleet: Fleet) -> None:
    made = tokens.create("ci", "release", None, "admin")
    cookie = tokens.open_session(made.text)
    stored = fleet.layout.database.read_bytes() + (fleet.layout.root / "fleet.db-wal").read_bytes()
    assert made.text.encode() not in stored
    assert cookie.encode() not in stored
    assert made.text not in repr(made)


@pytest.mark.parametrize("text", ["", "eft_", "eft_" + "A" * 43, "x" * 1000, "eft_" + "é" * 43])
def test_an_unknown_token_is_refused(tokens: Tokens, text: str) -> None:
    with pytest.raises(NotAuthenticated):
        tokens.authenticate(text)


@pytest.mark.attack("34")
def test_the_stored_digest_is_no_token(tokens: Tokens, fleet: Fleet) -> None:
    """Whoever reads the registry cannot sign in with what stands there."""
    tokens.create("ci", "release", None, "admin")
    with fleet.readers() as db:
        digests = [row.hex() for row in db.scalars(select(Token.token_sha256))]
    for digest in digests:
        with pytest.raises(NotAuthenticated):
            tokens.authenticate("eft_" + digest[:43])


def test_a_token_ends_at_its_time(tokens: Tokens, clock: SteppedClock) -> None:
    made = tokens.create("guest", "viewer", 60, "admin")
    clock.advance(59)
    tokens.authenticate(made.text)
    clock.advance(1)
    with pytest.raises(NotAuthenticated):
        tokens.authenticate(made.text)


def test_revoking_ends_the_token_and_its_sessions(tokens: Tokens, fleet: Fleet) -> None:
    made = tokens.create("guest", "viewer", None, "admin")
    cookie = tokens.open_session(made.text)
    tokens.revoke(made.id, "admin", "left")
    tokens.revoke(made.id, "admin", "again")
    with pytest.raises(NotAuthenticated):
        tokens.authenticate(made.text)
    with pytest.raises(NotAuthenticated):
        tokens.authenticate_session(cookie)
    with fleet.readers() as db:
        audited = db.scalars(select(Audit.reason).where(Audit.action == "token.revoke")).all()
    assert audited == ["left"]


def test_the_last_admin_cannot_be_revoked(tokens: Tokens) -> None:
    (founder,) = tokens.list()
    with pytest.raises(Conflict):
        tokens.revoke(founder.id, "admin", "")
    tokens.create("second", "admin", None, "admin")
    tokens.revoke(founder.id, "second", "")


def test_an_admin_token_that_expires_does_not_count_once_expired(tokens: Tokens, clock: SteppedClock) -> None:
    (founder,) = tokens.list()
    tokens.create("second", "admin", 60, "admin")
    clock.advance(61)
    with pytest.raises(Conflict):
        tokens.revoke(founder.id, "admin", "")


def test_a_name_is_given_once_for_ever(tokens: Tokens) -> None:
    made = tokens.create("guest", "viewer", None, "admin")
    tokens.revoke(made.id, "admin", "")
    with pytest.raises(Conflict):
        tokens.create("guest", "viewer", None, "admin")


@pytest.mark.parametrize("name", ["", "Upper", "a b", "x" * 64, "-a"])
def test_a_bad_name_is_refused(tokens: Tokens, name: str) -> None:
    with pytest.raises(MalformedIdentifier):
        tokens.create(name, "viewer", None, "admin")


def test_revoking_what_does_not_exist_is_not_found(tokens: Tokens) -> None:
    with pytest.raises(NotFound):
        tokens.revoke(999, "admin", "")


def test_a_session_ends_after_an_idle_hour(tokens: Tokens, clock: SteppedClock) -> None:
    cookie = tokens.open_session(tokens.create("guest", "viewer", None, "admin").text)
    for _ in range(3):
        clock.advance(SESSION_IDLE_S - 1)
        tokens.authenticate_session(cookie)
    clock.advance(SESSION_IDLE_S)
    with pytest.raises(NotAuthenticated):
        tokens.authenticate_session(cookie)


def test_a_session_ends_after_twelve_hours_however_busy(tokens: Tokens, clock: SteppedClock) -> None:
    cookie = tokens.open_session(tokens.create("guest", "viewer", None, "admin").text)
    for _ in range(23):
        clock.advance(1800)
        tokens.authenticate_session(cookie)
    clock.advance(1800)
    with pytest.raises(NotAuthenticated):
        tokens.authenticate_session(cookie)


@pytest.mark.parametrize(
    ("created_ago", "used_ago", "alive"),
    [
        (0, 0, True),
        (SESSION_LIFE_S - 1, 0, True),
        (SESSION_LIFE_S, 0, False),
        (SESSION_IDLE_S, SESSION_IDLE_S - 1, True),
        (SESSION_IDLE_S, SESSION_IDLE_S, False),
    ],
)
def test_both_limits_of_a_session_hold_to_the_second(created_ago: float, used_ago: float, alive: bool) -> None:
    assert is_session_alive(1e6 - created_ago, 1e6 - used_ago, now=1e6) is alive


def test_signing_out_ends_the_session_at_the_server(tokens: Tokens) -> None:
    cookie = tokens.open_session(tokens.create("guest", "viewer", None, "admin").text)
    tokens.close_session(cookie)
    tokens.close_session("unknown")
    with pytest.raises(NotAuthenticated):
        tokens.authenticate_session(cookie)


def test_dead_sessions_are_swept_when_one_is_opened(tokens: Tokens, fleet: Fleet, clock: SteppedClock) -> None:
    text = tokens.create("guest", "viewer", None, "admin").text
    tokens.open_session(text)
    clock.advance(SESSION_LIFE_S)
    tokens.open_session(text)
    with fleet.readers() as db:
        assert len(db.scalars(select(Session.token_id)).all()) == 1


def test_each_role_may_do_what_the_one_before_it_may() -> None:
    for permission, allowed in PERMISSIONS.items():
        least = min(ROLES.index(role) for role in allowed)
        assert allowed == set(ROLES[least:]), permission


def test_a_refusal_names_the_role_that_would_do() -> None:
    with pytest.raises(NotAllowed, match="needs the role release"):
        Principal(1, "guest", "operator").require("releases.write")


def test_permissions_are_pinned() -> None:
    """Who may do what is a decision: changing it changes this table."""
    least = {permission: next(role for role in ROLES if role in allowed) for permission, allowed in PERMISSIONS.items()}
    assert least == {
        "fleet.read": "viewer", "events.read": "viewer", "session.close": "viewer", "claims.write": "operator",
        "devices.write": "operator", "devices.revoke": "operator", "rollouts.write": "operator",
        "releases.write": "release", "audit.read": "operator", "tokens.write": "admin",
    }  # fmt: skip
