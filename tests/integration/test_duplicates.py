"""Near-duplicates: which pictures are one group, and what people see of it."""

import json
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from running import run
from warmclip.errors import SettingsError
from warmclip.indexing import duplicates
from warmclip.indexing.duplicates import find_duplicates
from warmclip.inference.arrays import Vector
from warmclip.store.protocol import Payload, Point, Space
from warmclip.store.qdrant import QdrantStore
from warmclip_export import drawing

pytestmark = pytest.mark.quick

DIM = 16
SPACE = Space(fingerprint="a" * 64, dim=DIM)


@pytest.fixture
def store(store: QdrantStore) -> QdrantStore:
    """A store of each kind, with an empty collection."""
    store.ensure_collection("images", SPACE)
    return store


def point(path: str, vector: Vector, *, side_px: int = 100, sha256: str = "") -> Point:
    """A picture of that size, with that vector."""
    return Point(
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, path)),
        vector=(vector / np.linalg.norm(vector)).astype(np.float32),
        payload=Payload(
            path=path,
            sha256=sha256 or uuid.uuid5(uuid.NAMESPACE_URL, path).hex * 2,
            size_bytes=side_px,
            mtime_ns=0,
            width_px=side_px,
            height_px=side_px,
            fingerprint=SPACE.fingerprint,
            provider="cpu",
            versions={},
            indexed_at="",
        ),
    )


