"""The doctor's view: lights with their reasons, the verdict, quarantine, queues, workers."""

import sys

import pytest
from playwright.sync_api import expect

from browsing import HOSTILE, Visit
from running import Running
from serving import Served
from warmclip.inference.selection.quarantine import Quarantine


def test_all_is_well(visit: Visit, served: Served, worker: Running) -> None:
    """Every light is green, each tower tells its provider and why, and the worker is there."""
    page = visit(served, "#/doctor")
    expect(page.get_by_text("Everything works.")).to_be_visible()
    expect(page.locator(".light[data-state=ok]")).to_have_count(4)
    towers = page.locator(".towers li")
    expect(towers).to_have_count(2)
    expect(towers.first).to_contain_text("cpu")
    if sys.platform != "darwin":  # where tests insist on the CPU, and nothing is passed over
        expect(towers.first).to_contain_text("There is no other provider here")
        expect(page.locator(".sections")).to_contain_text("coreml-fp16")
    expect(page.locator(".sections")).to_contain_text(f"process {worker.process.pid}")
    page.get_by_role("button", name="Look again").click()
    expect(page.get_by_text("Everything works.")).to_be_visible()


def test_quarantine(visit: Visit, served: Served, worker: Running) -> None:
    """A provider that is passed over is told with its reason, letter by letter."""
    quarantine = Quarantine(worker.settings.home)
    quarantine.add("coreml-fp16", f"it computes {HOSTILE}")
    try:
        page = visit(served, "#/doctor")
        expect(page.locator(".failures .reason").first).to_contain_text(f"It computes {HOSTILE}")
        assert page.locator("img[src=x]").count() == 0
    finally:
        quarantine.clear()


def test_no_worker(visit: Visit, lonely: Served) -> None:
    """The light of the worker is red, with what to start; the others are told all the same."""
    page = visit(lonely, "#/doctor")
    expect(page.get_by_text("1 thing needs attention.")).to_be_visible()
    bad = page.locator(".light[data-state=bad]")
    expect(bad).to_have_count(1)
    expect(bad).to_contain_text("run warmclip worker")
    expect(page.get_by_text("None is listening")).to_be_visible()


@pytest.mark.usefixtures("worker")
def test_server_that_is_gone(visit: Visit, served: Served) -> None:
    """What the page cannot ask for, it says, and asks again."""
    page = visit(served, "#/doctor")
    expect(page.get_by_text("Everything works.")).to_be_visible()
    page.context.set_offline(True)
    page.get_by_role("button", name="Look again").click()
    expect(page.get_by_role("alert").first).to_contain_text("The server cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Everything works.")).to_be_visible()
