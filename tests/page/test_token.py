"""A server that wants a token: asked for, tried, kept for the tab, shown with every request."""

import pytest
from playwright.sync_api import expect

from browsing import TOKEN, Visit
from serving import Served

pytestmark = pytest.mark.usefixtures("worker")


def test_token(visit: Visit, guarded: Served) -> None:
    """A wrong one is refused; with the right one all works, pictures and live events as well."""
    page = visit(guarded, "#/search?q=red+star")
    field = page.get_by_label("Token")
    expect(field).to_be_focused()
    field.fill("no token")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("without spaces")
    field.fill("not-the-token-of-it")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("That is not the server's token.")
    field.fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator(".tile img[data-state=there]").first).to_be_visible()
    page.get_by_role("link", name="Sessions").click()
    expect(page.locator(".live")).to_have_text("Live")
    page.get_by_role("link", name="Doctor").click()
    expect(page.get_by_text("Everything works.")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Everything works.")).to_be_visible()
    kept = "() => [localStorage.length, document.cookie, location.href, sessionStorage.length]"
    assert page.evaluate(kept) == [0, "", page.url, 1]
    assert TOKEN not in page.url
    page.get_by_role("button", name="Forget token").click()
    expect(page.get_by_label("Token")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0


def test_other_tab(visit: Visit, guarded: Served) -> None:
    """The token is the tab's own: another one is asked again."""
    page = visit(guarded)
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Find a picture")).to_be_visible()
    other = page.context.new_page()
    other.goto(f"{page.url.partition('#')[0]}#/sessions")
    expect(other.get_by_label("Token")).to_be_visible()
