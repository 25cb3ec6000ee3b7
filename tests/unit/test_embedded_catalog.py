"""The folder of the embedded store: which collections are there, also after it was cut short."""

import json
import re
from pathlib import Path

import pytest

from warmclip.errors import StoreDamaged, StoreError
from warmclip.store import embedded_catalog
from warmclip.store.embedded_catalog import UNFINISHED, Catalog, is_of_former_format


def collection(path: Path, content: str, *, is_compacted: bool = False) -> Path:
    """A folder that stands for a collection's files."""
    path.mkdir(parents=True)
    (path / "points").write_text(content)
    if is_compacted:
        (path / "files.json").write_text("{}")
    return path


def test_new_store(tmp_path: Path) -> None:
    """It is empty, and of the present format."""
    catalog = Catalog(tmp_path)
    assert catalog.list_collections() == []
    assert catalog.aliases == {}
    assert (tmp_path / "shards").stat().st_mode & 0o777 == 0o700
    assert json.loads((tmp_path / "store.json").read_text())["format"] == embedded_catalog.FORMAT


def test_aliases(tmp_path: Path) -> None:
    """They are kept, and taken away one by one."""
    catalog = Catalog(tmp_path)
    catalog.set_alias("images", "images__1")
    catalog.set_alias("second", "second__1")
    catalog.set_alias("images", "images__2")
    assert Catalog(tmp_path).aliases == {"images": "images__2", "second": "second__1"}
    catalog.delete_alias("another")
    catalog.delete_alias("images")
    assert Catalog(tmp_path).aliases == {"second": "second__1"}


@pytest.mark.parametrize("has_former_files", [True, False])
def test_former_files_are_remembered(tmp_path: Path, has_former_files: bool) -> None:
    """A converted store removes them, though it be opened again before."""
    catalog = Catalog(tmp_path)
    catalog.has_former_files = has_former_files
    catalog.write()
    assert Catalog(tmp_path).has_former_files is has_former_files


@pytest.mark.parametrize(
    "torn",
    ["", "[]", '{"format": 2, "engine": ""}', '{"format": 2, "engine": "", "aliases": []}', "{"],
)
def test_torn_names(tmp_path: Path, torn: str) -> None:
    """The file is named, and what to do."""
    (tmp_path / "store.json").write_text(torn)
    with pytest.raises(StoreDamaged, match=re.escape(str(tmp_path / "store.json"))):
        Catalog(tmp_path)
    assert (tmp_path / "store.json").read_text() == torn


@pytest.mark.parametrize("format_", [1, 3, "2"])
def test_other_format(tmp_path: Path, format_: object) -> None:
    """It is refused before anything is changed."""
    leftover = collection(tmp_path / "shards" / ".new-images", "")
    told = json.dumps({"format": format_, "engine": "0", "aliases": {}})
    (tmp_path / "store.json").write_text(told)
    with pytest.raises(StoreError, match=f"has format {format_}"):
        Catalog(tmp_path)
    assert leftover.exists()
    assert (tmp_path / "store.json").read_text() == told


def test_what_is_a_collection(tmp_path: Path) -> None:
    """Whatever was not finished is removed; what others left is neither that nor a collection."""
    shards, elsewhere = tmp_path / "shards", collection(tmp_path / "elsewhere", "kept")
    for name in ("second", "images", *(f"{it}images.1" for it in UNFINISHED)):
        collection(shards / name, name)
    (shards / ".gone-link").symlink_to(elsewhere)
    for name in (".DS_Store", "Thumbs.db"):
        (shards / name).write_text("")
    catalog = Catalog(tmp_path)
    assert catalog.list_collections() == ["images", "second"]
    left = {it.name for it in shards.iterdir()}
    assert left == {"images", "second", ".DS_Store", "Thumbs.db"}
    assert (elsewhere / "points").read_text() == "kept"


