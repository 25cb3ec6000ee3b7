"""A Chromium for the tests of the page: one that is there, else one that `make browser` installs.

As a command: 0 where one starts, or where none can be had and the tests of the page are skipped;
1 where none can be had in CI.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_APPLICATIONS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
_INSTALL_S = 900.0  # some 200 MB over a slow line

NONE_STARTS = (
    "no Chromium starts on this machine; install one (on Debian: apt-get install chromium)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to install a Chromium: commands, each of which needs the one before."""

    name: str
    commands: tuple[tuple[str, ...], ...]


def candidates(
    own: str,
    *,
    which: Callable[[str], str | None] = shutil.which,
    exists: Callable[[str], bool] = os.path.exists,
) -> list[str]:
    """The browsers of this machine, in the order in which to try them.

    One that is found need not start: Ubuntu's chromium-browser only asks for a snap.

    Args:
        own: where Playwright would have put its own, which is the last.
        which: finds a command.
        exists: tells whether a file exists.
    """
    return [*filter(None, map(which, _COMMANDS)), *filter(exists, (*_APPLICATIONS, own))]


def ways_to_install(python: str, *, is_root: bool, is_ci: bool, has_apt: bool) -> list[Way]:
    """The ways that are open to this user, in the order in which to try them.

    Args:
        python: an interpreter that has Playwright.
        is_root: packages of the system can be installed.
        is_ci: the machine is nobody's own, and sudo asks for no password.
        has_apt: the system is Debian or a descendant.
    """
    playwright = (python, "-m", "playwright")
    download = (*playwright, "install", "--no-shell", "chromium")
    libraries = (*playwright, "install-deps", "chromium")
    commands = (download, libraries) if is_root or is_ci else (download,)
    ways = [Way(name="Playwright", commands=commands)]
    if is_root and has_apt:
        install = ("apt-get", "install", "--yes", "--no-install-recommends", "chromium")
        ways.append(Way(name="apt-get", commands=(("apt-get", "update"), install)))
    return ways


def launch_options() -> list[str]:
    """What Chromium must be told; it does not sandbox its pages for root."""
    return ["--no-sandbox"] if os.geteuid() == 0 else []


def find_chromium() -> str | None:
    """The first browser that starts."""
    from playwright.sync_api import Error, sync_playwright

    # Beside Playwright itself: the home folder, where it looks otherwise, is another in a test.
    os.environ.setdefault("PLAYWRIGHT_BROWSERS_PATH", "0")
    with sync_playwright() as playwright:
        for path in candidates(playwright.chromium.executable_path):
            try:
                playwright.chromium.launch(executable_path=path, args=launch_options()).close()
            except Error:
                continue
            return path
    return None


def main() -> int:
    """See to it that a Chromium starts."""
    found = find_chromium()
    is_ci = bool(os.environ.get("CI"))
    ways = ways_to_install(
        sys.executable,
        is_root=os.geteuid() == 0,
        is_ci=is_ci,
        has_apt=shutil.which("apt-get") is not None,
    )
    while found is None and ways:
        way = ways.pop(0)
        _say(f"installing a Chromium for the tests of the page, by {way.name}")
        if reason := _failure(way):
            _say(f"{way.name} installed none: {reason}")
        else:
            found = find_chromium()
    if found is not None:
        _say(f"the tests of the page run in {found}")
        return 0
    _say(NONE_STARTS if is_ci else f"{NONE_STARTS}; until then the tests of the page are skipped")
    return int(is_ci)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _failure(way: Way) -> str | None:
    """Run its commands; returns what the one that failed said."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in way.commands:
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_INSTALL_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            return f"{' '.join(command)}: {exc}"
        if done.returncode != 0:
            said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            errors = [line for line in said if line.startswith(("Error: ", "E: "))]
            reason = [*errors, *said[-1:], f"it left with {done.returncode}"][0]
            return f"{' '.join(command)}: {reason}"
    return None


if __name__ == "__main__":
    sys.exit(main())
