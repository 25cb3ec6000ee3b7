"""Files that cannot be read cost one read, once; then they are no reason to fail."""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pictures import draw
from running import run
from standins.pixels import PixelEncoder
from warmclip.errors import ImageUnavailable
from warmclip.indexing.audit import audit_folders
from warmclip.indexing.audit_report import AuditReport
from warmclip.indexing.exclusion import IGNORE_FILE
from warmclip.indexing.files import Location
from warmclip.indexing.indexer import Indexer
from warmclip.indexing.refusals import FILE, Refusals
from warmclip.indexing.repair import repair_collection
from warmclip.inference.encoder import Encoder
from warmclip.settings import Limits
from warmclip.store.qdrant import QdrantStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[QdrantStore]:
    """An embedded store."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        yield store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where refusals are remembered."""
    return tmp_path / "home"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A good picture, and three that are none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw(folder / "good.png", 1)
    (folder / "letter.jpg").write_text("no picture")
    (folder / "copy.jpg").write_text("no picture")
    (folder / "large.png").write_bytes(bytes(3_000_000))
    return folder


LIMITS = Limits(image_bytes=2_000_000)


class Opened:
    """The pictures, and what looks like some, that were opened, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        real = os.open

        def counting(path: str, *more: int) -> int:
            # Ignore files are looked for in each folder, and are no pictures.
            if not os.path.isdir(path) and Path(path).name != IGNORE_FILE:  # noqa: PTH112 - as the code asks
                self.names.append(Path(path).name)
            return real(path, *more)

        monkeypatch.setattr("warmclip.inference.reading.os.open", counting)


def make(store: QdrantStore, home: Path | None, limits: Limits = LIMITS) -> Indexer:
    """An Indexer that remembers."""
    return Indexer(PixelEncoder(limits=limits), store, limits=limits, home=home)


def test_second_run(
    store: QdrantStore, home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens no picture, tells the same reasons, and has nothing to complain of."""
    first = make(store, home).index([photos])
    assert (first.indexed, len(first.skipped), first.unreadable) == (1, 3, {})
    assert first.exit_code == 1
    opened = Opened(monkeypatch)
    second = make(store, home).index([photos])
    assert opened.names == []
    assert (second.unchanged, second.skipped, second.unreadable) == (1, {}, first.skipped)
    assert second.exit_code == 0
    assert make(store, None).index([photos]).skipped == first.skipped


def test_what_is_read_again(store: QdrantStore, home: Path, photos: Path) -> None:
    """A file that changed, by its bytes or by its time; all, where limits are others or somebody
    asks for it.
    """
    refused = set(make(store, home).index([photos]).skipped)
    draw(photos / "letter.jpg", 2)
    os.utime(photos / "copy.jpg", ns=(1, 1))
    report = make(store, home).index([photos])
    assert report.indexed == 1
    assert set(report.skipped) == {str(photos / "copy.jpg")}
    assert set(report.unreadable) == {str(photos / "large.png")}

    assert make(store, home).index([photos]).skipped == {}
    retried = make(store, home).index([photos], retry_unreadable=True)
    assert set(retried.skipped) == refused - {str(photos / "letter.jpg")}
    assert retried.unreadable == {}

    other = make(store, home, Limits(image_bytes=4_000_000)).index([photos])
    assert set(other.skipped) == set(retried.skipped)
    assert "limit" not in other.skipped[str(photos / "large.png")]


def test_what_came_to_be_readable_without_a_change(
    store: QdrantStore, home: Path, photos: Path
) -> None:
    """Asked for again, it is indexed, and its refusal is forgotten."""
    path = photos / "letter.jpg"
    make(store, home).index([photos])
    status = path.stat()
    picture = draw(photos / "drawn.png", 3).read_bytes()
    (photos / "drawn.png").unlink()
    path.write_bytes(picture)
    location = Location(
        id="0" * 32,
        path=os.path.realpath(path),
        size_bytes=len(picture),
        mtime_ns=status.st_mtime_ns,
        device=0,
    )
    refusals = Refusals(home, fingerprint="a" * 64, limits=LIMITS)
    refusals.add({location: "as a former Pillow saw it"})
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert make(store, home).index([photos]).unreadable[str(path)] == "as a former Pillow saw it"
    assert make(store, home).index([photos], retry_unreadable=True).indexed == 1
    assert refusals.find([location]) == {}