def test_made_and_deleted(tmp_path: Path) -> None:
    """A collection is there once its files are whole, and gone at once."""
    catalog = Catalog(tmp_path)
    collection(catalog.begin("images"), "of an attempt that failed")
    path = catalog.begin("images")
    assert not path.exists()
    collection(path, "whole")
    assert catalog.list_collections() == []
    catalog.adopt("images")
    assert catalog.list_collections() == ["images"]
    assert (catalog.path("images") / "points").read_text() == "whole"
    assert not catalog.is_link("images")
    catalog.remove("images")
    assert list((tmp_path / "shards").iterdir()) == []


def test_set_aside(tmp_path: Path) -> None:
    """Damaged files are kept, twice as well."""
    catalog = Catalog(tmp_path)
    places = []
    for content in ("first", "second"):
        collection(catalog.path("images"), content)
        places.append(catalog.set_aside("images"))
    assert [(it / "points").read_text() for it in places] == ["first", "second"]
    assert {it.parent for it in places} == {tmp_path / "damaged"}
    assert (tmp_path / "damaged").stat().st_mode & 0o777 == 0o700
    assert catalog.list_collections() == []


def test_replaced_by_its_copy(tmp_path: Path) -> None:
    """The copy is the collection; the former files are where nobody takes them for it."""
    catalog = Catalog(tmp_path)
    collection(catalog.path("images"), "former")
    copy = collection(catalog.name_copy("images"), "compacted")
    former = catalog.replace("images", copy)
    assert (catalog.path("images") / "points").read_text() == "compacted"
    assert (former / "points").read_text() == "former"
    assert catalog.list_collections() == ["images"]
    collection(catalog.name_copy("images"), "another one")
    Catalog(tmp_path)
    assert [it.name for it in (tmp_path / "shards").iterdir()] == ["images"]


def test_copy_that_cannot_take_its_place(tmp_path: Path) -> None:
    """The collection is what it was."""
    catalog = Catalog(tmp_path)
    collection(catalog.path("images"), "former")
    with pytest.raises(FileNotFoundError):
        catalog.replace("images", catalog.name_copy("images"))
    assert (catalog.path("images") / "points").read_text() == "former"
    assert [it.name for it in (tmp_path / "shards").iterdir()] == ["images"]


@pytest.mark.parametrize(
    ("beside", "is_compacted", "expected", "aside"),
    [
        (None, False, "former", []),  # killed between the two renames
        ("compacted", True, "compacted", []),  # after them
        ("begun anew", False, "begun anew", ["former"]),  # by a version that knows of no copies
    ],
)
def test_killed_while_it_is_replaced(
    tmp_path: Path, beside: str | None, is_compacted: bool, expected: str, aside: list[str]
) -> None:
    """The one or the other is there, whole, and what may be somebody's pictures is kept."""
    shards = tmp_path / "shards"
    collection(shards / ".former-images", "former")
    if beside is not None:
        collection(shards / "images", beside, is_compacted=is_compacted)
    Catalog(tmp_path)
    assert [it.name for it in shards.iterdir()] == ["images"]
    assert (shards / "images" / "points").read_text() == expected
    assert [(it / "points").read_text() for it in tmp_path.glob("damaged/*")] == aside


@pytest.mark.parametrize(
    ("wrote", "is_newer"),
    [
        ("0.9.1", False),
        ("0.9.2", True),
        ("0.10.0", True),
        ("0.8.99", False),
        ("1", True),
        ("", False),
        ("0.9.dev1", False),
    ],
)
def test_newer_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrote: str, is_newer: bool
) -> None:
    """An error says so if the engine that wrote the store is newer than the installed one."""
    monkeypatch.setattr(embedded_catalog, "version", lambda _name: "0.9.1")
    told = {"format": embedded_catalog.FORMAT, "engine": wrote, "aliases": {}}
    (tmp_path / "store.json").write_text(json.dumps(told))
    said = Catalog(tmp_path).newer_engine()
    assert (f" {wrote} wrote it, and 0.9.1 is installed" in said) == is_newer
    assert bool(said) == is_newer


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], False),
        (["meta.json"], True),
        (["store.json"], False),
        (["meta.json", "store.json"], False),
    ],
)
def test_former_format(tmp_path: Path, files: list[str], expected: bool) -> None:
    """Only what has not been converted."""
    for file in files:
        (tmp_path / file).write_text("{}")
    assert is_of_former_format(tmp_path) is expected
