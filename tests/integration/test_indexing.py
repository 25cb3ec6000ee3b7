"""Folders into a store and out again."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pictures import draw
from standins.pixels import PixelEncoder
from warmclip.errors import FolderUnreadable, PruneRefused, SpaceMismatch, StoreError
from warmclip.indexing.indexer import Indexer
from warmclip.indexing.roots import descriptor_path
from warmclip.inference.arrays import Vector
from warmclip.inference.encoder import Encoder
from warmclip.settings import Limits
from warmclip.store.filter import Filter
from warmclip.store.protocol import Point
from warmclip.store.qdrant import QdrantStore

pytestmark = pytest.mark.quick

LIMITS = Limits(image_bytes=2_000_000)

Case = Callable[[Path], object]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[QdrantStore]:
    """An embedded store."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        yield store


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def draw_many(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Pictures by number, each with its own content."""
    return [draw(folder / f"{number:04}.png", number) for number in range(first, first + count)]


def stored(store: QdrantStore, name: str = "images") -> dict[str, Point]:
    """Path -> point; a path that is stored twice fails the test."""
    points = list(store.scroll(name, with_vectors=True))
    by_path = {point.payload.path: point for point in points}
    assert len(by_path) == len(points)
    return by_path


def vector_of(point: Point) -> Vector:
    """Its vector, which was asked for."""
    assert point.vector is not None
    return point.vector


def _truncated(path: Path) -> None:
    draw(path.with_suffix(".whole.png"), 1).rename(path)
    path.write_bytes(path.read_bytes()[:-40])


def _truncated_jpeg(path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _bomb(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path, "PNG")


BAD: dict[str, Case] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture, a letter"),
    "page": lambda path: path.write_text("<html><body>404</body></html>"),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "truncated-png": _truncated,
    "truncated-jpeg": _truncated_jpeg,
    "bomb": _bomb,
    "too-many-bytes": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2_000_001)),
    "heic": lambda path: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)),
    "pipe": os.mkfifo,
    "dangling-link": lambda path: path.symlink_to("nowhere.png"),
    "link-to-itself": lambda path: path.symlink_to(path.name),
}


def test_name_that_is_switched_meanwhile(store: QdrantStore, photos: Path) -> None:
    """A run compares with its own model's vectors to the end, and embeds none of them again."""
    draw_many(photos, 5)
    Indexer(PixelEncoder(), store).index([photos])
    other = PixelEncoder("b").space
    store.create_collection("images", other)

    def switch(_done: int, total: int, _stage: str) -> None:
        if total:  # the run has begun
            store.switch_alias("images", other.fingerprint)

    encoder = PixelEncoder()
    report = Indexer(encoder, store).index([photos], progress=switch)
    assert (report.unchanged, encoder.embedded) == (5, 0)


def test_bad_files_among_good_ones(store: QdrantStore, photos: Path, demo_bundle: Path) -> None:
    """Of 300 files with 40 bad ones of 12 kinds, 260 are indexed with the vectors that each has
    alone, 40 are named with reasons, and a second run indexes none.
    """
    good = [draw(photos / f"{n % 7}" / f"{n:03}.png", n) for n in range(260)]
    kinds = list(BAD)
    bad = []
    for number in range(40):
        kind = kinds[number % len(kinds)]
        path = photos / f"{number % 7}" / f"{number:03}-{kind}.jpg"
        BAD[kind](path)
        bad.append(str(path))

    encoder = Encoder.open(demo_bundle, limits=LIMITS, provider="cpu")
    indexer = Indexer(encoder, store, limits=LIMITS)
    first = indexer.index([photos])
    assert (first.indexed, first.reused, first.unchanged) == (260, 0, 0)
    assert sorted(first.skipped) == sorted(bad)
    assert all(first.skipped.values())
    assert first.exit_code == 1

    second = indexer.index([photos])
    assert (second.indexed, second.reused, second.unchanged) == (0, 0, 260)
    assert sorted(second.skipped) == sorted(bad)

    by_path = stored(store)
    assert sorted(by_path) == sorted(os.path.realpath(path) for path in good)
    for path in good:
        alone = encoder.encode_images([path])[0]
        np.testing.assert_allclose(vector_of(by_path[os.path.realpath(path)]), alone, atol=1e-6)


@pytest.mark.parametrize("kind", BAD)
def test_bad_file(store: QdrantStore, photos: Path, kind: str) -> None:
    """It is named with a reason, and the picture beside it is indexed."""
    BAD[kind](photos / "bad.png")
    draw(photos / "good.png", 1)
    report = Indexer(PixelEncoder(limits=LIMITS), store, limits=LIMITS).index([photos])
    assert report.indexed == 1
    assert list(report.skipped) == [str(photos / "bad.png")]
    assert len(report.skipped[str(photos / "bad.png")]) > 5


def test_payload(store: QdrantStore, photos: Path) -> None:
    """It says which file it was, and what made the vector."""
    path = draw(photos / "a.png", 1)
    Indexer(PixelEncoder(), store).index([path])
    payload = stored(store)[os.path.realpath(path)].payload
    assert (payload.width_px, payload.height_px) == (48, 32)
    assert payload.size_bytes == path.stat().st_size
    assert payload.mtime_ns == path.stat().st_mtime_ns
    assert payload.provider == "pixels"
    assert payload.versions == {"pixels": "1"}
    assert payload.fingerprint == "a" * 64


def test_report_as_json(store: QdrantStore, photos: Path) -> None:
    """It survives JSON, with every count that a script may want."""
    draw(photos / "a.png", 1)
    (photos / "b.png").write_bytes(b"")
    (photos / "c.txt").write_bytes(b"")
    report = Indexer(PixelEncoder(), store).index([photos])
    told = json.loads(json.dumps(report.to_dict()))
    assert told.pop("seconds") >= 0
    assert told == {
        "collection": "images",
        "indexed": 1,
        "reused": 0,
        "unchanged": 0,
        "skipped": {str(photos / "b.png"): report.skipped[str(photos / "b.png")]},
        "unreadable": {},
        "pruned": 0,
        "ignored": {".txt": 1},
    }


def test_progress(store: QdrantStore, photos: Path) -> None:
    """It grows to the whole, every file counted once, whatever becomes of it."""
    draw_many(photos, 5)
    (photos / "copy.png").write_bytes((photos / "0000.png").read_bytes())
    (photos / "bad.png").write_bytes(b"")
    (photos / "link.png").symlink_to("0001.png")
    seen: list[tuple[int, int, str]] = []
    indexer = Indexer(PixelEncoder(), store)
    for _ in range(2):
        seen.clear()
        indexer.index([photos], progress=lambda *step: seen.append(step))
        assert seen[0] == (0, 0, "finding")
        assert seen[-1] == (8, 8, "indexing")
        assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_progress_of_what_is_not_read(store: QdrantStore, photos: Path, tmp_path: Path) -> None:
    """Files that are unchanged, repeated, and known to be no pictures: each counts one."""
    draw_many(photos, 3)
    for number in range(2):
        (photos / f"link{number}.png").symlink_to("0001.png")
    for number in range(4):
        (photos / f"bad{number}.png").write_bytes(b"no picture")
    indexer = Indexer(PixelEncoder(), store, home=tmp_path / "home")
    indexer.index([photos])
    seen: list[tuple[int, int, str]] = []
    report = indexer.index([photos], progress=lambda *step: seen.append(step))
    assert (report.unchanged, len(report.skipped)) == (3, 0)
    assert seen[-1] == (9, 9, "indexing")


def test_contents_are_looked_up(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is asked for each content once, however many files have it."""
    for path in draw_many(photos, 40):
        path.with_suffix(".copy.png").write_bytes(path.read_bytes())
    asked: list[str] = []
    scroll = store.scroll

    def note(name: str, *, sha256: Collection[str] = (), **options: Any) -> Iterator[Point]:
        asked.extend(sha256)
        return scroll(name, sha256=sha256 or None, **options)

    monkeypatch.setattr(store, "scroll", note)
    report = Indexer(PixelEncoder(), store).index([photos])
    assert (report.indexed, report.reused) == (40, 40)
    assert len(asked) == len(set(asked)) == 40


def test_file_changed(store: QdrantStore, photos: Path) -> None:
    """Its vector is made anew; one that was only touched keeps it."""
    changed, touched = draw_many(photos, 2)
    encoder = PixelEncoder()
    indexer = Indexer(encoder, store)
    indexer.index([photos])
    before = stored(store)
    draw(changed, 99)
    os.utime(touched, ns=(1, 1))
    report = indexer.index([photos])
    assert (report.indexed, report.reused, encoder.embedded) == (1, 1, 3)
    after = stored(store)
    here, there = os.path.realpath(changed), os.path.realpath(touched)
    assert not np.allclose(vector_of(after[here]), vector_of(before[here]))
    assert after[there].payload.mtime_ns == 1
    assert indexer.index([photos]).unchanged == 2


def test_content_known_already(store: QdrantStore, photos: Path) -> None:
    """A moved file and copies take the vector over; only new content is embedded."""
    first, second = draw_many(photos, 2)
    encoder = PixelEncoder()
    indexer = Indexer(encoder, store)
    indexer.index([photos])
    first.rename(photos / "moved.png")
    for name in ("copy-1.png", "copy-2.png"):
        (photos / name).write_bytes(second.read_bytes())
    for name in ("new-1.png", "new-2.png", "new-3.png"):
        draw(photos / name, 77)
    report = indexer.index([photos])
    assert (report.indexed, report.reused, report.unchanged) == (1, 5, 1)
    assert encoder.embedded == 3
    by_name = {Path(path).name: point for path, point in stored(store).items()}
    assert len(by_name) == 8  # the place that the first one left included: nobody asked to prune
    for copy, of in {"moved.png": "0000.png", "copy-2.png": "0001.png"}.items():
        np.testing.assert_array_equal(vector_of(by_name[copy]), vector_of(by_name[of]))
        assert by_name[copy].payload.sha256 == by_name[of].payload.sha256


def test_copies_of_a_bad_file(store: QdrantStore, photos: Path) -> None:
    """Each is named."""
    for name in ("1.png", "2.png", "3.png"):
        (photos / name).write_bytes(b"no picture")
    assert len(Indexer(PixelEncoder(), store).index([photos]).skipped) == 3


def test_one_picture_by_two_paths(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted and stored once."""
    path = draw(photos / "a.png", 1)
    monkeypatch.chdir(photos)
    report = Indexer(PixelEncoder(), store).index([path, "a.png", "../photos/a.png", photos])
    assert report.indexed == 1
    assert len(stored(store)) == 1


def test_file_replaced_while_indexing(store: QdrantStore, photos: Path) -> None:
    """The vector, the digest and the time that are stored are those of the bytes that were read,
    and the next run has the new ones.
    """
    path = draw(photos / "a.png", 1)
    former, encoder = path.read_bytes(), PixelEncoder()
    indexer = Indexer(PixelEncoder(before_each=lambda: draw(path, 2)), store)
    assert indexer.index([photos]).indexed == 1
    (point,) = stored(store).values()
    assert point.payload.sha256 == hashlib.sha256(former).hexdigest()
    np.testing.assert_allclose(vector_of(point), encoder.encode_images([former])[0], atol=1e-6)
    assert Indexer(encoder, store).index([photos]).indexed == 1
    (point,) = stored(store).values()
    np.testing.assert_allclose(vector_of(point), encoder.encode_images([path])[0], atol=1e-6)


def test_each_file_is_read_once(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One open for each new file, and its bytes pass once; what is unchanged is not opened."""
    sizes = [path.stat().st_size for path in draw_many(photos, 20)]
    (photos / "copy.png").write_bytes((photos / "0000.png").read_bytes())
    opened: list[str] = []
    read_bytes = 0
    real_open, real_read = os.open, os.read

    def counting_open(path: str, *more: int) -> int:
        opened.append(os.fspath(path))
        return real_open(path, *more)

    def counting_read(descriptor: int, size: int) -> bytes:
        nonlocal read_bytes
        data = real_read(descriptor, size)
        read_bytes += len(data)
        return data

    monkeypatch.setattr("warmclip.inference.reading.os.open", counting_open)
    monkeypatch.setattr("warmclip.inference.reading.os.read", counting_read)
    indexer = Indexer(PixelEncoder(), store)
    report = indexer.index([photos])
    assert (report.indexed, report.reused) == (20, 1)
    pictures = [path for path in opened if path.endswith(".png")]
    assert sorted(pictures) == sorted(map(os.path.realpath, photos.iterdir()))
    assert read_bytes == sum(sizes) + sizes[0]
    opened.clear()
    assert indexer.index([photos]).unchanged == 21
    assert not [path for path in opened if path.endswith(".png")]


@pytest.mark.parametrize("call", ["inference.reading.os.read", "indexing.files.os.lstat"])
def test_file_on_a_disk_that_does_not_answer(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It costs itself and its time, whether it is read or only looked at; its neighbours are
    indexed, and so is it when the disk is back.
    """
    draw_many(photos, 9)
    stuck = draw(photos / "stuck.png", 99)
    answers = threading.Event()
    real: Callable[..., Any] = os.read if call.endswith("read") else os.lstat

    def wait(where: Any, *more: Any) -> Any:
        path = descriptor_path(where, "") if isinstance(where, int) else str(where)
        if path.endswith("stuck.png"):
            answers.wait(60)
        return real(where, *more)

    indexer = Indexer(PixelEncoder(), store, limits=Limits(read_s=1))
    with monkeypatch.context() as patch:
        patch.setattr(f"warmclip.{call}", wait)
        paths = [str(path) for path in sorted(photos.iterdir())]
        report = indexer.index_files(paths)
        answers.set()
    assert report.indexed == 9
    assert list(report.skipped) == [str(stuck)]
    assert "WARMCLIP_READ_SECONDS" in report.skipped[str(stuck)]
    assert indexer.index_files(paths).indexed == 1


def test_another_model(store: QdrantStore, photos: Path) -> None:
    """It may neither index into the collection nor search it."""
    draw_many(photos, 1)
    Indexer(PixelEncoder("a"), store).index([photos])
    other = Indexer(PixelEncoder("b"), store)
    with pytest.raises(SpaceMismatch, match="migrate"):
        other.index([photos])
    with pytest.raises(SpaceMismatch, match="migrate"):
        other.search("red")


def test_search(store: QdrantStore, photos: Path) -> None:
    """By text, by image and by vector the nearest comes first."""
    for colour in ("red", "blue", "lime"):
        Image.new("RGB", (8, 8), colour).save(photos / f"{colour}.png")
    encoder = PixelEncoder()
    indexer = Indexer(encoder, store)
    indexer.index([photos])
    vector = encoder.encode_texts(["blue"])[0]
    for hits in (
        indexer.search("blue", limit=2),
        indexer.search(image=photos / "blue.png", limit=2),
        indexer.search(vector=vector, limit=2),
    ):
        assert len(hits) == 2
        assert Path(hits[0].payload.path).name == "blue.png"
        assert hits[0].score == pytest.approx(1, abs=1e-5)
    with pytest.raises(TypeError, match="exactly one"):
        indexer.search("blue", vector=vector)
    with pytest.raises(TypeError, match="exactly one"):
        indexer.search()
    with pytest.raises(TypeError, match="embed exactly one of text and image"):
        indexer.embed("blue", image=photos / "blue.png")


def test_search_below_a_folder(store: QdrantStore, photos: Path) -> None:
    """A link to it and other spellings mean the same pictures; moved ones are where they are."""
    draw_many(photos / "trip", 3)
    draw_many(photos / "trip-2", 2, first=3)
    (photos / "link").symlink_to("trip")
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])

    def below(folder: Path | str) -> list[str]:
        hits = indexer.search("red", limit=9, only=Filter(folder=str(folder)))
        return sorted(hit.payload.path for hit in hits)

    trip = [f"{photos}/trip/{number:04}.png" for number in range(3)]
    assert below(photos / "trip") == below(f"{photos}/trip/") == below(photos / "link") == trip
    assert len(below(photos)) == 5
    Path(trip[0]).rename(photos / "trip-2" / "0000.png")
    indexer.index([photos], prune=True)
    assert below(photos / "trip") == trip[1:]
    assert below(photos / "trip-2")[0] == f"{photos}/trip-2/0000.png"
    with pytest.raises(FolderUnreadable, match="no absolute path"):
        below("trip")


def test_search_by_date(store: QdrantStore, photos: Path) -> None:
    """A picture's date is its file's; a file that was touched has its new one."""
    for number, path in enumerate(draw_many(photos, 3)):
        os.utime(path, (0, 1_767_225_600 + number * 24 * 3600))  # from 2026-01-01 on
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])

    def of(day: date) -> list[str]:
        hits = indexer.search("red", limit=9, only=Filter(since=day, until=day))
        return [Path(hit.payload.path).name for hit in hits]

    assert [of(date(2026, 1, day)) for day in (1, 2, 3)] == [
        ["0000.png"],
        ["0001.png"],
        ["0002.png"],
    ]
    os.utime(photos / "0001.png", (0, 1_767_225_600))
    indexer.index([photos])
    assert sorted(of(date(2026, 1, 1))) == ["0000.png", "0001.png"]
    assert of(date(2026, 1, 2)) == []


