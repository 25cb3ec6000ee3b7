"""Which collection a name leads to, decided on collections and aliases that are lists."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

import pytest

from warmclip.errors import NotStored, SpaceMismatch, StoreError
from warmclip.store.aliases import Aliases
from warmclip.store.engine import Engine, Record
from warmclip.store.folder_keys import FOLDERS_FIELD
from warmclip.store.protocol import Payload, Space

OURS, THEIRS = (Space(fingerprint=digit * 64, dim=8) for digit in "ab")
A, B = (f"images__{space.fingerprint}" for space in (OURS, THEIRS))


class _Lists:
    """An engine of names alone, which says what was done with them."""

    when_missing = "; or is a disk not mounted?"

    def __init__(self, *collections: str, **aliases: str) -> None:
        self.collections = list(collections)
        self.aliases = aliases
        self.done: list[tuple[str, ...]] = []
        self.records: list[Record] = []

    def list_collections(self) -> list[str]:
        return self.collections

    def read_aliases(self) -> dict[str, str]:
        return {name: "".join(list(target)) for name, target in self.aliases.items()}  # as it comes

    def set_alias(self, name: str, collection: str, *, former: str | None) -> None:
        self.done.append(("lead", name, collection, former or ""))
        self.aliases[name] = collection

    def delete_alias(self, name: str) -> None:
        self.done.append(("forget", name))

    def create_collection(self, collection: str, dim: int) -> None:
        self.done.append(("make", collection, str(dim)))
        self.collections.append(collection)

    def prepare_collection(self, collection: str, dim: int) -> None:
        self.done.append(("prepare", collection, str(dim)))

    def delete_collection(self, collection: str) -> None:
        self.done.append(("delete", collection))

    def scroll(self, collection: str, _only: object) -> Iterator[Record]:
        self.done.append(("complete", collection))
        return iter(self.records)

    def set_payload(self, _collection: str, written: dict[str, Any], ids: list[str]) -> None:
        self.done.append(("write", *written[FOLDERS_FIELD], *ids))


def names_of(engine: _Lists) -> Aliases:
    """The names of a store."""
    return Aliases(cast(Engine, engine))


PREPARED = [("prepare", A, "8"), ("complete", A)]


@pytest.mark.parametrize(
    ("collections", "leads_to", "done"),
    [
        ([], None, [("make", A, "8"), *PREPARED, ("lead", "images", A, "")]),
        ([A], None, [*PREPARED, ("lead", "images", A, "")]),
        ([A], A, PREPARED),
        ([A, B], A, PREPARED),
        # The alias leads to a collection that is gone.
        ([], A, [("make", A, "8"), *PREPARED, ("lead", "images", A, A)]),
        ([], B, [("make", A, "8"), *PREPARED, ("lead", "images", A, B)]),
    ],
)
def test_collection_made(
    collections: list[str], leads_to: str | None, done: list[tuple[str, ...]]
) -> None:
    """What is missing is made, and the name is led there in one step."""
    engine = _Lists(*collections, **({} if leads_to is None else {"images": leads_to}))
    names_of(engine).ensure("images", OURS)
    assert engine.done == done


@pytest.mark.parametrize("collections", [[B], [A, B]])
def test_name_of_another_space(collections: list[str]) -> None:
    """Nothing is changed; the message depends on whether our own vectors are still kept."""
    engine = _Lists(*collections, images=B)
    with pytest.raises(SpaceMismatch, match="'images' holds vectors of the model bbbbbbbbbbbb"):
        names_of(engine).ensure("images", OURS)
    assert engine.done == []
    with pytest.raises(SpaceMismatch) as refused:
        names_of(engine).require_space("images", OURS)
    assert ("its own vectors are kept" in str(refused.value)) is (A in collections)
    assert ("warmclip migrate images" in str(refused.value)) is (A not in collections)
    assert "of the model bbbbbbbbbbbb, this model is aaaaaaaaaaaa; " in str(refused.value)
    assert names_of(engine).require_space("images", THEIRS) == B


def test_other_space_has_the_lesser_fingerprint() -> None:
    """Which of two comes first in the alphabet is of no account."""
    engine = _Lists(A, images=A)
    for ask in (names_of(engine).ensure, names_of(engine).require_space):
        with pytest.raises(SpaceMismatch, match="'images' holds vectors of the model aaaaaaaaaaaa"):
            ask("images", THEIRS)
    assert engine.done == []


def test_collection_of_somebody_else() -> None:
    """A name that Qdrant has for a collection cannot be an alias, and is not touched."""
    engine = _Lists("images")
    with pytest.raises(StoreError, match="that warmclip did not make"):
        names_of(engine).ensure("images", OURS)
    assert engine.done == []


def test_points_as_others_wrote_them(caplog: pytest.LogCaptureFixture) -> None:
    """What is made ready is also completed: each folder of points in one request; it is told."""
    caplog.set_level("INFO")
    engine = _Lists(A)
    names_of(engine).create("images", OURS)
    assert caplog.messages == []  # nothing was to be done
    engine.done.clear()
    whole = dict.fromkeys((field.name for field in fields(Payload)), "")
    engine.records = [
        Record(id=id_, payload=whole | {"path": path})
        for id_, path in (("1", "/a/x.jpg"), ("2", "/b/x.jpg"), ("3", "/a/y.jpg"))
    ]
    engine.records.append(Record(id="4", payload={"path": "/a/z.jpg"}))  # somebody else's
    names_of(engine).create("images", OURS)
    assert engine.done[2:] == [("write", "/a", "/", "1", "3"), ("write", "/b", "/", "2")]
    assert caplog.messages == [f"3 points of {A} can now be found by folder"]


def test_own_name_of_a_collection() -> None:
    """It is a name as well, also of what no name leads to."""
    names = names_of(_Lists(A, B, images=B))
    assert (names.target(A), names.target("images"), names.target("other")) == (A, B, None)
    assert names.fingerprint("images") == THEIRS.fingerprint
    assert names.fingerprint(A) == OURS.fingerprint


def test_names() -> None:
    """Aliases that lead to what is not of their name are other people's."""
    engine = _Lists(A, B, "foreign", "images-2__x", images=A, art=B, foreign="x")
    assert names_of(engine).names() == ("images",)
    assert names_of(engine).others("images") == [B]


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (_Lists(B, A), f"though the store has {A}, {B}, as after a snapshot"),
        (_Lists(A, image=A.replace("images", "image")), "though the store has"),
        (_Lists(imagen=A.replace("images", "imagen")), "did you mean 'imagen'"),
        (_Lists(), "there is no collection 'images' yet; .*; or is a disk not mounted"),
        (_Lists(quite=A.replace("images", "quite")), "there is no collection 'images' yet"),
    ],
)
def test_name_that_leads_nowhere(engine: _Lists, told: str) -> None:
    """The message says what may have happened to it."""
    names = names_of(engine)
    with pytest.raises(NotStored, match=told):
        names.require("images")
    if engine.collections:
        assert names.delete("images", dry_run=True) == tuple(sorted(engine.collections))
    else:
        with pytest.raises(NotStored, match=told):
            names.delete("images", dry_run=False)
    assert engine.done == []


