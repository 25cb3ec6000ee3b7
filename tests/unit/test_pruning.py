"""What counts as an orphan, what is doubted, and what is deleted, on points that are a list."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from standins import points
from warmclip.errors import PruneRefused
from warmclip.indexing.mounts import MountPoints
from warmclip.indexing.pruning import (
    check_folder,
    check_loss,
    check_mounted,
    delete_orphans,
    is_orphan,
)
from warmclip.indexing.roots import Roots
from warmclip.settings import Root
from warmclip.store.protocol import Generation, Point, VectorStore

ROOTS = Roots()


def point(path: Path | str, id_: str = "") -> Point:
    """A stored picture."""
    some = points.point(0)
    payload = replace(some.payload, path=str(path))
    return replace(some, id=id_ or ROOTS.point_id(str(path)), payload=payload)


class _Points:
    """Collections of points; what changed meanwhile is not deleted."""

    def __init__(self, *stored: Point, former: Sequence[Point] = ()) -> None:
        self.of = {"images": list(stored), "images__former": list(former)}
        self.changed: set[str] = set()

    def scroll(self, name: str, *, ids: Iterable[str]) -> Iterator[Point]:
        wanted = set(ids)
        return iter([it for it in self.of[name] if it.id in wanted])

    def delete_unchanged(self, name: str, looked_at: Sequence[Point]) -> frozenset[str]:
        ids = {it.id for it in looked_at}
        left = ids & self.changed
        self.of[name] = [it for it in self.of[name] if it.id not in ids - left]
        return frozenset(left)

    def list_generations(self, _name: str) -> tuple[Generation, ...]:
        return tuple(
            Generation(collection=name, fingerprint="", points=0, foreign=0, in_use=not number)
            for number, name in enumerate(self.of)
        )

    def left(self, name: str = "images") -> list[str]:
        return [Path(it.payload.path).name for it in self.of[name]]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A file."""
    path = tmp_path / "there.jpg"
    path.write_bytes(b"picture")
    return path


def test_orphan(there: Path) -> None:
    """Gone, excluded, or known by another id; a file that is there under its own is none."""
    gone = there.with_name("gone.jpg")
    assert not is_orphan(point(there), ROOTS)
    assert is_orphan(point(gone), ROOTS)
    assert is_orphan(point(there), ROOTS, {str(there)})
    assert not is_orphan(point(there), ROOTS, {str(gone)})
    for another in ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"):
        assert is_orphan(point(there, another), ROOTS)
    named = Roots([Root(name="photos", folder=there.parent)])
    assert is_orphan(point(there), named)


def test_folder_that_is_compared(there: Path) -> None:
    """It must hold a picture, excluded or not; the message says how to delete what is gone."""
    check_folder(str(there.parent), "images")
    (there.parent / ".warmclipignore").write_text("*", encoding="utf-8")
    check_folder(str(there.parent), "images")
    for path in (there, there.parent / "gone"):
        with pytest.raises(PruneRefused, match=f"{path.name}' is no folder"):
            check_folder(str(path), "images")
    (there.parent / "empty folder").mkdir()
    (there.parent / "empty folder" / "notes.txt").touch()
    with pytest.raises(PruneRefused, match="holds no pictures at all") as refused:
        check_folder(f"{there.parent}/empty folder", "images")
    assert f"--collection images '{there.parent}/empty folder'`" in str(refused.value)


@pytest.mark.parametrize(
    ("gone", "total", "is_doubted"),
    [(0, 0, False), (0, 5, False), (1, 5, False), (2, 5, True), (20, 100, False), (21, 100, True)],
)
def test_loss(gone: int, total: int, is_doubted: bool) -> None:
    """A fifth may go unasked; more is refused with an example."""
    paths = [f"/p/{number}.jpg" for number in range(gone)]
    if not is_doubted:
        check_loss("images", paths, total)
        return
    with pytest.raises(PruneRefused, match=f"delete {gone} of the {total} .*'/p/0.jpg'.*--yes"):
        check_loss("images", paths, total)


def test_disk_that_is_not_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with the number of pictures; where nothing is known, nothing is refused."""
    mounted = {"/mnt/disk"}
    monkeypatch.setattr("warmclip.indexing.mounts.os.path.ismount", mounted.__contains__)
    mounts = MountPoints(tmp_path)
    mounts.add(["/mnt/disk/a.jpg"])
    paths = ["/mnt/disk/a.jpg", "/mnt/disk/b.jpg", "/other.jpg"]
    check_mounted(mounts, "images", paths)
    mounted.clear()
    check_mounted(None, "images", paths)
    check_mounted(mounts, "images", ["/other.jpg"])
    with pytest.raises(
        PruneRefused, match=r"delete 2 pictures below '/mnt/disk'.*images /mnt/disk"
    ):
        check_mounted(mounts, "images", paths)


def delete(store: _Points, *orphans: Point, **more: object) -> tuple[int, frozenset[str]]:
    """Delete orphans: how many were, and which were kept."""
    ids = [it.id for it in orphans]
    done = delete_orphans(cast(VectorStore, store), "images", ids, ROOTS, **more)  # type: ignore[arg-type]  # as the test gives them
    return done.deleted, done.kept


def test_what_is_gone(there: Path) -> None:
    """It is deleted from the former vectors too; what is there, or was not named, stays."""
    gone, other, stays = (point(there.with_name(f"{name}.jpg")) for name in "abc")
    store = _Points(gone, other, stays, point(there), former=[gone, stays])
    assert delete(store, gone, other, point(there)) == (2, frozenset())
    assert store.left() == ["c.jpg", "there.jpg"]
    assert store.left("images__former") == ["c.jpg"]
    assert delete(store) == (0, frozenset())


def test_what_changed_meanwhile(there: Path) -> None:
    """A point that was written again since it was looked at is not counted as deleted."""
    gone = [point(there.with_name(f"{name}.jpg")) for name in "abcde"]
    store = _Points(*gone)
    store.changed = {gone[0].id, gone[1].id}
    assert delete(store, *gone) == (3, frozenset())
    assert store.left() == ["a.jpg", "b.jpg"]


def test_file_that_is_known_by_another_id(there: Path) -> None:
    """Its vector is needed until the file is stored anew, and its former vectors stay."""
    old, new = point(there, "old"), point(there)
    store = _Points(old, former=[old])
    assert delete(store, old) == (0, frozenset({"old"}))
    store.of["images"].append(new)
    assert delete(store, old) == (1, frozenset())
    assert [it.id for it in store.of["images"]] == [new.id]
    assert store.left("images__former") == ["there.jpg"]


def test_file_that_was_moved(there: Path) -> None:
    """Its point stays until the file is stored where it is now, if it can be."""
    gone = point(there.with_name("gone.jpg"))
    store = _Points(gone, former=[gone])
    for path in (there, there.parent, there.with_name("nowhere.jpg")):
        assert delete(store, gone, moved_to={gone.id: str(path)}) == (0, frozenset({gone.id}))
    store.of["images"].append(point(there))
    assert delete(store, gone, moved_to={gone.id: str(there)}) == (1, frozenset())
    assert store.left("images__former") == ["gone.jpg"]


def test_excluded_file(there: Path) -> None:
    """It is as good as gone: its vector and the former ones go."""
    store = _Points(point(there), former=[point(there)])
    assert delete(store, point(there), excluded={str(there)}) == (1, frozenset())
    assert (store.left(), store.left("images__former")) == ([], [])
