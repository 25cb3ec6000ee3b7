"""How a stored picture's file is sent, once a worker has told where it is."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.types import Message

from warmclip.indexing.roots import Roots
from warmclip.serve.context import AppContext
from warmclip.serve.originals import make_router
from warmclip.serve.problems import add_problem_handlers
from warmclip.settings import Limits, Root, Settings

URL = "/api/v1/points/00000000-0000-4000-8000-000000000000/original"
LARGE = os.urandom(1_000_000)


def ask(root: Path, path: str, meanwhile: Callable[[], object] = lambda: None) -> list[Message]:
    """What the server sends; something happens before its second message."""
    settings = Settings(home=root / "home", bundle=root, limits=Limits(image_bytes=len(LARGE)))
    roots = Roots([Root(name="p", folder=root / "in")])

    async def call(*_: Any, **__: Any) -> dict[str, str]:
        return {"path": path}

    app = FastAPI()
    add_problem_handlers(app, settings)
    context = SimpleNamespace(settings=settings, roots=roots, workers=SimpleNamespace(call=call))
    app.include_router(make_router(cast("AppContext", context)))
    sent: list[Message] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": URL,
        "query_string": b"",
        "headers": [],
        "asgi": {"spec_version": "2.3"},
    }

    async def receive() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if len(sent) == 1:
            meanwhile()
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def headers_of(sent: list[Message]) -> dict[bytes, bytes]:
    """The response's, by name."""
    return dict(sent[0]["headers"])


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder inside the roots."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("data", [LARGE, b"small", b""], ids=len)
def test_file_is_sent_in_pieces(inside: Path, data: bytes) -> None:
    """Byte by byte, and never whole in memory: its client may read slowly, and others too."""
    (inside / "a.jpg").write_bytes(data)
    start, *pieces = sent = ask(inside.parent, str(inside / "a.jpg"))
    assert start["status"] == 200
    assert headers_of(sent)[b"content-length"] == str(len(data)).encode()
    assert b"".join(piece["body"] for piece in pieces) == data
    assert max(len(piece["body"]) for piece in pieces) <= 128 * 1024
    assert not pieces[-1].get("more_body")


def test_file_that_becomes_shorter(inside: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The response has no end, so that nobody takes it for whole; the log says why."""
    path = inside / "a.jpg"
    path.write_bytes(LARGE)
    sent = ask(inside.parent, str(path), lambda: os.truncate(path, 200_000))
    assert sent[0]["status"] == 200
    assert sum(len(each.get("body", b"")) for each in sent) == 200_000
    assert sent[-1]["more_body"]
    assert f"{path} became shorter" in caplog.text


def test_file_that_grows(inside: Path) -> None:
    """What it had when it was opened is sent."""
    path = inside / "a.jpg"
    path.write_bytes(LARGE)
    sent = ask(inside.parent, str(path), lambda: path.write_bytes(LARGE + b"more"))
    assert b"".join(each.get("body", b"") for each in sent) == LARGE
    assert not sent[-1].get("more_body")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jpg", "image/jpeg"),
        ("a.svg", "application/octet-stream"),  # which may have scripts
        ("a.html", "application/octet-stream"),
        ("a", "application/octet-stream"),
        pytest.param(
            os.fsdecode(b"caf\xe9.png"),
            "image/png",
            marks=pytest.mark.skipif(sys.platform == "darwin", reason="APFS takes no such name"),
        ),
    ],
    ids=ascii,
)
def test_name(inside: Path, name: str, kind: str) -> None:
    """A browser saves every file under its name, and takes none for a page."""
    (inside / name).write_bytes(b"data")
    sent = ask(inside.parent, str(inside / name))
    headers = headers_of(sent)
    assert headers[b"content-type"] == kind.encode()
    quoted = name if name.isascii() else "caf%E9.png"
    assert headers[b"content-disposition"] == f"attachment; filename*=UTF-8''{quoted}".encode()


def test_what_is_not_there(inside: Path) -> None:
    """It is 404: gone, a link out of the roots by now, no file, or larger than the limit."""
    (inside.parent / "secret").write_bytes(b"secret")
    (inside / "link").symlink_to(inside.parent / "secret")
    (inside / "folder").mkdir()
    (inside / "large").write_bytes(LARGE + b"more")
    for name in ("gone", "gone/a.jpg", "large/a.jpg", "a\0b", "link", "folder", "large"):
        sent = ask(inside.parent, str(inside / name))
        assert sent[0]["status"] == 404, name
        assert b"secret" not in sent[1]["body"]


def test_what_cannot_be_read_now(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 503, as it is there: no permission, or a disk that fails."""
    path = inside / "a.jpg"
    path.write_bytes(b"data")

    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")  # which root always has

    monkeypatch.setattr("warmclip.serve.originals.open_file", _translated(refuse))
    sent = ask(inside.parent, str(path))
    assert sent[0]["status"] == 503
    assert b"Permission denied; this server reads it itself" in sent[1]["body"]


def _translated(call: Callable[..., int]) -> Callable[..., int]:
    from warmclip.inference.reading import not_opened

    def opened(*args: Any) -> int:
        try:
            return call(*args)
        except OSError as exc:
            raise not_opened(exc) from exc

    return opened