def test_switch() -> None:
    """One request leads the name on; what is there already, or is not stored, changes nothing."""
    engine = _Lists(A, images=A)
    names = names_of(engine)
    assert names.switch("images", OURS.fingerprint) is None
    with pytest.raises(NotStored, match=f"no collection '{B}' that 'images' could lead to"):
        names.switch("images", THEIRS.fingerprint)
    assert engine.done == []
    engine.collections.append(B)
    assert names.switch("images", THEIRS.fingerprint) == A
    assert engine.done == [("lead", "images", B, A)]


def test_name_deleted() -> None:
    """The name goes before the collection that it leads to, so that it never leads nowhere."""
    engine = _Lists(A, B, "other__x", images=B)
    assert names_of(engine).delete("images", dry_run=True) == (A, B)
    assert engine.done == []
    assert names_of(engine).delete("images", dry_run=False) == (A, B)
    assert engine.done == [("delete", A), ("forget", "images"), ("delete", B)]
    without_name = _Lists(A)
    assert names_of(without_name).delete("images", dry_run=False) == (A,)
    assert without_name.done == [("delete", A)]


def test_collection_in_use() -> None:
    """Only what no name leads to may be deleted."""
    names = names_of(_Lists(A, B, images=A))
    names.check_unused(B)
    for in_use in (A, "images"):
        with pytest.raises(StoreError, match="is in use"):
            names.check_unused(in_use)
