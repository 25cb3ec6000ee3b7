"""A browser's page that is watched: for the tests of the page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playwright.sync_api import BrowserContext, ConsoleMessage, Page

TOKEN = "0123456789abcdef-a-token-of-the-tests"  # noqa: S105 - of the tests alone
HOSTILE = '<img src=x onerror="window.owned=1">'

Visit = Callable[..., Page]
"""Opens a view: a server, and where on it."""

PATIENCE_MS = 20_000
_NETWORK = "Failed to load resource"  # how Chromium tells of an answer that is no success


@contextmanager
def watched(context: BrowserContext, origin: str) -> Iterator[Page]:
    """A page that asks nobody but its server, and whose console stays silent."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    strangers: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and _NETWORK not in message.text:
            complaints.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            strangers.append(request.url) if not request.url.startswith((origin, "blob:")) else None
        ),
    )
    yield page
    assert complaints == []
    assert strangers == []