def test_prune(store: QdrantStore, photos: Path) -> None:
    """Points of files that are gone go, below the given folder only."""
    kept = draw_many(photos / "kept", 10)
    swept = draw_many(photos / "swept", 10, first=100)
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    kept[0].unlink()
    swept[0].unlink()
    report = indexer.index([photos / "swept"], prune=True)
    assert report.pruned == 1
    left = {Path(path) for path in stored(store)}
    assert os.path.realpath(kept[0]) in map(str, left)
    assert os.path.realpath(swept[0]) not in map(str, left)
    assert len(left) == 19


def test_prune_of_an_unmounted_disk(store: QdrantStore, photos: Path) -> None:
    """A missing or empty folder, and a large part of the collection, are refused untouched."""
    pictures = draw_many(photos / "disk", 10)
    draw_many(photos / "other", 1, first=50)
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    with pytest.raises(
        PruneRefused, match=r"no folder.*`warmclip forget --collection images /.*gone`"
    ):
        indexer.index([photos / "gone"], prune=True, yes=True)
    (photos / "empty").mkdir()
    with pytest.raises(PruneRefused, match="no pictures"):
        indexer.index([photos / "empty"], prune=True, yes=True)
    for path in pictures[:3]:
        path.unlink()
    with pytest.raises(PruneRefused, match=r"3 of the 11 .*--yes"):
        indexer.index([photos], prune=True)
    assert len(stored(store)) == 11
    assert indexer.index([photos], prune=True, yes=True).pruned == 3
    assert len(stored(store)) == 8


