"""Nothing answers without authentication except the public list; each role gets exactly what its permissions say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount

from fleet_protocol.errors import NotAllowed, NotAuthenticated
from fleet_server.ceremony import Founding
from fleet_server.fleet import Fleet
from fleet_server.services.tokens import PERMISSIONS, ROLES, Role
from fleet_server.web.api import create_app
from fleet_server.web.auth import COOKIE, Need
from fleet_server.web.guards import is_same_origin
from tests.server.kit import SteppedClock
from tests.server.web_fixtures import *  # noqa: F403 - fixtures
from tests.server.web_kit import WebServer, served

PUBLIC = {
    ("GET", "/v1/health"), ("GET", "/v1/ca"), ("GET", "/v1/meta/{name:path}"), ("POST", "/v1/enrol"),
    ("GET", "/v1/renew"), ("POST", "/v1/renew"),
    ("GET", "/login"), ("POST", "/login"),
}  # fmt: skip


def needs(route: APIRoute) -> set[str]:
    """The permissions that a route asks for."""
    return {str(each.call.permission) for each in route.dependant.dependencies if isinstance(each.call, Need)}


def all_routes(fleet: Fleet) -> Iterator[tuple[str, str, APIRoute]]:
    for route in flattened(create_app(fleet).routes):
        if isinstance(route, APIRoute):
            for method in sorted(route.methods - {"HEAD"}):
                yield method, route.path, route


def flattened(routes: object) -> Iterator[object]:
    for route in routes:  # type: ignore[attr-defined]
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from flattened(inner.routes)
        else:
            yield route


def test_every_route_asks_for_one_permission_or_stands_on_the_public_list(web_fleet: Fleet) -> None:
    seen = set()
    for method, path, route in all_routes(web_fleet):
        seen.add((method, path))
        assert len(needs(route)) == (0 if (method, path) in PUBLIC else 1), f"{method} {path}"
    assert seen >= PUBLIC
    assert len(seen) > 30


def test_only_static_files_are_mounted(web_fleet: Fleet) -> None:
    mounts = [route.path for route in flattened(create_app(web_fleet).routes) if isinstance(route, Mount)]
    assert mounts == ["/static"]


def concrete(path: str) -> str:
    values = {"{device}": "cam-1", "{rollout_id}": "1", "{release_id}": "1", "{token_id}": "999", "{verb}": "pause"}
    for name, value in values.items():
        path = path.replace(name, value)
    return path


@pytest.fixture(scope="module")
def shared(
    web_founded: Founding, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[WebServer, dict[str, str]]]:
    """One server for the whole matrix, with a token of each role."""
    import shutil
    import time

    from fleet_server.app import open_fleet

    state = tmp_path_factory.mktemp("matrix") / "state"
    shutil.copytree(web_founded.state, state)
    fleet = open_fleet(state, time.time)
    with served(fleet, web_founded.admin_token) as web:
        yield web, {role: web.token(f"a-{role}", role) for role in ROLES}
    fleet.close()


def test_the_whole_matrix_of_routes_and_roles(shared: tuple[WebServer, dict[str, str]]) -> None:
    """For each route: no token and a wrong one are refused, and each role passes or not exactly as PERMISSIONS says.

    "Passes" is anything but a refusal of the person: the requests name things that do not exist.
    """
    web, tokens = shared
    for method, path, route in all_routes(web.fleet):
        if (method, path) in PUBLIC or path in {"/v1/events", "/logout"}:
            continue
        (permission,) = needs(route)
        where = f"{method} {path}"
        is_page = not path.startswith("/v1/")
        for wrong in (None, "eft_" + "A" * 43):
            answer = web.ask(method, concrete(path), {} if method != "GET" else None, token=wrong)
            assert answer.status == (303 if is_page else 401), where
            assert is_page or answer.json["code"] == NotAuthenticated.code
        for role in ROLES:
            answer = web.ask(method, concrete(path), {} if method != "GET" else None, token=tokens[role])
            is_refused = answer.status == 403
            assert answer.status not in {303, 401, 500}, where
            assert is_refused == (role not in PERMISSIONS[permission]), f"{where} as {role}: {answer.body!r}"  # type: ignore[index]
            assert not is_refused or is_page or answer.json["code"] == NotAllowed.code


@pytest.mark.parametrize("scheme", ["Basic YTpi", "Bearer", "Token eft_x"])
def test_other_schemes_do_not_authenticate(web: WebServer, scheme: str) -> None:
    answer = web.ask("GET", "/v1/whoami", token=None, headers={"Authorization": scheme})
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_bad_bearer_token_is_not_saved_by_a_good_cookie(web: WebServer) -> None:
    """Two credentials that disagree are a mistake or an attack; the explicit one decides."""
    cookie = sign_in(web)
    answer = web.ask("GET", "/v1/whoami", token="eft_" + "A" * 43, headers={"Cookie": f"{COOKIE}={cookie}"})
    assert answer.status == 401


# --- sessions --------------------------------------------------------------------------------------------------------
def sign_in(web: WebServer, token: str = "") -> str:
    answer = web.ask(
        "POST", "/login", f"token={token or web.admin}".encode(), token=None,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    assert answer.status == 303, answer.text
    return answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0]


def page(web: WebServer, path: str, cookie: str, **headers: str) -> int:
    return web.ask("GET", path, token=None, headers={"Cookie": f"{COOKIE}={cookie}", **headers}).status


def test_the_cookie_is_bound_to_this_host_and_hidden_from_scripts(web: WebServer) -> None:
    answer = web.ask(
        "POST", "/login", f"token={web.admin}".encode(), token=None,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    name, _, attributes = answer.headers["Set-Cookie"].partition("=")
    assert name == "__Host-edgefleet"
    wanted = {"secure", "httponly", "samesite=strict", "path=/"}
    assert wanted <= {part.strip().lower() for part in attributes.split(";")}
    assert "domain=" not in attributes.lower()


def test_a_wrong_token_shows_the_form_again_and_sets_no_cookie(web: WebServer) -> None:
    answer = web.ask(
        "POST", "/login", b"token=eft_wrong", token=None, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert answer.status == 401
    assert "unknown, expired or revoked" in answer.text
    assert "Set-Cookie" not in answer.headers
    assert "eft_wrong" not in answer.text


def test_a_page_without_a_session_leads_to_the_login_and_back(web: WebServer) -> None:
    answer = web.ask("GET", "/devices/cam-1", token=None)
    assert (answer.status, answer.headers["Location"]) == (303, "/login?next=/devices/cam-1")


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\t/evil"]
)
def test_the_login_leads_nowhere_else(web: WebServer, target: str) -> None:
    from urllib.parse import quote

    answer = web.ask(
        "POST", "/login", f"token={web.admin}&next={quote(target)}".encode(), token=None,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    assert answer.headers["Location"] == "/"


def test_a_session_ends_with_its_idle_hour_and_with_sign_out(web: WebServer, web_clock: SteppedClock) -> None:
    idle, left = sign_in(web), sign_in(web)
    assert page(web, "/", idle) == 200
    answer = web.ask("POST", "/logout", token=None, headers={"Cookie": f"{COOKIE}={left}"})
    assert answer.status == 303
    assert page(web, "/", left) == 303
    web_clock.advance(3600)
    assert page(web, "/", idle) == 303


def test_a_live_page_learns_that_its_session_ended(web: WebServer) -> None:
    assert page(web, "/", "x" * 43, **{"x-fragment": "1"}) == 401


def test_guessing_at_the_login_is_slowed_down(web: WebServer) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    statuses = [web.ask("POST", "/login", b"token=eft_wrong", token=None, headers=form).status for _ in range(12)]
    assert statuses[0] == 401
    assert statuses[-1] == 429


# --- other sites' pages ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ({"sec-fetch-site": "same-origin", "origin": "https://fleet.example"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({}, True),
        ({"origin": "https://fleet.example", "host": "fleet.example"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, False),
        ({"sec-fetch-site": "same-site", "origin": "https://x.fleet.example"}, False),
        ({"origin": "https://evil.example", "host": "fleet.example"}, False),
        ({"origin": "null", "host": "fleet.example"}, False),
    ],
)
def test_a_request_may_have_effects_only_from_our_own_pages(headers: dict[str, str], is_allowed: bool) -> None:
    assert is_same_origin("POST", headers) is is_allowed
    assert is_same_origin("GET", headers)


@pytest.mark.attack("34")
def test_a_cross_site_post_with_a_good_cookie_changes_nothing(web: WebServer) -> None:
    cookie = sign_in(web)
    headers = {"Cookie": f"{COOKIE}={cookie}", "Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    answer = web.ask("POST", "/logout", token=None, headers=headers)
    assert (answer.status, answer.json["code"]) == (403, NotAllowed.code)
    assert page(web, "/", cookie) == 200


# --- headers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/login", "/v1/health", "/static/fleet.css", "/v1/devices", "/nowhere"])
def test_every_answer_carries_the_security_headers(web: WebServer, path: str) -> None:
    headers = web.ask("GET", path, token=None).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "max-age" in headers["Strict-Transport-Security"]


def test_a_foreign_host_name_is_refused(web: WebServer) -> None:
    assert web.ask("GET", "/v1/health", token=None, headers={"Host": "evil.example"}).status == 400


def test_health_says_nothing_about_the_fleet(web: WebServer) -> None:
    assert set(web.ask("GET", "/v1/health", token=None).json) == {"ok", "version"}


def test_no_page_holds_a_script_or_style_of_its_own() -> None:
    from fleet_server.web.rendering import TEMPLATES

    for template in TEMPLATES.glob("*.html"):
        text = template.read_text()
        assert "<style" not in text
        assert "style=" not in text
        assert " on" + "click" not in text
        assert text.count("<script") == text.count('<script type="module" src="/static/'), template.name


def test_roles_are_pinned() -> None:
    roles: tuple[Role, ...] = ("viewer", "operator", "release", "admin")
    assert roles == ROLES
