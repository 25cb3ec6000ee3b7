"""What lies below a path is forgotten: with its former vectors, without its disk, after a kill."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pictures import draw
from running import Running, environment_of, reason, run, running_worker
from serving import running_server
from standins.pixels import PixelEncoder
from standins.points import OTHER, SPACE, point
from warmclip.errors import NotStored
from warmclip.indexing.files import Location
from warmclip.indexing.forgetting import forget_pictures
from warmclip.indexing.indexer import Indexer
from warmclip.indexing.refusals import Refusals
from warmclip.settings import Limits, Settings
from warmclip.store.qdrant import QdrantStore


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders whose names begin alike, four pictures in each, and one beside them."""
    folder = tmp_path / "photos"
    for number in range(8):
        draw(folder / ("trip" if number < 4 else "trip-2") / f"{number}.png", number)
    draw(folder / "8.png", 8)
    return folder


def names(store: QdrantStore, collection: str = "images") -> list[str]:
    """The files that are stored."""
    return sorted(Path(it.payload.path).name for it in store.scroll(collection))


BESIDE = [f"{number}.png" for number in range(4, 9)]


@pytest.mark.parametrize("is_there", [True, False])
def test_folder(store: QdrantStore, photos: Path, is_there: bool) -> None:
    """What lies below it is forgotten, and nothing whose path only begins alike; the files stay."""
    Indexer(PixelEncoder(), store).index([photos])
    if not is_there:
        shutil.rmtree(photos)
    trip = str(photos / "trip")
    counted = forget_pictures(store, "images", [trip], dry_run=True)
    assert (counted.pictures, len(names(store))) == (4, 9)
    report = forget_pictures(store, "images", [trip, f"{trip}/1.png"])
    assert (report.pictures, report.kept, report.complete) == (4, 0, True)
    assert names(store) == BESIDE
    assert forget_pictures(store, "images", [trip]).pictures == 0
    assert (photos / "trip" / "0.png").exists() is is_there


def test_files(store: QdrantStore, photos: Path) -> None:
    """Single pictures are forgotten, and nothing beside them."""
    Indexer(PixelEncoder(), store).index([photos])
    named = [f"{photos}/trip/{number}.png" for number in range(4)] + [f"{photos}/none.png"]
    assert forget_pictures(store, "images", named).pictures == 4
    assert names(store) == BESIDE


def test_some_at_once(store: QdrantStore, photos: Path) -> None:
    """A call that may delete so many says whether there are more, until none is left."""
    Indexer(PixelEncoder(), store).index([photos])
    reports = [forget_pictures(store, "images", [str(photos)], most=4) for _ in range(3)]
    assert [it.pictures for it in reports] == [4, 4, 1]
    assert [it.complete for it in reports] == [False, False, True]


def test_former_vectors(store: QdrantStore, photos: Path) -> None:
    """They go as well, so no forgotten picture comes back with the former model."""
    old, new = (Indexer(PixelEncoder(model), store) for model in "ab")
    old.index([photos])
    new.migrate()
    report = forget_pictures(store, "images", [str(photos / "trip")])
    assert (report.pictures, report.kept) == (4, 4)
    assert [it.points for it in store.list_generations("images")] == [5, 5]
    old.migrate()
    assert names(store) == BESIDE


def test_left_in_former_vectors_alone(store: QdrantStore, photos: Path) -> None:
    """What searches do not find any more is forgotten there too."""
    old, new = (Indexer(PixelEncoder(model), store) for model in "ab")
    old.index([photos])
    new.migrate()
    store.delete_points("images", [it.id for it in store.scroll("images")])
    report = forget_pictures(store, "images", [str(photos / "trip")])
    assert (report.pictures, report.kept) == (0, 4)


