"""A real server with a worker and pictures, and a real browser before it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from browsing import HOSTILE, PATIENCE_MS, TOKEN, Visit, watched
from chromium import NONE_STARTS, find_chromium, launch_options
from running import Running, environment_of, running_worker
from serving import Served, running_server
from warmclip.settings import Settings
from warmclip_export.drawing import write_gallery


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser that starts; without one the tests that need it are skipped, but never in CI."""
    if found := find_chromium():
        return found
    if os.environ.get("CI"):
        pytest.fail(NONE_STARTS)
    pytest.skip(NONE_STARTS)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """It ends with the module: while Playwright runs, its thread can run no other event loop."""
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MS)
        with playwright.chromium.launch(executable_path=chromium, args=launch_options()) as browser:
            yield browser


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes, half of them one folder deeper; one with a hostile name; one that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    drawn = write_gallery(folder, 60, 4)
    (folder / "below").mkdir()
    for path in drawn[30:]:
        path.rename(folder / "below" / path.name)
    shutil.copy(drawn[0], folder / f"{HOSTILE}.png")
    (folder / f"broken {HOSTILE}.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="session")
def environment(
    tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path, pictures: Path
) -> dict[str, str]:
    """What servers and the worker are told."""
    home = tmp_path_factory.mktemp("page") / "home"
    return environment_of(home, demo_bundle, WARMCLIP_ROOTS=str(pictures))


@pytest.fixture(scope="session")
def served(
    environment: dict[str, str],
    server_binary: None,  # noqa: ARG001 - needed
    chromium: str,  # noqa: ARG001 - no server is started for tests that have no browser
) -> Iterator[Served]:
    """A server without a token."""
    with running_server(environment) as served:
        yield served


@pytest.fixture(scope="session")
def worker(served: Served, environment: dict[str, str], pictures: Path) -> Iterator[Running]:
    """Its worker, once all pictures are in."""
    session = served.begin(pictures)
    with running_worker(Settings.from_env(environment), environment) as worker:
        served.wait(session)
        yield worker


@pytest.fixture(scope="session")
def guarded(environment: dict[str, str], worker: Running) -> Iterator[Served]:  # noqa: ARG001 - needed
    """A server with a token, beside the other: of the same Redis, and asking the same worker."""
    with running_server(environment | {"WARMCLIP_TOKEN": TOKEN}) as served:
        yield served


@pytest.fixture(scope="module")
def lonely_environment(
    tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path
) -> dict[str, str]:
    """What a server without any worker is told."""
    folder = tmp_path_factory.mktemp("lonely")
    (folder / "root").mkdir()
    return environment_of(folder / "home", demo_bundle, WARMCLIP_ROOTS=str(folder / "root"))


@pytest.fixture(scope="module")
def lonely(
    lonely_environment: dict[str, str],
    server_binary: None,  # noqa: ARG001 - needed
) -> Iterator[Served]:
    """That server, with nothing in it."""
    with running_server(lonely_environment) as served:
        yield served


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens a view of a server, in a browser that nobody has used before."""
    with ExitStack() as stack:

        def open_view(served: Served, view: str = "") -> Page:
            origin = str(served.client.base_url).rstrip("/")
            context = stack.enter_context(
                browser.new_context(
                    viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
                )
            )
            page = stack.enter_context(watched(context, origin))
            page.goto(f"{origin}/{view}")
            return page

        yield open_view
