"""The pages in a real browser under the real content security policy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from fleet_protocol.identifiers import DeviceId
from fleet_server.ceremony import Founding
from tests.server import kit
from tests.server.web_fixtures import *  # noqa: F403 - fixtures
from tests.server.web_kit import INSTALL, Voice, WebServer

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LIMIT_MS = 15_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture
def errors() -> list[str]:
    """What the browser complained of."""
    return []


@pytest.fixture
def context(browser: Browser, web: WebServer, errors: list[str]) -> Iterator[BrowserContext]:
    """A browser of its own, closed before the server is: ``web`` is asked for only for that order."""

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            errors.append(message.text)

    opened = browser.new_context(ignore_https_errors=True)
    opened.set_default_timeout(LIMIT_MS)
    opened.on("console", note)
    opened.on("weberror", lambda error: errors.append(str(error.error)))
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, web: WebServer) -> Page:
    """Signed in as the administrator, on the fleet's page."""
    opened = context.new_page()
    opened.goto(web.url + "/")
    opened.get_by_label("Access token").fill(web.admin)
    opened.get_by_role("button", name="Sign in").click()
    expect(opened).to_have_url(web.url + "/")
    return opened


def is_live(page: Page) -> None:
    expect(page.get_by_role("status")).to_have_text("live", timeout=LIMIT_MS)


def test_a_stranger_signs_in_and_out(context: BrowserContext, web: WebServer, errors: list[str]) -> None:
    page = context.new_page()
    page.goto(web.url + "/devices/cam-1")
    expect(page.get_by_role("heading", name="Sign in to acme")).to_be_visible()
    assert errors == []
    page.get_by_label("Access token").fill("eft_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")
    errors.clear()  # the browser names the 401 itself
    page.get_by_label("Access token").fill(web.admin)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="That did not work")).to_be_visible()  # there is no cam-1
    errors.clear()
    page.goto(web.url + "/")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(web.url + "/login")
    page.goto(web.url + "/")
    expect(page).to_have_url(web.url + "/login?next=/")
    assert errors == []


def test_an_empty_fleet_says_what_to_do_next(page: Page, errors: list[str]) -> None:
    expect(page.get_by_role("heading", name="From an empty fleet to a served model")).to_be_visible()
    expect(page.get_by_text("fleetctl claim create cam-1 --board")).to_be_visible()
    is_live(page)
    assert errors == []


def test_devices_and_waves_move_without_a_reload(
    page: Page, web: WebServer, web_founding: Founding, tmp_path: Path, errors: list[str]
) -> None:
    """From the first device to a finished rollout on one page that is never loaded again."""
    is_live(page)
    page.evaluate("globalThis.neverLoadedAgain = true")
    kit.enrol(web.fleet, "cam-1")
    voice = Voice(web.fleet, DeviceId("cam-1"))
    voice.online()
    voice.health(temperature=61.0)
    row = page.get_by_role("row").filter(has_text="cam-1")
    expect(row).to_contain_text("online", timeout=LIMIT_MS)
    expect(row).to_contain_text("61")

    made = kit.release(web.fleet, web_founding, tmp_path)
    manifest = kit.manifest_of(web.fleet, made)
    body = {
        "release_id": made.id,
        "policy": {"waves": [{"title": "canary", "size": 1}], "bake_s": 0},
        "reason": "first",
    }
    rollout = web.ask("POST", "/v1/rollouts", body).json["id"]
    web.ask("POST", f"/v1/rollouts/{rollout}/start", {"reason": "go"})
    web.fleet.rollouts.tick(web.fleet.clock())
    wave = page.get_by_role("listitem").filter(has_text="canary")
    expect(wave).to_contain_text("1 on the way", timeout=LIMIT_MS)

    voice.deployment(manifest, *INSTALL, assignment=1, served=manifest)
    voice.health(manifest, assignment=1)
    for _ in range(4):
        web.fleet.rollouts.tick(web.fleet.clock())
    expect(wave).to_contain_text("passed", timeout=LIMIT_MS)
    expect(wave).to_contain_text("1 of 1 device serves it")
    expect(row).to_contain_text(manifest[:12])
    expect(row).to_contain_text("serves what it should")
    assert page.evaluate("globalThis.neverLoadedAgain") is True
    assert errors == []


def test_a_rollout_is_steered_with_a_reason(
    page: Page, web: WebServer, web_founding: Founding, tmp_path: Path, errors: list[str]
) -> None:
    kit.enrol(web.fleet, "cam-1")
    Voice(web.fleet, DeviceId("cam-1")).health()
    made = kit.release(web.fleet, web_founding, tmp_path)
    body = {"release_id": made.id, "policy": {"waves": [{"title": "all", "size": "100%"}]}}
    rollout = web.ask("POST", "/v1/rollouts", body).json["id"]
    page.goto(f"{web.url}/rollouts/{rollout}")
    expect(page.get_by_role("button", name="Pause")).to_be_disabled()
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("button", name="Start")).to_be_enabled()  # no reason was given: the form holds it back
    page.get_by_label("Reason").fill("all is ready")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("button", name="Pause")).to_be_enabled()
    (entry,) = [each for each in web.ask("GET", "/v1/audit").json if each["action"] == "rollout.start"]
    assert (entry["who"], entry["reason"]) == ("admin", "all is ready")
    assert errors == []


