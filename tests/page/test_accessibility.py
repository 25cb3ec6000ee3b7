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
WIDTHS = (1280, 390)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")

pytestmark = pytest.mark.usefixtures("worker")


def check(page: Page) -> None:
    """No violation on a desk or a phone, in either scheme, and nothing to scroll sideways."""
    wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 844})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found = Axe().run(page)
            assert found.violations_count == 0, f"{width}, {scheme}: {found.generate_report()}"
        assert not page.evaluate(wider), width


@pytest.mark.parametrize("view", VIEWS)
def test_view(visit: Visit, served: Served, view: str) -> None:
    """A view with everything in it."""
    where, there = VIEWS[view]
    page = visit(served, where)
    expect(page.locator(there).first).to_be_visible()
    check(page)


def test_picture(visit: Visit, served: Served) -> None:
    """The picture in its dialog."""
    page = visit(served, "#/search?q=red+star")
    page.locator(".card .open").first.click()
    expect(page.get_by_role("dialog").locator("img[data-state=there]")).to_be_visible()
    check(page)


def test_token(visit: Visit, guarded: Served) -> None:
    """The question for a token, with the answer to a wrong one."""
    page = visit(guarded)
    page.get_by_label("Token").fill(TOKEN[1:])
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    check(page)


def test_what_is_wrong(visit: Visit, lonely: Served) -> None:
    """Errors, and a light that is red."""
    page = visit(lonely, "#/search?q=red")
    expect(page.get_by_role("alert")).to_be_visible()
    check(page)
    page.get_by_role("link", name="Doctor").click()
    expect(page.locator(".light[data-state=bad]")).to_be_visible()
    check(page)
