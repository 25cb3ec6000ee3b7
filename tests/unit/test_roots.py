"""Roots: what lies in them, the ids that they give, and what a request may name."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmclip.errors import FolderUnreadable, JobRefused
from warmclip.indexing.roots import Roots, Scope, real_folder, require_roots
from warmclip.settings import Root


def named(**folders: str | Path) -> Roots:
    """Roots with names."""
    return Roots(Root(name=name, folder=Path(folder)) for name, folder in folders.items())


def unnamed(folder: str | Path) -> Roots:
    """One root without a name."""
    return Roots([Root(name="", folder=Path(folder))])


def test_named_root_mounted_elsewhere(tmp_path: Path) -> None:
    """Hosts with different mount points give a picture the same id; another name another id."""
    here, there = (real_folder(tmp_path / name) for name in ("mnt/photos", "Volumes/p"))
    path = f"{here}/2024/a.png"
    id_ = named(photos=here).point_id(path)
    assert named(photos=there).point_id(f"{there}/2024/a.png") == id_
    assert named(scans=here).point_id(path) != id_
    assert unnamed(here).point_id(path) == Roots().point_id(path) != id_


def test_nested_roots(tmp_path: Path) -> None:
    """The innermost one names the picture."""
    outer, inner = real_folder(tmp_path / "all"), real_folder(tmp_path / "all" / "photos")
    both, path = named(all=outer, photos=inner), f"{inner}/a.png"
    assert both.point_id(path) == named(photos=inner).point_id(path)
    assert both.point_id(path) != named(all=outer).point_id(path)


def test_id_for_good() -> None:
    """It never changes between releases, or every collection would double."""
    assert Roots().point_id("/photos/a.png") == "b479d391-f240-5a81-9999-e18e0cdfd481"
    photos = named(photos="/mnt/photos")
    assert photos.point_id("/mnt/photos/a.png") == "458e9774-1520-566f-8c69-fb213cfa5725"


@given(
    st.lists(
        st.binary(min_size=1, max_size=12).filter(lambda it: b"/" not in it and b"\0" not in it),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_ids_of_different_names(names: list[bytes]) -> None:
    """Any two names of bytes have two ids, under a root and without."""
    paths = [os.fsdecode(b"/r/" + name) for name in names]
    ids = {roots.point_id(path) for roots in (Roots(), named(r="/r")) for path in paths}
    assert len(ids) == 4


def test_real_folder(tmp_path: Path) -> None:
    """A linked folder's is where it leads; a missing one's is its own path."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert real_folder(tmp_path / "link") == os.path.realpath(tmp_path / "real")
    assert real_folder(tmp_path / "none") == os.path.realpath(tmp_path) + "/none"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a folder, and links: to that folder, and out of the root."""
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    (tmp_path / "photos-2").mkdir()
    (tmp_path / "photos" / "short").symlink_to("trip")
    (tmp_path / "photos" / "out").symlink_to(tmp_path / "photos-2")
    (tmp_path / "alias").symlink_to(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("{root}", "{root}"),
        ("{root}/", "{root}"),
        ("{root}/trip/", "{root}/trip"),
        ("{root}/./trip/../trip", "{root}/trip"),
        ("{root}/short", "{root}/trip"),
        ("{root}/gone/deep", "{root}/gone/deep"),
    ],
)
def test_folder_in_the_roots(root: Path, path: str, real: str) -> None:
    """However it is spelt, it is the place where its pictures are; it may be gone."""
    for written in (root, root.with_name("alias")):
        found = named(p=written).resolve(path.format(root=written))
        assert found == real.format(root=root.resolve())


@pytest.mark.parametrize(
    "path", ["/", "{root}-2", "{root}/out", "{root}/..", "/nowhere", "{root}x"]
)
def test_folder_outside_the_roots(root: Path, path: str) -> None:
    """It is refused, whether it exists or not."""
    with pytest.raises(JobRefused, match="outside the roots"):
        unnamed(root).resolve(path.format(root=root))


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("{root}", "{real}"),
        ("{root}/", "{real}"),
        ("//{root}//trip/./x/..", "{real}/trip"),
        ("{root}/short", "{real}/short"),
        ("{root}/out/a.png", "{real}/out/a.png"),
        ("{root}/gone/deep", "{real}/gone/deep"),
    ],
)
def test_path_as_it_is_stored(root: Path, path: str, stored: str) -> None:
    """A root that is a link is followed; what is below it is not looked at."""
    for written in (root, root.with_name("alias")):
        found = named(p=written).stored_path(path.format(root=written))
        assert found == stored.format(real=root.resolve())


@pytest.mark.parametrize("path", ["/", "{root}-2", "{root}/..", "/nowhere", "{root}x"])
def test_stored_path_outside_the_roots(root: Path, path: str) -> None:
    """It is refused; without roots, every path is as it is written."""
    with pytest.raises(JobRefused, match="outside the roots"):
        unnamed(root).stored_path(path.format(root=root))
    assert Roots().stored_path(f"{root}/short/") == f"{root}/short"


@pytest.mark.parametrize("path", ["", "trip", "/a\0b", "/\ud800", 7, None])
def test_what_is_no_folder(root: Path, path: object) -> None:
    """The message names it."""
    with pytest.raises(FolderUnreadable, match="no absolute path"):
        unnamed(root).resolve(path)
    with pytest.raises(FolderUnreadable, match="no absolute path"):
        unnamed(root).stored_path(path)


def test_folder_that_is_to_be_searched(root: Path) -> None:
    """A file, or what is not there, is no folder."""
    (root / "a.png").touch()
    assert unnamed(root).resolve_folder(f"{root}/short") == real_folder(root / "trip")
    for name in ("a.png", "gone"):
        with pytest.raises(FolderUnreadable, match=f"{name}' is no folder"):
            unnamed(root).resolve_folder(f"{root}/{name}")


def test_no_roots() -> None:
    """Whoever names files for others does not go on without any."""
    assert require_roots(unnamed("/mnt"))
    with pytest.raises(JobRefused, match="WARMCLIP_ROOTS"):
        require_roots(Roots())


def test_scope(root: Path) -> None:
    """What lies at or below some paths, wherever a link among them leads."""
    scope = Scope([root / "short", root / "a.png"])
    trip = real_folder(root / "trip")
    for path in (trip, f"{trip}/b.png", f"{real_folder(root)}/a.png"):
        assert path in scope
    for path in (real_folder(root), f"{trip}-2", f"{real_folder(root)}/short/b.png"):
        assert path not in scope


def test_folder_that_may_be_looked_into(root: Path) -> None:
    """A root, and what lies in one; of files, only those in one; without roots, everything."""
    roots, real = unnamed(root), real_folder(root)
    paths = (real, f"{real}/trip", f"{real}-2", "/")
    assert [roots.allow_folder(path) for path in paths] == [True, True, False, False]
    assert [roots.allow(path) for path in paths] == [False, True, False, False]
    assert Roots().allow_folder("/")
    assert Roots().allow("/a.png")
    assert (bool(roots), bool(Roots()), str(roots)) == (True, False, str(root))