@pytest.mark.parametrize("why", ["late", "closed", "memory", "set aside"])
def test_what_is_not_remembered(
    store: QdrantStore,
    home: Path,
    photos: Path,
    demo_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    """A file that may be read the next time: nothing is known of its content."""
    path = draw(photos / "other.png", 5)
    indexer = Indexer(Encoder.open(demo_bundle, provider="cpu"), store, home=home)
    with monkeypatch.context() as patch:
        match why:
            case "late":
                patch.setattr("warmclip.inference.reading.MOST_STUCK", 0)
            case "closed":
                patch.setattr("warmclip.indexing.files.open_file", _refuse)
            case "memory":
                patch.setattr("PIL.Image.Image.load", _run_out)
                patch.setattr("PIL.ImageFile.ImageFile.load", _run_out)
            case "set aside":
                patch.setattr("warmclip.inference.decoding.open_decoded", _refuse)
        skipped = indexer.index([path]).skipped
        assert list(skipped) == [str(path)]
    assert indexer.index([path]).indexed == 1


def _refuse(*_: object) -> int:
    raise ImageUnavailable("not now")


def _run_out(*_: object) -> None:
    raise MemoryError


def test_damaged_file(
    store: QdrantStore, home: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs what was remembered, and a line in the log."""
    make(store, home).index([photos])
    (home / FILE).write_bytes(b"no database, but long enough to be looked at" * 99)
    assert len(make(store, home).index([photos]).skipped) == 3
    assert "is damaged" in caplog.text
    assert len(make(store, home).index([photos]).unreadable) == 3


def test_file_of_a_newer_version(
    store: QdrantStore, home: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left as it is, and the run is done without it."""
    make(store, home).index([photos])
    with sqlite3.connect(home / FILE) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (home / FILE).read_bytes()
    assert len(make(store, home).index([photos]).skipped) == 3
    assert "a newer warmclip" in caplog.text
    assert (home / FILE).read_bytes() == before


def test_home_that_cannot_be_written(
    store: QdrantStore, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is remembered, and everything is indexed."""
    (tmp_path / "file").touch()
    report = make(store, tmp_path / "file" / "home").index([photos])
    assert (report.indexed, len(report.skipped)) == (1, 3)
    assert "refused files are not remembered" in caplog.text


def test_writers_at_once(home: Path) -> None:
    """Each one's refusals are there in the end."""
    locations = [
        Location(id="0" * 32, path=f"/{number}.png", size_bytes=1, mtime_ns=2, device=3)
        for number in range(40)
    ]

    def add(location: Location) -> None:
        Refusals(home, fingerprint="a", limits=Limits()).add({location: f"why {location.path}"})

    threads = [threading.Thread(target=add, args=(it,)) for it in locations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Refusals(home, fingerprint="a", limits=Limits()).find(locations)
    assert found == {it.path: f"why {it.path}" for it in locations}
    assert Refusals(home, fingerprint="b", limits=Limits()).find(locations) == {}
    assert Refusals(home, fingerprint="a", limits=LIMITS).find(locations) == {}


def test_audit(store: QdrantStore, home: Path, photos: Path) -> None:
    """What no repair would mend is named, and counts for nothing: neither for a file that never was
    a picture, nor for one that no longer is.
    """
    was_good = draw(photos / "was-good.png", 4)
    indexer = make(store, home)
    indexer.index([photos])
    was_good.write_bytes(b"overwritten")
    (photos / "new.jpg").write_bytes(b"no picture either")

    def look() -> AuditReport:
        return audit_folders(store, "images", [photos], limits=LIMITS, home=home)

    report = look()
    assert [it.path for it in report.missing] == [str(photos / "new.jpg")]
    assert [it.path for it in report.stale] == [str(was_good)]
    assert (len(report.unreadable), report.exit_code) == (3, 1)
    repaired = repair_collection(store, report, indexer.index_files, home=home)
    assert repaired.exit_code == 1  # it is news that these two cannot be read
    report = look()
    assert (report.missing, report.stale, report.exit_code) == ((), (), 0)
    assert len(report.unreadable) == 5


def test_commands(photos: Path, demo_bundle: Path) -> None:
    """Told at first, then known: index ends with 1, then 0; so does audit, and says which."""
    model = {"WARMCLIP_BUNDLE": str(demo_bundle), "WARMCLIP_MAX_IMAGE_BYTES": "2000000"}
    assert run("index", photos, **model).returncode == 1
    again = run("index", photos, **model)
    assert again.returncode == 0
    assert "3 unreadable as before (--retry-unreadable reads them again)" in again.stdout
    audit = run("audit", "images", photos, "--json", **model)
    assert audit.returncode == 0, audit.stdout
    assert len(json.loads(audit.stdout)["unreadable"]) == 3
    assert run("index", photos, "--retry-unreadable", **model).returncode == 1
