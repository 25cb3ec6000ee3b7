"""Collections as things: told of, deleted, written into a file."""

import contextlib
import json
import os
import signal
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from running import environment_of, run, running_worker
from standins.dying_store import end_at_step
from standins.points import OTHER, SPACE, point
from standins.redis_server import free_port
from warmclip.errors import NotStored, SettingsError
from warmclip.indexing.collection_info import describe_collection, group_folders
from warmclip.indexing.vector_file import export_collection
from warmclip.settings import Settings
from warmclip.store.qdrant import QdrantStore
from warmclip.work.counters import POINTS, CounterBuffer, read_counters


def fill(store: QdrantStore, count: int = 30, name: str = "images") -> str:
    """Points in a collection, and some that `migrate` left; returns its own name."""
    store.ensure_collection(name, SPACE)
    store.upsert(name, [point(number) for number in range(count)])
    former = store.create_collection(name, OTHER)
    store.upsert(former, [point(number, OTHER) for number in range(5)])
    return former


def answer(*arguments: str | Path, **environment: str) -> Any:
    """A command's answer in JSON."""
    done = run(*arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_described(store: QdrantStore) -> None:
    """What is counted is what is stored."""
    fill(store)
    found = describe_collection(store, "images")
    assert (found.points, found.dim, found.unverified) == (30, 16, 0)
    assert found.providers == {"cpu": 30}
    assert found.folders == {f"/photos/{number}": 3 for number in range(10)}
    assert [it.points for it in found.generations] == [30, 5]
    json.dumps(found.to_dict())


FOLDERS = {"/a/b/c": 1, "/a/b/d": 2, "/a/e": 4, "/f": 8, "/": 16}


@pytest.mark.parametrize(
    ("most", "told"),
    [
        (5, {"/": 16, "/a/b/c": 1, "/a/b/d": 2, "/a/e": 4, "/f": 8}),
        (4, {"/": 16, "/a/b": 3, "/a/e": 4, "/f": 8}),
        (3, {"/": 16, "/a": 7, "/f": 8}),
        (2, {"/": 31}),
        (1, {"/": 31}),
    ],
)
def test_folders_that_are_too_many(most: int, told: dict[str, int]) -> None:
    """They are told with all that lies below them, as deep as the number allows."""
    assert group_folders(FOLDERS, most) == told
    assert group_folders({}, most) == {}


def test_deleted(store: QdrantStore) -> None:
    """Name, vectors and former vectors go; other collections stay; it can be made again."""
    fill(store)
    fill(store, name="images-2")
    own = {f"images__{space.fingerprint}" for space in (SPACE, OTHER)}
    assert set(store.delete_name("images", dry_run=True)) == own
    assert store.list_names() == ("images", "images-2")
    assert set(store.delete_name("images")) == own
    assert store.list_names() == ("images-2",)
    assert len(list(store.scroll("images-2"))) == 30
    with pytest.raises(NotStored, match="did you mean 'images-2'"):
        store.delete_name("images")
    store.ensure_collection("images", OTHER)
    assert list(store.scroll("images")) == []


def test_killed_while_deleting(tmp_path: Path) -> None:
    """Wherever it dies, the collection is whole or gone, and the same command completes it."""
    steps = 0
    for step in range(1, 50):
        folder = tmp_path / f"{step}"
        with QdrantStore.embedded(folder) as store:
            fill(store)
        code = end_at_step(folder, step, 'store.delete_name("images"); store.close()')
        if code == 0:
            break
        assert code == -signal.SIGKILL
        steps += 1
        with QdrantStore.embedded(folder) as store:
            if store.list_names():
                assert len(list(store.scroll("images"))) == 30
            with contextlib.suppress(NotStored):  # all was gone
                store.delete_name("images")
            assert store.list_names() == ()
            assert store._engine.list_collections() == []
    assert steps >= 4


def test_exported(store: QdrantStore, tmp_path: Path) -> None:
    """Numpy reads every vector and payload without pickle, row by row of one picture."""
    fill(store, 600)
    strange = point(7)
    strange_path = os.fsdecode(b"/photos/caf\xe9\n.jpg")
    strange = type(strange)(
        id=strange.id,
        vector=strange.vector,
        payload=type(strange.payload)(
            **{**_fields(strange.payload), "path": strange_path},
        ),
    )
    store.upsert("images", [strange])
    file = tmp_path / "out" / "images.npz"
    file.parent.mkdir()
    assert export_collection(store, "images", file) == 600
    assert [it.name for it in file.parent.iterdir()] == ["images.npz"]
    with np.load(file, allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        ids = [it.decode() for it in arrays["ids"]]
        payloads = [json.loads(line) for line in arrays["payloads"].tobytes().splitlines()]
        vectors = arrays["vectors"]
    assert (about["format"], about["points"], about["dim"]) == (1, 600, 16)
    assert (about["collection"], about["fingerprint"]) == ("images", SPACE.fingerprint)
    assert (vectors.dtype, vectors.shape) == (np.float32, (600, 16))
    stored = {it.id: it for it in store.scroll("images", with_vectors=True)}
    assert sorted(ids) == sorted(stored)
    for id_, payload, vector in zip(ids, payloads, vectors, strict=True):
        np.testing.assert_array_equal(vector, stored[id_].vector)
        assert payload["sha256"] == stored[id_].payload.sha256
        assert "folders" not in payload
    row = payloads[ids.index(strange.id)]
    assert row["path_b64"]


def _fields(payload: Any) -> dict[str, Any]:
    return {name: getattr(payload, name) for name in payload.__slots__}


def test_empty_collection_exported(store: QdrantStore, tmp_path: Path) -> None:
    """It has no rows, and is read like any other."""
    store.ensure_collection("images", SPACE)
    assert export_collection(store, "images", tmp_path / "a.npz") == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert (len(arrays["ids"]), len(arrays["vectors"]), arrays["payloads"].size) == (0, 0, 0)


def test_export_that_is_refused(tmp_path: Path) -> None:
    """A file that is there stays as it was; what failed leaves nothing."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        fill(store)
        taken = tmp_path / "a.npz"
        taken.write_text("mine")
        with pytest.raises(SettingsError, match="--force"):
            export_collection(store, "images", taken)
        assert taken.read_text() == "mine"
        for file, told in ((tmp_path / "a.txt", "npz"), (tmp_path / "none" / "b.npz", "cannot")):
            with pytest.raises(SettingsError, match=told):
                export_collection(store, "images", file)
        with pytest.raises(NotStored):
            export_collection(store, "other", tmp_path / "c.npz")

        def interrupted(_done: int, _total: int, _stage: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export_collection(store, "images", taken, force=True, progress=interrupted)
        assert taken.read_text() == "mine"
        assert export_collection(store, "images", taken, force=True) == 30
        assert zipfile.is_zipfile(taken)
        assert sorted(it.name for it in tmp_path.iterdir()) == ["a.npz", "qdrant"]


def test_file_made_by_another_meanwhile(tmp_path: Path) -> None:
    """It is not overwritten."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        fill(store)
        file = tmp_path / "a.npz"

        def take(_done: int, _total: int, _stage: str) -> None:
            file.write_text("theirs")

        with pytest.raises(SettingsError, match="is there already"):
            export_collection(store, "images", file, progress=take)
        assert file.read_text() == "theirs"


def test_memory_of_an_export(tmp_path: Path) -> None:
    """It does not grow with the collection, but for 36 bytes for each picture."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        store.ensure_collection("images", SPACE)
        peaks = []
        for count in (1_000, 8_000):
            store.upsert("images", [point(number) for number in range(count)])
            tracemalloc.start()
            export_collection(store, "images", tmp_path / f"{count}.npz")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] - peaks[0] < 1_500_000  # 7,000 payloads alone are more


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures in two folders."""
    for number, place in enumerate(("a/1.png", "a/2.png", "b/3.png")):
        file = tmp_path / "photos" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        tiles = np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(tiles).save(file)
    return tmp_path / "photos"


def test_commands(photos: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """info, export and delete from end to end; a worker that holds the store serves them."""
    home = tmp_path / "work" / "home"
    environment = environment_of(home, demo_bundle)
    assert run("index", photos, **environment).returncode == 0
    told = answer("collections", "info", **environment)
    assert (told["points"], told["dim"] > 0, told["model"] is not None) == (3, True, True)
    assert told["folders"] == {f"{photos}/a": 2, f"{photos}/b": 1}
    assert told["engine"]["size_bytes"] > 0
    for_people = run("collections", "info", "images", **environment).stdout
    assert f"{photos}/a" in for_people
    assert "MB" in for_people
    with running_worker(Settings.from_env(environment), environment) as worker:
        assert answer("collections", "info", **environment)["points"] == 3
        file = tmp_path / "all.npz"
        assert answer("collections", "export", "images", "--to", file, **environment)["points"] == 3
        assert run("index", photos, "--collection", "more", **environment).returncode == 0
        counters = CounterBuffer()  # as a worker that has counted them
        counters.keep_points("more", 3)
        counters.keep_points("images", 3)
        counters.flush(worker.connection)
        assert answer("collections", "delete", "more", "--yes", **environment)["deleted"]
        found = read_counters(worker.connection)
        assert {name for name in found if name.startswith(POINTS)} == {f"{POINTS}images"}
        held = run("collections", "optimize", "images", **environment)
        assert held.returncode == 3
        assert "is in use by process" in " ".join(held.stderr.split())
    misspelt = run("collections", "delete", "imagse", "--yes", **environment)
    assert misspelt.returncode == 2
    assert "did you mean 'images'" in " ".join(misspelt.stderr.split())
    assert run("collections", "delete", "", "--yes", **environment).returncode == 2
    asked = run("collections", "delete", "images", **environment)
    assert asked.returncode == 2
    assert "3 pictures" in " ".join(asked.stderr.split())
    assert answer("collections", "delete", "images", "--yes", **environment)["deleted"]
    assert answer("collections", "list", **environment) == {"collections": []}
    assert run("index", photos, **environment).returncode == 0
    (damaged,) = home.rglob("edge_config.json")
    os.truncate(damaged, 20)
    assert "what is left of" in run("collections", "delete", "images", **environment).stderr
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    done = run("collections", "delete", "images", "--yes", **environment | {"REDIS_URL": nobody})
    assert done.returncode == 0
    assert "metrics go on to tell" in " ".join(done.stderr.split())
    assert run("collections", "info", "images", **environment).returncode == 2
