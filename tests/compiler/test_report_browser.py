"""The report in a real browser without a network: everything is shown, nothing is asked for, light and dark can be read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from model_compiler.report import page as pages
from tests.compiler import records

CHROMIUM = shutil.which("chromium")
READABLE = 4.5
"""Contrast of text that WCAG 2 asks for (AA)."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed here")

CONTRASTS = """() => {
  const parse = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = rgb => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = parse(getComputedStyle(document.querySelector('section')).backgroundColor);
  return [...document.querySelectorAll('p, td, th, h1, h2, h3, summary, svg text')].map(each => {
    const style = getComputedStyle(each);
    const [a, b] = [light(parse(each.closest('svg') ? style.fill : style.color)), light(ground)].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


def opened(browser: Browser, path: Path, scheme: str, width: int, said: list[str]) -> Page:
    path.write_text(pages.render(records.full()))
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_and_asks_for_nothing(browser: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    said: list[str] = []
    page = opened(browser, tmp_path / "report.html", scheme, width, said)
    assert said == []
    assert min(page.evaluate(CONTRASTS)) >= READABLE
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator("circle.packaged").count() == 2
    page.context.close()