def test_prune_of_moved_files(store: QdrantStore, photos: Path) -> None:
    """They keep their vectors: the new place is indexed before the old one is deleted."""
    paths = draw_many(photos, 10)
    encoder = PixelEncoder()
    indexer = Indexer(encoder, store)
    indexer.index([photos])
    paths[0].rename(photos / "moved.png")
    report = indexer.index([photos], prune=True)
    assert (report.reused, report.pruned, encoder.embedded) == (1, 1, 10)


_INDEX_SLOWLY = """
import sys
from pathlib import Path
from standins.pixels import PixelEncoder
from warmclip.indexing.indexer import Indexer
from warmclip.store.qdrant import QdrantStore

store = QdrantStore.embedded(Path(sys.argv[1]))
indexer = Indexer(PixelEncoder(seconds_each=0.002), store)
indexer.index([sys.argv[2]], progress=lambda done, total, stage: print(done, flush=True))
"""


def test_store_and_model_work_at_once(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While vectors are written, the next pictures are embedded: a store that waits for the
    100th picture before it has written the 64th is no dead end, and all of them get there.
    """
    draw_many(photos, 150)
    hundredth = threading.Event()

    def count() -> None:
        if encoder.embedded == 100:
            hundredth.set()

    encoder = PixelEncoder(before_each=count)
    write = store.upsert

    def slowly(name: str, points: Sequence[Point]) -> None:
        assert hundredth.wait(30)
        write(name, points)

    monkeypatch.setattr(store, "upsert", slowly)
    report = Indexer(encoder, store).index([photos])
    assert (report.indexed, report.skipped) == (150, {})
    assert len(stored(store)) == 150


def test_store_fails_behind_the_model(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails while the next pictures are embedded ends the run with its reason."""
    draw_many(photos, 150)

    def fail(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "upsert", fail)
    encoder = PixelEncoder()
    with pytest.raises(StoreError, match="the disk is full"):
        Indexer(encoder, store).index([photos])
    assert encoder.embedded <= 128 + 1


@pytest.mark.parametrize("least_done", [0, 100])
def test_killed_while_indexing(tmp_path: Path, photos: Path, least_done: int) -> None:
    """A second run completes it: every picture is there exactly once, with its own vector."""
    paths = draw_many(photos, 150)
    folder = tmp_path / "qdrant"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", _INDEX_SLOWLY, str(folder), str(photos)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdout is not None
        while int(child.stdout.readline()) < least_done:
            pass
        child.send_signal(signal.SIGKILL)
    encoder = PixelEncoder()
    with QdrantStore.embedded(folder) as store:
        report = Indexer(encoder, store).index([photos])
        assert report.indexed + report.unchanged == 150
        assert report.unchanged >= least_done
        by_path = stored(store)
    assert sorted(by_path) == [os.path.realpath(path) for path in paths]
    for path, point in by_path.items():
        alone = encoder.encode_images([path])[0]
        np.testing.assert_allclose(vector_of(point), alone, atol=1e-6)
