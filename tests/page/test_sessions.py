"""Training sessions on the page: begun, followed live, paused, given up, tried again."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from browsing import HOSTILE, Visit
from running import Running
from serving import SESSIONS, Served, draw
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.sessions.commands import SessionCommands
from warmclip.work.sessions.store import session_key


@pytest.mark.usefixtures("worker")
def test_begin(visit: Visit, served: Served, pictures: Path) -> None:
    """A folder that is named becomes a session, and its end is seen without asking again."""
    page = visit(served, "#/sessions")
    expect(page.locator(".live")).to_have_text("Live")
    folder = draw(pictures / "fresh", 40)[0].parent
    for name in ("a.mov", "b.MOV", f"c.{HOSTILE}"):
        (folder / name).write_bytes(b"no picture")
    page.get_by_label("Folder on the server").fill(str(folder))
    page.get_by_label("Collection").fill("page")
    page.keyboard.press("Enter")
    session = page.locator(".session", has=page.get_by_role("heading", name=str(folder)))
    expect(session.get_by_role("heading")).to_be_focused()
    expect(session.locator(".badge")).to_have_text("Finished")
    expect(session.locator(".figures")).to_contain_text("40 pictures 40 indexed")
    expect(session.locator(".figures")).to_contain_text("2 .mov, 1 without suffix ignored")
    expect(session.get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize(
    ("folder", "told"), [("/etc", "outside"), ("{root}/none", "no folder"), ("a", "absolute")]
)
@pytest.mark.usefixtures("worker")
def test_folder_that_is_refused(
    visit: Visit, served: Served, pictures: Path, folder: str, told: str
) -> None:
    """The server's reason stands at the form, and what was typed is kept."""
    page = visit(served, "#/sessions")
    field = page.get_by_label("Folder on the server")
    field.fill(folder.format(root=pictures))
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#start-error")).to_contain_text(told)
    expect(field).to_be_focused()
    expect(field).to_have_value(folder.format(root=pictures))


def test_turns(visit: Visit, lonely: Served, lonely_environment: dict[str, str]) -> None:
    """Pause, resume and cancel do what they say; cancelling is asked about first."""
    page = visit(lonely, "#/sessions")
    expect(page.locator(".state")).to_contain_text("No session yet")
    root = Path(lonely_environment["WARMCLIP_ROOTS"])
    draw(root, 3)
    page.get_by_label("Folder on the server").fill(str(root))
    page.get_by_role("button", name="Start").click()
    session = page.locator(".session")
    badge = session.locator(".badge")
    expect(badge).to_have_text("Running")
    expect(session.locator(".figures")).to_contain_text("0 of 3 pictures")
    session.get_by_role("button", name="Pause").click()
    expect(badge).to_have_text("Paused")
    expect(session.get_by_role("button", name="Resume")).to_be_focused()
    page.keyboard.press("Enter")
    expect(badge).to_have_text("Running")
    session.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it").click()
    expect(badge).to_have_text("Running")
    session.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel it").click()
    expect(badge).to_have_text("Cancelled")
    expect(session.get_by_role("button")).to_have_count(0)


def test_live(visit: Visit, lonely: Served, lonely_environment: dict[str, str]) -> None:
    """What others do is seen: a session that is begun and paused elsewhere."""
    page = visit(lonely, "#/sessions")
    expect(page.locator(".live")).to_have_text("Live")
    root = Path(lonely_environment["WARMCLIP_ROOTS"])
    draw(root, 3)
    where = lonely.begin(root, collection="elsewhere")
    session = page.locator(f".session[data-id='{where.rpartition('/')[2]}']")
    expect(session.locator(".badge")).to_have_text("Running")
    lonely.client.post(f"{where}/pause")
    expect(session.locator(".badge")).to_have_text("Paused")
    lonely.client.post(f"{where}/cancel")
    expect(session.locator(".badge")).to_have_text("Cancelled")


def test_stream_that_fails(visit: Visit, lonely: Served) -> None:
    """It is told that nothing is live, and the stream is opened again until it is."""
    page = visit(lonely)
    page.route("**/events", lambda route: route.abort())
    page.get_by_role("link", name="Sessions").click()
    expect(page.locator(".live")).to_have_text("Not live: trying again…")
    expect(page.get_by_role("alert").first).to_contain_text("The server cannot be reached")
    page.unroute("**/events")
    expect(page.locator(".live")).to_have_text("Live")