def test_stored_again_a_moment_ago(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's word is what counts: a picture that changed since it was looked for goes too."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    delete = store.delete_points

    def too_late(collection: str, ids: list[str]) -> None:
        draw(photos / "trip" / "1.png", 77)
        assert indexer.index([photos]).indexed == 1
        delete(collection, ids)

    monkeypatch.setattr(store, "delete_points", too_late)
    forget_pictures(store, "images", [str(photos / "trip")])
    assert names(store) == BESIDE


@pytest.mark.skipif(sys.platform == "darwin", reason="APFS takes no such name")
def test_name_that_is_not_utf8(store: QdrantStore, photos: Path) -> None:
    """A folder is named by its bytes."""
    strange = photos / os.fsdecode(b"caf\xe9")
    draw(strange / "a.png", 30)
    Indexer(PixelEncoder(), store).index([photos])
    assert forget_pictures(store, "images", [str(strange)]).pictures == 1
    assert len(names(store)) == 9


def test_remembered_refusals(store: QdrantStore, photos: Path, tmp_path: Path) -> None:
    """Why files below the path could not be read is forgotten for every model; others stay."""
    Indexer(PixelEncoder(), store).index([photos])
    inside = [photos / "trip" / "x.png", photos / "trip" / "y" / "z"]
    beside = [photos / "trip-2" / "x.png", photos / "tripod" / "x.png"]
    locations = [
        Location(id=str(number), path=str(spot), size_bytes=1, mtime_ns=1, device=1)
        for number, spot in enumerate(inside + beside)
    ]
    remembered = [
        Refusals(tmp_path, fingerprint=model * 64, limits=Limits()) for model in ("a", "b")
    ]
    for it in remembered:
        it.add(dict.fromkeys(locations, "no picture"))
    forget_pictures(store, "images", [str(photos / "trip")], home=tmp_path, dry_run=True)
    assert len(remembered[0].find(locations)) == 4
    report = forget_pictures(store, "images", [str(photos / "trip")], home=tmp_path)
    assert report.refused == 4
    assert [set(it.find(locations)) for it in remembered] == [set(map(str, beside))] * 2


def test_collection_that_is_not_there(store: QdrantStore) -> None:
    """It is said."""
    with pytest.raises(NotStored):
        forget_pictures(store, "images", ["/photos"])


_FORGET = """
import os
import signal
import sys
from pathlib import Path
from warmclip.indexing import forgetting
from warmclip.store.qdrant import QdrantStore

left = int(sys.argv[2])
forgetting._BATCH = 3
with QdrantStore.embedded(Path(sys.argv[1])) as store:
    update = type(store._engine).delete

    def delete(*args):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        update(*args)
        left -= 1

    type(store._engine).delete = delete
    forgetting.forget_pictures(store, "images", ["/photos/3"])
"""


@pytest.mark.parametrize("step", [0, 1, 3, 4, 5, 7])
def test_killed(tmp_path: Path, step: int) -> None:
    """Each picture is there whole, or gone; the same command completes the work."""
    folder = tmp_path / "qdrant"
    with QdrantStore.embedded(folder) as store:
        store.ensure_collection("images", SPACE)
        store.upsert("images", [point(number) for number in range(100)])
        staged = store.create_collection("images", OTHER)
        store.upsert(staged, [point(number, OTHER) for number in range(100)])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _FORGET, str(folder), str(step)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    with QdrantStore.embedded(folder) as store:
        gone = 3 * step
        assert len(list(store.scroll(staged))) == 100 - min(gone, 10)
        assert len(list(store.scroll("images"))) == 100 - max(0, 3 * (step - 4))
        for it in store.scroll("images", with_vectors=True):
            assert it.payload == point(int(Path(it.payload.path).stem)).payload
            assert np.isclose(np.linalg.norm(it.vector), 1)  # type: ignore[arg-type]  # asked for
        forget_pictures(store, "images", ["/photos/3"])
        for collection in ("images", staged):
            paths = [it.payload.path for it in store.scroll(collection)]
            assert len(paths) == 90
            assert not any(path.startswith("/photos/3/") for path in paths)


@pytest.fixture
def demo_model(monkeypatch: pytest.MonkeyPatch, demo_bundle: Path) -> None:
    """Commands run the demo model."""
    monkeypatch.setenv("WARMCLIP_BUNDLE", str(demo_bundle))


def answer(*arguments: str | Path, expected: int = 0) -> Any:
    """A command's answer in JSON."""
    done = run(*arguments, "--json")
    assert done.returncode == expected, done.stderr
    return json.loads(done.stdout)


@pytest.mark.usefixtures("demo_model")
def test_command(photos: Path) -> None:
    """It counts, asks, and forgets; nothing is forgotten where nobody can be asked."""
    answer("index", photos)
    shutil.rmtree(photos / "trip")
    refused = run("forget", photos / "trip")
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert "Forget 4 pictures of 'images' at or below" in said
    assert "--yes" in said
    assert answer("forget", photos / "trip", "--dry-run")["pictures"] == 4
    assert answer("forget", photos / "trip", "--yes")["pictures"] == 4
    again = run("forget", photos / "trip")
    assert again.returncode == 0
    assert "nothing of 'images' is stored at or below" in again.stdout
    assert answer("forget", photos / "x" / ".." / "8.png", "--yes")["pictures"] == 1
    link = photos / "link"
    link.symlink_to("trip-2")
    assert f"leads to {photos}/trip-2" in run("forget", link, "--yes").stdout
    assert answer("collections", "list")["collections"][0]["points"] == 4


@pytest.mark.usefixtures("demo_model")
@pytest.mark.parametrize(("says", "left"), [("y\n", 5), ("n\n", 9), ("\n", 9)])
def test_question(photos: Path, says: str, left: int) -> None:
    """Somebody at a terminal is asked; only "y" forgets."""
    answer("index", photos)
    terminal, theirs = pty.openpty()
    os.write(terminal, says.encode())
    command = [sys.executable, "-m", "warmclip.cli", "forget", str(photos / "trip")]
    done = subprocess.run(
        command, stdin=theirs, capture_output=True, text=True, timeout=120, check=False
    )
    os.close(terminal)
    os.close(theirs)
    assert "[y/N]" in done.stderr
    assert done.returncode == (0 if left == 5 else 2)
    assert answer("collections", "list")["collections"][0]["points"] == left


@pytest.fixture
def rooted(tmp_path: Path, photos: Path, demo_bundle: Path) -> dict[str, str]:
    """What server and worker are told: their root is a link."""
    (tmp_path / "disk").symlink_to(photos)
    home = tmp_path / "serve" / "home"
    return environment_of(home, demo_bundle, WARMCLIP_ROOTS=str(tmp_path / "disk"))


@pytest.fixture
def worker(rooted: dict[str, str], photos: Path) -> Iterator[Running]:
    """A worker that has the pictures."""
    assert run("index", photos, **rooted).returncode == 0
    with running_worker(Settings.from_env(rooted), rooted) as worker:
        yield worker


@pytest.mark.usefixtures("server_binary")
def test_by_a_worker(worker: Running, rooted: dict[str, str], photos: Path, tmp_path: Path) -> None:
    """A worker that holds the store does it, within its roots; so it is over HTTP."""
    for outside in (str(tmp_path), "/", f"{photos}-2", f"{photos}/../x"):
        refused = worker.run("warmclip.work.jobs.forget_images", [outside], "images")
        assert "JobRefused" in reason(refused)
    done = run("forget", photos / "trip", "--yes", **rooted)
    assert done.returncode == 0, done.stderr
    assert "4 pictures" in done.stdout
    with running_server(rooted) as served:

        def post(**body: Any) -> Any:
            return served.client.post("/api/v1/forget", json=body)

        disk = str(tmp_path / "disk")  # the root as it is named, whose files are stored elsewhere
        counted = post(paths=[f"{disk}/trip-2"], dry_run=True)
        assert counted.status_code == 200, counted.text
        assert counted.json() == {
            "collection": "images",
            "pictures": 4,
            "kept": 0,
            "refused": 0,
            "complete": True,
        }
        assert post(paths=[f"{disk}/trip-2"]).json()["pictures"] == 4
        assert post(paths=[disk], dry_run=True).json()["pictures"] == 1
        for paths, status in (([str(tmp_path)], 403), ([], 422), ([""], 422), (["trip"], 422)):
            refused = post(paths=paths)
            assert (refused.status_code, len(refused.json()["detail"]) > 20) == (status, True)
        assert post(paths=[disk], collection="none").status_code == 404
        assert post(paths=[disk], dry_run=True).json()["pictures"] == 1
