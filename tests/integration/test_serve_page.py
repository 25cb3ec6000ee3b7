"""The page's files as the server gives them out: to whom, with which headers, and no others."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import warmclip.serve
from running import environment_of
from serving import SESSIONS, Served, running_server

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]

TOKEN = "0123456789abcdef-a-token-of-the-tests"  # noqa: S105 - of the tests alone
FOLDER = Path(warmclip.serve.__file__).with_name("page")
PATHS = ["/", *(f"/page/{it.name}" for it in FOLDER.iterdir() if it.name != "index.html")]
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", "": "text/html"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> Iterator[Served]:
    """A server with a token."""
    home = tmp_path_factory.mktemp("page") / "home"
    with running_server(environment_of(home, demo_bundle, WARMCLIP_TOKEN=TOKEN)) as served:
        yield served


def ask(served: Served, target: str, *headers: str) -> bytes:
    """What answers a request line exactly as it is written."""
    url = served.client.base_url
    lines = [f"GET {target} HTTP/1.1", f"Host: {url.host}:{url.port}", "Connection: close"]
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, *headers, "", ""]).encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize("path", PATHS)
def test_file(guarded: Served, path: str) -> None:
    """It needs no token, is of its type, and no other page may frame it or add to it."""
    answer = guarded.client.get(path)
    assert answer.status_code == 200
    name = path.removeprefix("/page").removeprefix("/")
    assert answer.content == (FOLDER / (name or "index.html")).read_bytes()
    assert answer.headers["content-type"].startswith(TYPES[Path(path).suffix])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    policy = answer.headers["content-security-policy"]
    for rule in ("default-src 'none'", "script-src 'self';", "frame-ancestors 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    again = guarded.client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = guarded.client.head(path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "target",
    [
        "/page/../server.py", "/page/%2e%2e/server.py", "/page/..%2fserver.py", "/page//app.js",
        "//page/app.js", "/page/app.js/", "/page/app.js/../../../../etc/passwd", "/page/", "/page",
        "/page/index.html", "/page/%00", "/page/app.js%00", "/page/./app.js", "/PAGE/app.js",
        "/page/../api/v1/training/sessions", "/%2e%2e/", "/?/api/v1/training/sessions/..",
        "/page/app.js;/api", "/page\\app.js", "/page/app.js%0a", "/page/../../page/app.js",
    ],
)  # fmt: skip
def test_path_that_is_no_file(guarded: Served, target: str) -> None:
    """What is not exactly a file's path wants the token like everything else, or is the page."""
    status, _, rest = ask(guarded, target).partition(b"\r\n")
    if target.startswith("/?"):
        assert b" 200 " in status
        assert b"<title>warmclip</title>" in rest
        return
    assert b" 401 " in status or b" 400 " in status
    shown = ask(guarded, target, f"Authorization: Bearer {TOKEN}").partition(b"\r\n")[0]
    assert b" 404 " in shown or b" 400 " in shown


def test_only_reading_needs_no_token(guarded: Served) -> None:
    """A write at a file's path is refused for want of a token, and with it for its method."""
    for path in ("/", "/page/app.js"):
        assert guarded.client.post(path).status_code == 401
        answer = guarded.client.post(path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_foreign_host(guarded: Served) -> None:
    """A name that was rebound to this address gets not even the page."""
    for path in PATHS:
        assert guarded.client.get(path, headers={"Host": "evil.example"}).status_code == 421


def test_data_is_for_no_page(guarded: Served) -> None:
    """Answers that are no page, refusals as well, may be framed and sniffed by none."""
    for answer in (
        guarded.client.get(SESSIONS),
        guarded.client.get(SESSIONS, headers={"Authorization": f"Bearer {TOKEN}"}),
        guarded.client.get("/", headers={"Host": "evil.example"}),
    ):
        assert answer.headers["content-security-policy"] == (
            "default-src 'none'; frame-ancestors 'none'"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_nothing_from_elsewhere(guarded: Served) -> None:
    """No file names another site, every file that one names is there, and nothing is inline."""
    for path in PATHS:
        text = guarded.client.get(path).text
        elsewhere = set(re.findall(r"https?://[^\s\"'`]+", text))
        assert elsewhere <= {"http://www.w3.org/2000/svg"}, path
        for named in re.findall(r"[\"'](/page/[^\"']+)[\"']", text):
            assert named in PATHS, path
    document = guarded.client.get("/").text
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)|javascript:", document)


def test_markup_is_never_made_of_text() -> None:
    """No script of ours uses what turns a text into HTML."""
    for file in FOLDER.glob("*.js"):
        found = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|setHTML",
            file.read_text(encoding="utf-8"),
        )
        assert found is None, file.name


def test_without_token(tmp_path: Path, demo_bundle: Path) -> None:
    """A server without a token shows the page as well, and describes none of it as its API."""
    with running_server(environment_of(tmp_path / "home", demo_bundle)) as served:
        assert served.client.get("/").status_code == 200
        described = served.get("/openapi.json")["paths"]
        assert not set(PATHS) & set(described)
