"""axe finds nothing to complain about, in light and dark, on a desk and on a phone."""

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from browsing import TOKEN, Visit
from serving import Served

# A view, and what is there once it is complete.
VIEWS = {
    "empty": ("#/search", ".state"),
    "search": ("#/search?q=red+star", ".tile img[data-state=there]"),
    "sessions": ("#/sessions", ".session .figures strong"),
    "doctor": ("#/doctor", ".towers"),
}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")

pytestmark = pytest.mark.usefixtures("worker")


def check(page: Page) -> None:
    """No violation in either scheme, and nothing that has to be scrolled sideways."""
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = Axe().run(page)
        assert found.violations_count == 0, f"{scheme}: {found.generate_report()}"
    wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wider)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("view", VIEWS)
def test_view(visit: Visit, served: Served, view: str, width: int) -> None:
    """A view with everything in it."""
    where, there = VIEWS[view]
    page = visit(served, where, width=width)
    expect(page.locator(there).first).to_be_visible()
    check(page)


@pytest.mark.parametrize("width", [1280, 390])
def test_picture(visit: Visit, served: Served, width: int) -> None:
    """The picture in its dialog."""
    page = visit(served, "#/search?q=red+star", width=width)
    page.locator(".card .open").first.click()
    expect(page.get_by_role("dialog").locator("img[data-state=there]")).to_be_visible()
    check(page)


@pytest.mark.parametrize("width", [1280, 390])
def test_token(visit: Visit, guarded: Served, width: int) -> None:
    """The question for a token, with the answer to a wrong one."""
    page = visit(guarded, width=width)
    page.get_by_label("Token").fill(TOKEN[1:])
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    check(page)


@pytest.mark.parametrize("width", [1280, 390])
def test_what_is_wrong(visit: Visit, lonely: Served, width: int) -> None:
    """Errors, and a light that is red."""
    page = visit(lonely, "#/search?q=red", width=width)
    expect(page.get_by_role("alert")).to_be_visible()
    check(page)
    page.get_by_role("link", name="Doctor").click()
    expect(page.locator(".light[data-state=bad]")).to_be_visible()
    check(page)