def test_a_viewer_sees_no_buttons(
    context: BrowserContext, web: WebServer, web_founding: Founding, tmp_path: Path
) -> None:
    kit.enrol(web.fleet, "cam-1")
    Voice(web.fleet, DeviceId("cam-1")).health()
    made = kit.release(web.fleet, web_founding, tmp_path)
    rollout = web.ask(
        "POST", "/v1/rollouts", {"release_id": made.id, "policy": {"waves": [{"title": "a", "size": 1}]}}
    ).json
    page = context.new_page()
    page.goto(f"{web.url}/login?next=/rollouts/{rollout['id']}")
    page.get_by_label("Access token").fill(web.token("eyes", "viewer"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name=f"Rollout {rollout['id']}")).to_be_visible()
    expect(page.get_by_role("button", name="Start")).to_have_count(0)


def test_what_is_being_typed_survives_live_updates(page: Page, web: WebServer) -> None:
    is_live(page)
    page.get_by_label("Filter devices by id or board").fill("cam-")
    kit.enrol(web.fleet, "cam-1")
    expect(page.get_by_role("row").filter(has_text="cam-1")).to_be_visible(timeout=LIMIT_MS)
    expect(page.get_by_label("Filter devices by id or board")).to_have_value("cam-")
    expect(page.get_by_label("Filter devices by id or board")).to_be_focused()


def test_a_claim_is_revoked_with_a_reason_while_others_are_made(page: Page, web: WebServer, errors: list[str]) -> None:
    """A claim that appears in the meantime does not take away what is being typed."""
    page.goto(web.url + "/claims")
    expect(page.get_by_text("No claim was made yet")).to_be_visible()
    is_live(page)
    web.ask("POST", "/v1/claims", {"device": "cam-1", "board": kit.BOARD})
    row = page.get_by_role("row").filter(has_text="cam-1")
    expect(row).to_contain_text("open", timeout=LIMIT_MS)
    row.get_by_text("Revoke…").click()
    reason = page.get_by_label("Reason to revoke the claim of cam-1")
    reason.fill("card lost")
    with page.expect_response(web.url + "/claims"):
        web.ask("POST", "/v1/claims", {"device": "cam-2", "board": kit.BOARD})
    expect(reason).to_have_value("card lost")
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("by admin: card lost")
    expect(page.get_by_role("row").filter(has_text="cam-2")).to_contain_text("open")
    assert errors == []


def test_eight_tabs_share_one_stream(context: BrowserContext, page: Page, web: WebServer, errors: list[str]) -> None:
    """With a stream per tab the seventh tab of a browser would never load (six connections per server)."""
    is_live(page)
    for _ in range(7):
        tab = context.new_page()
        tab.goto(web.url + "/")
        is_live(tab)
    assert web.fleet.changes.subscribers == 1
    assert errors == []


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_overflows_sideways(page: Page, web: WebServer, width: int) -> None:
    for number in range(3):
        kit.enrol(web.fleet, f"a-device-with-quite-a-long-name-in-the-northern-hall-{number}")
    page.set_viewport_size({"width": width, "height": 900})
    for path in ("/", "/claims", "/devices/a-device-with-quite-a-long-name-in-the-northern-hall-1", "/login"):
        page.goto(web.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(
    page: Page, web: WebServer, web_founding: Founding, tmp_path: Path, scheme: str
) -> None:
    """WCAG AA: 4.5 to 1 for text of these sizes, computed from what the browser really paints."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for name, is_online in (("cam-1", True), ("cam-2", False)):
        kit.enrol(web.fleet, name)
        Voice(web.fleet, DeviceId(name)).health()
        Voice(web.fleet, DeviceId(name)).online(is_online)
    made = kit.release(web.fleet, web_founding, tmp_path)
    body = {"release_id": made.id, "policy": {"waves": [{"title": "all", "size": "100%"}]}}
    rollout = web.ask("POST", "/v1/rollouts", body).json["id"]
    web.ask("POST", f"/v1/rollouts/{rollout}/start", {"reason": "go"})
    web.fleet.rollouts.tick(web.fleet.clock())
    for path in ("/", "/claims", "/devices/cam-1", f"/rollouts/{rollout}"):
        page.goto(web.url + path)
        is_live(page)
        poor = page.evaluate(_CONTRAST)
        assert poor == [], path


_CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const ground = (element) => { for (let e = element; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255]; };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest(":disabled, .unseen, .skip")) continue;
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${walk.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