def test_failures(visit: Visit, served: Served, worker: Running, pictures: Path) -> None:
    """Each skipped picture is told with its reason, page by page, and never as HTML."""
    folder = pictures / "torn"
    folder.mkdir()
    for number in range(45):
        (folder / f"{number:02} {HOSTILE}.png").write_bytes(b"no picture")
    where = served.begin(folder, collection="page")
    served.wait(where)
    id_ = where.rpartition("/")[2]
    # No reason of ours quotes what is hostile, and no folder is closed to root.
    told = json.dumps(["/pictures/closed", f"permission denied {HOSTILE}"])
    worker.connection.rpush(session_key(id_, "folders"), told)
    worker.connection.hset(session_key(id_), "unreadable_folders", 1)
    page = visit(served, "#/sessions")
    row = page.locator(f".session[data-id='{id_}']")
    row.get_by_text("45 pictures skipped, 1 folder could not be searched").click()
    reasons = row.locator(".failures .reason")
    expect(reasons).to_have_count(21)
    expect(reasons.first).to_have_text(f"Permission denied {HOSTILE}")
    expect(reasons.nth(1)).to_contain_text("Is no picture")
    expect(row.locator(".failures .path").nth(1)).to_contain_text(f"{HOSTILE}.png")
    for _ in range(2):
        row.get_by_role("button", name="Show more").click()
    expect(reasons).to_have_count(46)
    expect(row.get_by_role("button", name="Show more")).to_have_count(0)
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.owned") is None


@pytest.mark.usefixtures("worker")
def test_retry(visit: Visit, served: Served, pictures: Path) -> None:
    """A skipped picture that was mended is indexed when it is tried again."""
    folder = pictures / "mended"
    folder.mkdir()
    broken = folder / "broken.png"
    broken.write_bytes(b"no picture")
    session = served.begin(folder, collection="page")
    served.wait(session)
    page = visit(served, "#/sessions")
    row = page.locator(f".session[data-id='{session.rpartition('/')[2]}']")
    expect(row.locator(".figures")).to_contain_text("1 skipped")
    (good,) = draw(pictures / "spare", 1, start=900)
    good.replace(broken)
    row.get_by_role("button", name="Try skipped again").click()
    expect(row.locator(".figures")).to_contain_text("1 indexed")
    expect(row.locator(".badge")).to_have_text("Finished")


def test_older_sessions(visit: Visit, lonely: Served, lonely_environment: dict[str, str]) -> None:
    """The stream tells of the fifty youngest; the others are shown when they are asked for."""
    with open_broker(Settings.from_env(lonely_environment)) as connection:
        commands = SessionCommands(connection)
        for number in range(52 - lonely.get(SESSIONS)["total"]):
            session, _ = commands.start(lonely_environment["WARMCLIP_ROOTS"], f"c{number}")
            commands.cancel(session.id)
    page = visit(lonely, "#/sessions")
    expect(page.locator(".session")).to_have_count(50)
    page.get_by_role("button", name="Show older sessions (2)").click()
    expect(page.locator(".session")).to_have_count(52)


PIECES = """async () => {
  const { EventParser } = await import("/page/events.js");
  const stream = 'retry: 5\\n\\nevent: a\\ndata: {"x":\\ndata: 1}\\r\\n\\r\\n: beat\\n\\n' +
    "data:é\\r\\rid: 7\\ndata\\n\\n";
  const found = [];
  for (let size = 1; size <= stream.length; size++) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < stream.length; at += size) {
      events.push(...parser.push(stream.slice(at, at + size)));
    }
    found.push(JSON.stringify(events));
  }
  return [...new Set(found)];
}"""


def test_events_in_pieces(visit: Visit, lonely: Served) -> None:
    """Wherever the network cuts a stream, the same events come out of it."""
    (found,) = visit(lonely).evaluate(PIECES)
    assert found == (
        '[{"name":"a","data":"{\\"x\\":\\n1}"},{"name":"message","data":"é"},'
        '{"name":"message","data":""}]'
    )
