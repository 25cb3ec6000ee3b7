"""Queries on the command line, and what a person or a program sees of their answers."""

import base64
import io
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from standins.points import hit
from warmclip.cli import presence, queries
from warmclip.cli.commands.search import as_arguments, show_hits
from warmclip.cli.console import Terminal
from warmclip.errors import SettingsError
from warmclip.indexing.query import Query, Term
from warmclip.settings import Limits
from warmclip.work.call import MOST_SENT_BYTES


def read(words: list[str], images: list[str]) -> Query:
    """The one query of a command line."""
    (query,) = queries.read_queries(words, images, Limits(), each=False)
    return query


@pytest.mark.parametrize(
    ("words", "images", "told"),
    [
        ([], ["none.png"], "--image none.png: there is no such file"),
        ([], ["~nobody.here/a.png"], "--image ~nobody.here/a.png: there is no such home folder"),
        (
            ["a", "-", "none.png"],
            [],
            "none.png: there is no such file; to look for it as words, add another word",
        ),
    ],
)
def test_picture_that_is_not_there(words: list[str], images: list[str], told: str) -> None:
    """Only who typed it among words may have meant words."""
    with pytest.raises(SettingsError) as raised:
        read(words, images)
    assert str(raised.value) == told


@pytest.mark.parametrize(("words", "images"), [([], ["a.png"]), (["./a.png"], [])])
def test_picture_on_a_disk_that_does_not_answer(
    words: list[str], images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network disk whose server is away: its time is that of any read."""
    answered = threading.Event()
    of_the_system = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if os.fspath(path).endswith("a.png"):
            answered.wait()
        return of_the_system(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    try:
        with pytest.raises(SettingsError, match=r"a\.png: did not arrive.*WARMCLIP_READ_SECONDS"):
            queries.read_queries(words, images, Limits(read_s=1), each=False)
    finally:
        answered.set()


def test_name_that_no_file_can_have() -> None:
    """It is refused as others are; what the system says of it depends on Python's version."""
    with pytest.raises(SettingsError, match=r"a\.png: .*; to look for it as words, add"):
        read(["a" * 300 + ".png"], [])


def test_file_whose_name_is_a_minus_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``./-`` is that file; only ``-`` is standard input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_bytes(b"a file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"standard input")))
    path, data = (term for image in ("./-", "-") for term in read([], [image]).terms)
    assert path == Term(image=str(tmp_path / "-"))
    assert data == Term(data=base64.b64encode(b"standard input").decode())


def test_largest_picture_that_a_job_carries() -> None:
    """One byte more is refused, although it is as long in base64."""
    fits, too_large = (
        Query(terms=(Term(data=base64.b64encode(bytes(size)).decode()),))
        for size in (MOST_SENT_BYTES, MOST_SENT_BYTES + 1)
    )
    assert as_arguments(fits) == {"data": fits.terms[0].data}
    with pytest.raises(SettingsError, match="a picture has at most"):
        as_arguments(too_large)


def test_presence_on_a_disk_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once; what was not looked at is neither there nor gone, and null in JSON."""
    here, gone, late, next_one = (str(tmp_path / name) for name in ("here", "gone", "late", "next"))
    Path(here).touch()
    Path(next_one).touch()
    monkeypatch.setattr(presence, "_LOOK_S", 60.0)
    looked = presence.Presence(Limits())
    assert [looked.is_there(path) for path in (here, gone)] == [True, False]
    answers = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(presence, "_LOOK_S", 0.01)
        patch.setattr(presence, "is_file_gone", lambda _: answers.wait())
        assert looked.is_there(late) is None
    answers.set()
    assert [looked.is_there(path) for path in (here, gone, late, next_one)] == [
        *(True, False),
        *(None, None),
    ]
    hits = [hit(path) for path in (here, gone, late, next_one)]
    assert looked.keep_existing(hits, 2) == [hits[0], hits[2]]


def test_whether_files_exist_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not known is null."""
    there = {"here": True, "gone": False, "unknown": None}
    query = Query(terms=(Term(text="a"),))
    show_hits(Terminal(as_json=True), [query], [[hit(path) for path in there]], there.__getitem__)
    (shown,) = json.loads(capsys.readouterr().out)["queries"]
    assert {hit["path"]: hit["exists"] for hit in shown["hits"]} == there


def test_heading_of_a_long_text(capsys: pytest.CaptureFixture[str]) -> None:
    """It does not fill the terminal; paths, and texts as people type them, are whole."""
    whole = "like " + "a folder/" * 15
    for text, heading in ((whole, whole), ("star " * 1_000, ("star " * 1_000)[:200] + "...")):
        query = Query(terms=(Term(text=text),))
        show_hits(Terminal(), [query], [[hit("a"), hit("b")]], lambda path: path == "a" or None)
        first, *lines = capsys.readouterr().out.splitlines()
        assert first == heading
        assert [line.split()[-1] for line in lines] == ["a", "b"]  # neither is marked as gone


def test_heading_with_paths(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture's is as short as those of hits; a text is as it was typed, whatever it looks like.

    In a folder that was deleted, paths are whole.
    """
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    path = f"{gone}/a.png"
    picture, text = Query(terms=(Term(image=path),)), Query(terms=(Term(text=path),))
    for shown in ("like a.png", f"like {path}"):
        show_hits(Terminal(), [picture, text], [[], []], lambda _: None)
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if "a.png" in line] == [shown, path]
        if gone.is_dir():
            gone.rmdir()
