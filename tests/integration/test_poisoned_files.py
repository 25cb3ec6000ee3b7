"""Pictures that were set aside, in a real Redis, some of which somebody else has written."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from simulating import before_next_write
from standins.redis_server import restricted
from warmclip.inference.reading import digest_name
from warmclip.work import poisoned_files
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]

KEY = "rq:warmclip:dead"


def file_at(path: str | Path, second: int = 0, collection: str | None = "images") -> PoisonedFile:
    """One that was set aside at this second."""
    found = PoisonedFile.describe(str(path), "it kills", job="j", collection=collection)
    return replace(found, at=f"2026-11-30T12:00:{second:02}+00:00")


def sent(number: int, second: int = 0) -> PoisonedFile:
    """A picture that was sent, and lies in no file."""
    return file_at(digest_name(b"%d" % number), second, collection=None)


def test_set_aside_and_forgotten(connection: Redis, tmp_path: Path) -> None:
    """One record for a file, however it is written; the oldest first."""
    files = PoisonedFiles(connection)
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "a.png")
    later, sooner = file_at(tmp_path / "a.png", 9), file_at(tmp_path / "b.png", 1)
    assert files.add(later)
    assert files.add(sooner)
    assert files.add(replace(later, path=str(link)))
    assert files.count() == 2
    assert [file.path for file in files.all()] == [sooner.path, str(link)]
    files.remove([later.path, str(tmp_path / "none.png")])
    assert files.all() == [sooner]
    with connection.pipeline() as pipeline:
        files.remove([sooner.path], pipeline)
        assert files.count() == 1  # until that is done
        pipeline.execute()
    files.remove([])
    assert files.count() == 0


def test_known_ones_are_read_again_when_there_are_more(connection: Redis) -> None:
    """Who asks often gets the same tuple, and a new one as soon as there is something new."""
    ours, theirs = PoisonedFiles(connection), PoisonedFiles(connection)
    assert ours.known() == ()
    theirs.add(file_at("/a.png"))
    known = ours.known()
    assert known == (file_at("/a.png"),)
    assert ours.known() is known
    theirs.remove(["/a.png"])
    assert ours.known() == ()  # it has another chance at once
    theirs.add(file_at("/a.png"))
    assert ours.known() == known
    theirs.remove(["/a.png"])
    ours.add(file_at("/b.png"))
    assert ours.known() == (file_at("/b.png"),)  # as many, but others


def test_as_many_as_before_but_others(connection: Redis, tmp_path: Path) -> None:
    """A worker sees what another has changed: a picture that was requeued is not refused."""
    ours, theirs = PoisonedFiles(connection), PoisonedFiles(connection)
    picture = tmp_path / "a.png"
    picture.write_bytes(b"kills")
    theirs.add(file_at(picture))
    assert ours.known() == (file_at(picture),)
    picture.write_bytes(b"kills as well")
    theirs.add(file_at(picture, 1))
    assert ours.known() == (file_at(picture, 1),)  # it was changed, and killed again
    with connection.pipeline() as pipeline:
        theirs.remove([str(picture)], pipeline)
        pipeline.execute()
    theirs.add(file_at("/b.png"))
    assert ours.known() == (file_at("/b.png"),)
    connection.delete(KEY)  # by hand, or by a worker that tells nobody
    assert ours.known() == ()


def test_most_that_are_set_aside(connection: Redis) -> None:
    """10,000, whoever wrote them; one more is not: it could fill Redis."""
    connection.hset(KEY, mapping={f"of somebody else {number}": "x" for number in range(9_999)})
    files = PoisonedFiles(connection)
    assert [files.add(file_at(f"/{n}.png", n)) for n in range(2)] == [True, False]
    assert [file.path for file in files.all()] == ["/0.png"]


def test_most_that_were_sent_are_a_thousand(connection: Redis) -> None:
    """The next one makes room, a tenth at once."""
    for it in map(sent, range(999)):
        connection.hset(KEY, poisoned_files._field(it.path).decode(), json.dumps(it.to_dict()))
    files = PoisonedFiles(connection)
    files.add(sent(999))
    assert files.count() == 1_000
    files.add(sent(1_000))
    assert files.count() == 901


def test_change_and_its_version_are_one_step(
    connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed between them would have told nobody."""
    seen: list[list[PoisonedFile]] = []
    files, others = PoisonedFiles(connection), PoisonedFiles(connection)
    files.add(file_at("/a.png"))
    for change in (partial(files.add, file_at("/b.png")), partial(files.remove, ["/a.png"])):
        with before_next_write(monkeypatch, lambda: seen.append(others.all()), watched=False):
            change()
    assert [[it.path for it in each] for each in seen] == [["/a.png"], ["/a.png", "/b.png"]]


def test_most_that_were_sent(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those the oldest tenth goes; files stay, however old."""
    monkeypatch.setattr(poisoned_files, "_MOST_SENT", 20)
    files = PoisonedFiles(connection)
    files.add(file_at("/old.png"))
    for number in range(20):
        files.add(sent(number, number + 1))
    assert files.count() == 21
    files.add(file_at("/new.png", 50))
    assert files.count() == 22  # a file makes no room among them
    files.add(sent(20, 21))
    assert [file.path for file in files.all()] == [
        "/old.png",
        *(sent(number).path for number in range(2, 21)),
        "/new.png",
    ]


def test_key_of_another_kind(connection: Redis) -> None:
    """Nothing is set aside there, and nothing is known; a refusal is an error."""
    connection.set(KEY, "x")
    files = PoisonedFiles(connection)
    assert (files.add(file_at("/a.png")), files.count(), files.known()) == (False, 0, ())
    connection.delete(KEY)
    with restricted(connection, "@write") as reader, pytest.raises(NoPermissionError):
        PoisonedFiles(reader).add(file_at("/a.png"))


@pytest.mark.parametrize(
    "forged",
    [
        {"path": "a.png"},
        {"path": "/a\0.png"},
        {"path": "\ud800"},
        {"path": 7},
        {"reason": 7},
        {"at": "soon"},
        {"at": 7},
        {"collection": "../x"},
        {"path": digest_name(b"x"), "collection": "images"},
        {"more": 1},
    ],
    ids=str,
)
def test_record_of_somebody_else(connection: Redis, forged: dict[str, Any]) -> None:
    """It is passed by; those beside it are read."""
    good = [file_at("/b.png"), sent(1, 1)]
    for file in good:
        PoisonedFiles(connection).add(file)
    record = file_at("/a.png").to_dict()
    connection.hset(KEY, "forged", json.dumps(record | forged))
    connection.hset(KEY, "short", json.dumps({"path": "/a.png"}))
    assert PoisonedFiles(connection).all() == good
