"""Which Chromium the tests of the page take, and how one is installed."""

import pytest

from chromium import candidates, ways_to_install

CHROME_APP = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
CHROMIUM_APP = "/Applications/Chromium.app/Contents/MacOS/Chromium"
OWN = "/venv/playwright/chrome"


@pytest.mark.parametrize(
    ("commands", "files", "expected"),
    [
        ((), (), []),
        ((), (OWN,), [OWN]),
        (("chromium",), (OWN,), ["/usr/bin/chromium", OWN]),
        (
            ("google-chrome", "chromium-browser"),
            (),
            ["/usr/bin/chromium-browser", "/usr/bin/google-chrome"],
        ),
        ((), (CHROME_APP, CHROMIUM_APP, OWN), [CHROMIUM_APP, CHROME_APP, OWN]),
        (("firefox",), ("/Applications/Safari.app",), []),
    ],
)
def test_browsers_of_a_machine(
    commands: tuple[str, ...], files: tuple[str, ...], expected: list[str]
) -> None:
    """The system's come first, Playwright's own last; what is no Chromium is not tried."""
    found = candidates(
        OWN,
        which=lambda name: f"/usr/bin/{name}" if name in commands else None,
        exists=lambda path: path in files,
    )
    assert found == expected


@pytest.mark.parametrize(
    ("is_root", "is_ci", "has_apt", "expected"),
    [
        (False, False, False, [("Playwright", ["install"])]),
        (False, False, True, [("Playwright", ["install"])]),
        (False, True, True, [("Playwright", ["install", "install-deps"])]),
        (True, False, False, [("Playwright", ["install", "install-deps"])]),
        (
            True,
            False,
            True,
            [("Playwright", ["install", "install-deps"]), ("apt-get", ["update", "install"])],
        ),
        (
            True,
            True,
            True,
            [("Playwright", ["install", "install-deps"]), ("apt-get", ["update", "install"])],
        ),
    ],
)
def test_ways_to_install(
    is_root: bool, is_ci: bool, has_apt: bool, expected: list[tuple[str, list[str]]]
) -> None:
    """Playwright's installer first; packages of the system for root, and where sudo asks nobody.

    A person's machine is asked for no password, and its package manager is left alone.
    """
    ways = ways_to_install("python", is_root=is_root, is_ci=is_ci, has_apt=has_apt)
    verbs = ("install", "install-deps", "update")
    told = [(way.name, [word for c in way.commands for word in c if word in verbs]) for way in ways]
    assert told == expected
    assert all(way.commands[-1][-1] == "chromium" for way in ways)