def at(degrees: float) -> Vector:
    """A direction in a plane."""
    vector = np.zeros(DIM, np.float32)
    vector[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vector


def groups(store: QdrantStore, threshold: float, paths: tuple[str, ...] = ()) -> list[list[str]]:
    """The paths of each group, in its order."""
    found = find_duplicates(store, "images", paths, threshold=threshold).groups
    return [[hit.payload.path for hit in group.hits] for group in found]


def test_chain(store: QdrantStore) -> None:
    """Every member is near to its first picture itself: the ends of a chain are not one group."""
    chain = [point(f"/{step}.png", at(10 * step), side_px=100 + step) for step in range(5)]
    store.upsert("images", chain)
    found = find_duplicates(store, "images", threshold=float(np.cos(np.radians(12))))
    named = [[hit.payload.path for hit in group.hits] for group in found.groups]
    assert named == [["/2.png", "/1.png"], ["/4.png", "/3.png"]]
    assert all(hit.score >= np.cos(np.radians(12)) for group in found.groups for hit in group.hits)


def test_largest_picture_is_first(store: QdrantStore) -> None:
    """By pixels; then come the nearest."""
    store.upsert(
        "images",
        [
            point("/small.png", at(0), side_px=10),
            point("/large.png", at(3), side_px=30),
            point("/middle.png", at(4), side_px=20),
            point("/other.png", at(90), side_px=40),
        ],
    )
    assert groups(store, 0.99) == [["/large.png", "/middle.png", "/small.png"]]


@pytest.mark.parametrize(
    ("sizes", "first"),
    [
        ({"/wide.png": (119, 5, 9), "/square.png": (25, 24, 1)}, "/square.png"),
        ({"/upright.png": (24, 25, 2), "/lying.png": (25, 24, 1)}, "/upright.png"),
        ({"/upright.png": (24, 25, 1), "/lying.png": (25, 24, 2)}, "/lying.png"),
    ],
)
def test_which_picture_is_larger(
    store: QdrantStore, sizes: dict[str, tuple[int, int, int]], first: str
) -> None:
    """The one with more pixels, however wide; of two with as many, the one with more bytes."""
    for name, (width_px, height_px, size_bytes) in sizes.items():
        made = point(name, at(0))
        payload = replace(
            made.payload, width_px=width_px, height_px=height_px, size_bytes=size_bytes
        )
        store.upsert("images", [replace(made, payload=payload)])
    ((*found,),) = groups(store, 0.9)
    assert len(found) == 2
    assert found[0] == first


def test_exact_copies(store: QdrantStore) -> None:
    """They are one group at any threshold, even if two providers made slightly other vectors."""
    store.upsert(
        "images",
        [
            point("/a.png", at(0), sha256="5a" * 32),
            point("/b.png", at(1), sha256="5a" * 32),
            point("/c.png", at(0.5), sha256="ff" * 32),
        ],
    )
    (group,) = find_duplicates(store, "images", threshold=1).groups
    assert [hit.payload.path for hit in group.hits] == ["/a.png", "/b.png"]
    assert group.identical == 1
    (group,) = find_duplicates(store, "images", threshold=0.9).groups
    assert [group.is_identical(hit) for hit in group.hits] == [True, True, False]


def test_only_below_paths(store: QdrantStore) -> None:
    """Others are not compared."""
    store.upsert("images", [point(f"/{folder}/x.png", at(0)) for folder in ("a", "b", "bc")])
    ((*found,),) = groups(store, 0.9, ("/a", "/b"))
    assert sorted(found) == ["/a/x.png", "/b/x.png"]


def test_many_as_one_by_one(store: QdrantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks find what comparing one by one finds, whatever their size."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((40, DIM))
    near = [centres[n % 40] + 0.25 * random.standard_normal(DIM) for n in range(400)]
    points = [point(f"/{n}.png", row, side_px=1 + n) for n, row in enumerate(near)]
    store.upsert("images", points)
    wanted: list[set[str]] = []
    left = points[::-1]
    while left:
        first, *others = left
        assert first.vector is not None
        cosines = [float(first.vector @ it.vector) for it in others]  # type: ignore[operator]  # made above
        group = {it.id for it, cosine in zip(others, cosines, strict=True) if cosine >= 0.95}
        if group:
            wanted.append(group | {first.id})
        left = [it for it in others if it.id not in group]
    for block, columns in ((512, 8192), (7, 50)):
        monkeypatch.setattr(duplicates, "_BLOCK", block)
        monkeypatch.setattr(duplicates, "_COLUMNS", columns)
        found = find_duplicates(store, "images", threshold=0.95).groups
        assert len(found) > 10
        assert {frozenset(hit.id for hit in it.hits) for it in found} == set(map(frozenset, wanted))


def test_progress(store: QdrantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told while vectors are read, and for each block of them that is compared."""
    monkeypatch.setattr(duplicates, "_TOLD_EVERY", 2)
    monkeypatch.setattr(duplicates, "_BLOCK", 3)
    store.upsert("images", [point(f"/{step}.png", at(10 * step)) for step in range(5)])
    told: list[tuple[int, int, str]] = []
    find_duplicates(store, "images", threshold=0.9, progress=lambda *it: told.append(it))
    reading, comparing = [(2, 5), (4, 5)], [(0, 5), (3, 5)]
    assert told == [
        *((*it, "vectors") for it in reading),
        *((*it, "comparing") for it in comparing),
    ]


def test_too_many(store: QdrantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would not fit in memory is refused with the bound, not tried."""
    monkeypatch.setattr(duplicates, "MOST_BYTES", 4 * DIM * 10)
    store.upsert("images", [point(f"/{n}.png", at(n)) for n in range(11)])
    with pytest.raises(SettingsError, match="more than 10 pictures"):
        groups(store, 0.9)


def test_command(tmp_path: Path, demo_bundle: Path) -> None:
    """A picture, its copy and a JPEG of half its size are one group, with a row on the sheet."""
    drawing.write_gallery(tmp_path / "pictures", 8, seed=0)
    first = sorted((tmp_path / "pictures").iterdir())[0]
    with Image.open(first) as picture:
        half = picture.convert("RGB").resize((picture.width // 2, picture.height // 2))
        half.save(tmp_path / "pictures" / "half.jpg", quality=75)
    (tmp_path / "pictures" / "copy.png").write_bytes(first.read_bytes())
    assert run("index", tmp_path / "pictures", WARMCLIP_BUNDLE=str(demo_bundle)).returncode == 0
    sheet = tmp_path / "same.png"
    done = run("duplicates", "images", "--sheet", sheet, "--json")
    assert done.returncode == 0, done.stderr
    (group,) = json.loads(done.stdout)["groups"]
    named = {Path(it["path"]).name: it["exact"] for it in group["pictures"]}
    assert named == {first.name: True, "copy.png": True, "half.jpg": False}
    assert Path(group["pictures"][-1]["path"]).name == "half.jpg"
    with Image.open(sheet) as drawn:
        assert drawn.height < 500 < drawn.width
    told = run("duplicates", "images", tmp_path / "pictures").stdout
    assert "1 groups; nothing was deleted" in told
    assert "same bytes" in told
    assert run("duplicates", "--sheet", "x.jpg").returncode == 2
