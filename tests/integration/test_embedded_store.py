"""The embedded store when something goes wrong: kills, time-outs, torn files, a full disk."""

import json
import os
import pickle
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from running import eventually, start_python
from small_disk import small_disk
from standins.points import DIM, OTHER, SPACE, point, vector
from warmclip.errors import StoreDamaged, StoreError, StoreHeld
from warmclip.store.embedded_lock import lock_store
from warmclip.store.filter import Filter
from warmclip.store.protocol import Point, Space, collection_of
from warmclip.store.qdrant import QdrantStore

MB = 1024 * 1024


def paths(store: QdrantStore, name: str = "images", folder: str | None = None) -> list[str]:
    """What is stored, sorted."""
    return sorted(it.payload.path for it in store.scroll(name, only=Filter(folder=folder)))


def expected(numbers: Sequence[int]) -> list[str]:
    """The paths of these points, sorted."""
    return sorted(point(number).payload.path for number in numbers)


def check_whole(store: QdrantStore, numbers: Sequence[int]) -> None:
    """Exactly these points are stored, each with its own vector, and found by every way."""
    by_id = {it.id: it for it in store.scroll("images", with_vectors=True)}
    assert sorted(by_id) == sorted(point(number).id for number in numbers)
    for number in numbers:
        made = point(number)
        there = by_id[made.id]
        assert there.payload == made.payload
        assert there.vector is not None
        np.testing.assert_allclose(there.vector, vector(number), atol=1e-6)
    hits = store.search("images", SPACE, vector(0), limit=len(numbers) + 1)
    assert {hit.id for hit in hits} == set(by_id)
    assert paths(store, folder="/photos/3") == expected([it for it in numbers if it % 10 == 3])


_WRITE_UNTIL_KILLED = """
import sys
from itertools import count
from pathlib import Path
from standins.points import SPACE, point
from warmclip.store.qdrant import QdrantStore

store = QdrantStore.embedded(Path(sys.argv[1]))
store.ensure_collection("images", SPACE)
for number in count():
    store.upsert("images", [point(5 * number + it) for it in range(5)])
    print(5 * number + 5, flush=True)
"""


@pytest.mark.parametrize("least", [5, 500, 5000])
def test_killed_while_writing(tmp_path: Path, least: int) -> None:
    """What was acknowledged is there, before the first flush and after it."""
    folder = tmp_path / "qdrant"
    with start_python(_WRITE_UNTIL_KILLED, folder) as child:
        assert child.stdout is not None
        acknowledged = 0
        while acknowledged < least:
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        for line in child.stdout:
            acknowledged = int(line)
    with QdrantStore.embedded(folder) as store:
        written = len(paths(store))
        assert written in (acknowledged, acknowledged + 5)  # the last answer may be lost
        check_whole(store, range(written))


_STEPS = """
import os
import signal
import sys
from pathlib import Path
from standins.points import OTHER, SPACE, point
from warmclip.store.qdrant import QdrantStore

left = int(sys.argv[2])

def die(event, arguments):
    global left
    if event in ("os.rename", "os.mkdir", "shutil.rmtree"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

store = QdrantStore.embedded(Path(sys.argv[1]))
sys.addaudithook(die)
store.ensure_collection("images", SPACE)
store.upsert("images", [point(1)])
staged = store.create_collection("images", OTHER)
store.upsert(staged, [point(2, OTHER)])
former = store.switch_alias("images", OTHER.fingerprint)
store.delete_collection(former)
store.close()
"""


def test_killed_at_every_step(tmp_path: Path) -> None:
    """Wherever a process dies while it makes, switches and deletes collections: the next one
    finds a store that leads to one of the two spaces, and completes the work.
    """
    for step in range(1, 200):
        folder = tmp_path / f"{step}"
        with start_python(_STEPS, folder, step) as child:
            child.communicate()
        with QdrantStore.embedded(folder) as store:
            if child.returncode == -signal.SIGKILL and store.list_names() != ("images",):
                assert store.list_names() == ()
                store.ensure_collection("images", SPACE)
            in_use = store.list_generations("images")[0].fingerprint
            assert in_use in (SPACE.fingerprint, OTHER.fingerprint)
            if in_use == SPACE.fingerprint:
                store.ensure_collection("images", SPACE)
                store.create_collection("images", OTHER)
                former = store.switch_alias("images", OTHER.fingerprint)
                assert former is not None
                store.delete_collection(former)
            store.upsert("images", [point(2, OTHER)])
            assert paths(store) == expected([2])
        assert [it.name for it in (folder / "shards").iterdir() if it.name[0] == "."] == []
        if child.returncode == 0:
            break
    assert child.returncode == 0
    assert step > 10


class _Alarm(Exception):
    """What RQ's time-out raises, wherever the main thread is."""


# An alarm may also strike in a callback of the garbage collector, as hypothesis has one.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_alarm_at_any_moment(tmp_path: Path) -> None:
    """Whoever is interrupted while the store works leaves it whole: every write is done or not,
    and every later answer is right. So it is for 150 interruptions.
    """

    def ring(_signum: int, _frame: FrameType | None) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGALRM, ring)
    moments = random.Random(17)
    turn = struck = 0
    try:
        with QdrantStore.embedded(tmp_path / "qdrant") as store:
            store.ensure_collection("images", SPACE)
            while struck < 150:
                turn += 1
                batch = [point(number) for number in range(turn % 40, 200, 7)]
                try:
                    signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.0002, 0.02))
                    store.upsert("images", batch)
                    store.search("images", SPACE, vector(turn), limit=5)
                    store.delete_unchanged("images", batch[:2])
                    store.ensure_collection(f"another-{turn % 3}", SPACE)
                    list(store.scroll("images", with_vectors=True))
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except _Alarm:
                    struck += 1
                hits = store.search("images", SPACE, vector(turn), limit=300)
                assert {hit.id for hit in hits} == {it.id for it in store.scroll("images")}
            store.upsert("images", [point(number) for number in range(200)])
            check_whole(store, range(200))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        check_whole(store, range(200))


def test_no_thread_stands_still(tmp_path: Path) -> None:
    """The engine holds Python's lock while it works, so its calls are short: of 20,000 points
    that are written, flushed, searched, read, deleted and closed, no call keeps a ticking thread
    from running for long, by this process's own computing.
    """
    space = Space(fingerprint="ab" * 32, dim=512)
    rows = np.random.default_rng(0).standard_normal((20_000, space.dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    longest = 0.0
    over = threading.Event()

    def tick() -> None:
        nonlocal longest
        last = time.process_time()
        while not over.is_set():
            time.sleep(0.002)
            now = time.process_time()  # waiting for a busy machine or disk is none of the store's
            longest = max(longest, now - last)
            last = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        with QdrantStore.embedded(tmp_path / "qdrant") as store:
            store.ensure_collection("images", space)
            for start in range(0, len(rows), 256):
                chunk = range(start, min(start + 256, len(rows)))
                points = (
                    Point(id=it.id, vector=rows[number], payload=it.payload)
                    for number, it in ((number, point(number, space)) for number in chunk)
                )
                store.upsert("images", list(points))
            for folder in (None, "/photos", "/photos/3"):
                store.search("images", space, rows[7], limit=100, only=Filter(folder=folder))
            everything = list(store.scroll("images"))
            store.delete_unchanged("images", everything[:2000])
            store.revision("images")
    finally:
        over.set()
        ticking.join()
    assert longest < 1.0  # on a busy machine; building an index would take 10 s


def test_qdrant_client_is_not_imported(tmp_path: Path) -> None:
    """An embedded store does without the client of servers, which takes a second to import."""
    program = """
import sys
from pathlib import Path
from standins.points import SPACE, point, vector
from warmclip.store.qdrant import QdrantStore

with QdrantStore.embedded(Path(sys.argv[1])) as store:
    store.ensure_collection("images", SPACE)
    store.upsert("images", [point(1)])
    store.search("images", SPACE, vector(1), limit=1)
print([name for name in ("qdrant_client", "httpx", "grpc", "pydantic") if name in sys.modules])
"""
    with start_python(program, tmp_path / "qdrant") as child:
        assert child.communicate()[0] == "[]\n"


def test_refused_opener_harms_nothing(tmp_path: Path) -> None:
    """The engine would fail its owner's next flush if a second process so much as tried to open
    the folder: it is refused before that.
    """
    folder = tmp_path / "qdrant"
    with QdrantStore.embedded(folder) as store:
        store.ensure_collection("images", SPACE)
        store.upsert("images", [point(number) for number in range(100)])
        program = """
import sys
from pathlib import Path
from warmclip.errors import StoreHeld
from warmclip.store.qdrant import QdrantStore

try:
    QdrantStore.embedded(Path(sys.argv[1]))
except StoreHeld:
    print("held")
"""
        with start_python(program, folder) as child:
            assert child.communicate()[0] == "held\n"
        store.upsert("images", [point(number) for number in range(100, 5000)])
        check_whole(store, range(5000))
    with QdrantStore.embedded(folder) as store:
        check_whole(store, range(5000))


def is_free(folder: Path) -> bool:
    """Whether nobody owns a store."""
    try:
        os.close(lock_store(folder))
    except StoreHeld:
        return False
    return True


def test_closed_by_a_process_that_is_to_end(tmp_path: Path) -> None:
    """Others are served; and they own the store, with all that was written, though it runs on."""
    program = """
import sys
from pathlib import Path
from standins.points import SPACE, point
from warmclip.store.qdrant import QdrantStore

store = QdrantStore.embedded(Path(sys.argv[1]))
store.ensure_collection("images", SPACE)
store.upsert("images", [point(number) for number in range(300)])
store.close(at_exit=True)
print("closed", flush=True)
sys.stdin.read()
"""
    folder = tmp_path / "qdrant"
    with start_python(program, folder) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "closed\n"
        with QdrantStore.remote(folder, take_over=True) as store:
            check_whole(store, range(300))
        eventually(lambda: is_free(folder))
        with QdrantStore.embedded(folder) as store:
            check_whole(store, range(300))
        child.communicate()
        assert child.returncode == 0


def test_used_in_a_forked_child(tmp_path: Path) -> None:
    """It is refused with a sentence instead of waiting for a thread that is not there."""
    program = """
import os
import sys
from pathlib import Path
from standins.points import SPACE
from warmclip.errors import StoreError
from warmclip.store.qdrant import QdrantStore

store = QdrantStore.embedded(Path(sys.argv[1]))
store.ensure_collection("images", SPACE)
if os.fork() == 0:
    try:
        store.list_names()
    except StoreError as exc:
        print(exc, flush=True)
    os._exit(0)
os.wait()
store.close()
"""
    with start_python(program, tmp_path / "qdrant") as child:
        assert "forked child" in child.communicate()[0]


@pytest.mark.parametrize("is_handed_on", [False, True])
def test_forked_child_that_outlives_the_owner(tmp_path: Path, is_handed_on: bool) -> None:
    """The store is free when its owner has died, though a child that it forked still runs."""
    program = """
import os
import sys
import time
from pathlib import Path
from standins.points import SPACE
from warmclip.store.embedded_lock import lock_store
from warmclip.store.qdrant import QdrantStore

folder = Path(sys.argv[1])
store = QdrantStore.embedded(folder, lock_store(folder) if sys.argv[2] == "True" else None)
store.ensure_collection("images", SPACE)
child = os.fork()
if child == 0:
    print("forked", os.getpid(), flush=True)
    time.sleep(600)
os.wait()
"""
    folder = tmp_path / "qdrant"
    with start_python(program, folder, str(is_handed_on)) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline().split()[1])
        try:
            with pytest.raises(StoreHeld):
                lock_store(folder)
            owner.kill()
            owner.wait()
            with QdrantStore.embedded(folder) as store:
                store.ensure_collection("images", SPACE)
                assert store.count_points("images") == 0
        finally:
            os.kill(child, signal.SIGKILL)


def test_file_with_the_number_of_a_deleted_collection(tmp_path: Path) -> None:
    """Children that are forked keep it: only what has a lock of ours is taken from them.

    A folder that is held open keeps its number, as if the next file had got it.
    """
    program = """
import os
import stat
import sys
from pathlib import Path
from standins.points import SPACE
from warmclip.store.qdrant import QdrantStore

folder = Path(sys.argv[1])
with QdrantStore.embedded(folder) as store:
    store.ensure_collection("images", SPACE)
    log = os.open(next(folder.rglob("wal")), os.O_RDONLY)
    for is_deleted in (False, True):
        if is_deleted:
            store.delete_name("images")
        child = os.fork()
        if child == 0:
            os._exit(stat.S_ISDIR(os.fstat(log).st_mode))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    with start_python(program, tmp_path / "qdrant") as child:
        assert child.communicate()[0].split() == ["0", "1"]


def test_lock_that_was_handed_on(tmp_path: Path) -> None:
    """A worker's horse opens the store with its parent's lock. When that fails, the next job can
    try again, and closing leaves the lock with the parent.
    """
    folder = tmp_path / "qdrant"
    lock = lock_store(folder)
    try:
        (folder / "store.json").write_text("{")
        with pytest.raises(StoreDamaged):
            QdrantStore.embedded(folder, lock)
        (folder / "store.json").unlink()
        for _ in range(2):
            with QdrantStore.embedded(folder, lock) as store:
                store.ensure_collection("images", SPACE)
            with pytest.raises(StoreHeld):
                lock_store(folder)
    finally:
        os.close(lock)
    os.close(lock_store(folder))


def test_files_of_the_system_among_ours(stored: Path) -> None:
    """A file manager's notes are neither collections nor leftovers."""
    (stored / "shards" / ".DS_Store").write_text("")
    (stored / "shards" / "Thumbs.db").write_text("")
    with QdrantStore.embedded(stored) as store:
        assert store.list_names() == ("images", "whole")
        assert len(store.list_generations("images")) == 1
        check_whole(store, range(500))


def test_used_after_close(tmp_path: Path) -> None:
    """It is refused."""
    store = QdrantStore.embedded(tmp_path / "qdrant")
    store.ensure_collection("images", SPACE)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.upsert("images", [point(1)])


def test_disk_full(tmp_path: Path) -> None:
    """Writing stops with a sentence before the engine's mapped files would kill the process;
    what is stored is still found, and with room again the same work goes on.
    """
    with small_disk(tmp_path / "disk", 400) as disk:
        with QdrantStore.embedded(disk.folder / "qdrant") as store:
            store.ensure_collection("images", SPACE)
            store.upsert("images", [point(number) for number in range(100)])
            disk.fill(50 * MB)
            with pytest.raises(StoreError, match="free space"):
                store.upsert("images", [point(100)])
            with pytest.raises(StoreError, match="free space"):
                store.ensure_collection("another", SPACE)
            check_whole(store, range(100))
        with QdrantStore.embedded(disk.folder / "qdrant") as store:
            check_whole(store, range(100))
            disk.empty()
            store.upsert("images", [point(100)])
            store.ensure_collection("another", SPACE)
            check_whole(store, range(101))


def test_first_write_meets_a_full_disk(tmp_path: Path) -> None:
    """Nothing half-made is left that a later run would take for a store."""
    with small_disk(tmp_path / "disk", 400) as disk:
        disk.fill(30 * MB)
        with (
            QdrantStore.embedded(disk.folder / "qdrant") as store,
            pytest.raises(StoreError, match="free space"),
        ):
            store.ensure_collection("images", SPACE)
        disk.empty()
        with QdrantStore.embedded(disk.folder / "qdrant") as store:
            store.ensure_collection("images", SPACE)
            store.upsert("images", [point(1)])
            check_whole(store, [1])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The folder of a store of two collections, 500 points each, closed."""
    folder = tmp_path / "qdrant"
    with QdrantStore.embedded(folder) as store:
        for name in ("images", "whole"):
            store.ensure_collection(name, SPACE)
            store.upsert(name, [point(number) for number in range(500)])
    return folder


def only_file(folder: Path, pattern: str) -> Path:
    """The one file of the collection that a pattern leads to."""
    collection = folder / "shards" / collection_of("images", SPACE.fingerprint)
    (file,) = collection.glob(pattern)
    return file


DAMAGES: dict[str, tuple[str, Callable[[Path], None], bool]] = {
    # what is torn -> the file, how, and whether its points can be read
    "segment": ("segments/*/segment.json", Path.unlink, False),
    "configuration": ("edge_config.json", lambda it: os.truncate(it, 20), False),
    "log": ("wal/first-index", lambda it: os.truncate(it, 5), False),
    "ids": ("segments/*/mutable_id_tracker.mappings", lambda it: os.truncate(it, 5000), True),
    "payloads": ("segments/*/payload_storage/page_0.dat", Path.unlink, False),
    "vectors": ("segments/*/vector_storage/vectors/chunk_0.mmap", Path.unlink, False),
}


@pytest.mark.parametrize(("pattern", "tear", "readable"), DAMAGES.values(), ids=DAMAGES)
def test_torn_file(
    stored: Path, pattern: str, tear: Callable[[Path], None], readable: bool
) -> None:
    """The collection is named with the way out, others go on, nothing is taken for an empty
    collection; a rebuild keeps what can be read, and the damaged files.
    """
    tear(only_file(stored, pattern))
    with QdrantStore.embedded(stored) as store:
        for attempt in (
            lambda: store.search("images", SPACE, vector(1), limit=5),
            lambda: store.ensure_collection("images", SPACE),
            lambda: store.upsert("images", [point(1)]),
        ):
            with pytest.raises(StoreDamaged, match="collections rebuild images") as caught:
                attempt()
            assert caught.value.collection == collection_of("images", SPACE.fingerprint)
            assert str(stored) in str(caught.value)
        assert paths(store, "whole") == expected(range(500))
        salvage = store.rebuild_collection("images", SPACE)
        assert Path(salvage.set_aside).is_dir()
        assert bool(salvage.kept) == readable
        assert salvage.kept + (salvage.lost or 0) == 500
        assert len(paths(store)) == salvage.kept
        store.upsert("images", [point(number) for number in range(500)])
        check_whole(store, range(500))
    with QdrantStore.embedded(stored) as store:
        check_whole(store, range(500))


def test_missing_points_are_counted(stored: Path) -> None:
    """The engine opens files that lost their end without a word: the store says how many."""
    os.truncate(only_file(stored, "segments/*/mutable_id_tracker.mappings"), 5000)
    with (
        QdrantStore.embedded(stored) as store,
        pytest.raises(StoreDamaged, match=r"\d+ of 500 pictures are missing"),
    ):
        paths(store)


def test_torn_payload_index(stored: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is made anew from the payloads, which is told: nothing is lost."""
    for file in (stored / "shards").glob("images__*/segments/*/payload_index/*/has_values/*.dat"):
        os.truncate(file, 0)
    with QdrantStore.embedded(stored) as store:
        check_whole(store, range(500))
    assert "made anew" in caplog.text


def test_optimized(tmp_path: Path) -> None:
    """The room of deleted points is given back; what is left is whole, also when opened again."""
    folder = tmp_path / "qdrant"
    with QdrantStore.embedded(folder) as store:
        store.ensure_collection("images", SPACE)
        points = [point(number) for number in range(3000)]
        store.upsert("images", points)
        first = store.optimize_collection("images")
        assert first is not None
        store.delete_unchanged("images", points[500:])
        second = store.optimize_collection("images")
        assert second is not None
        assert second.size_bytes < first.size_bytes
        third = store.optimize_collection("images")
        assert third is not None
        assert not third.done
        check_whole(store, range(500))
        store.upsert("images", points[500:600])
        check_whole(store, range(600))
    with QdrantStore.embedded(folder) as store:
        check_whole(store, range(600))


def test_left_by_a_killed_optimize(stored: Path) -> None:
    """What was written of an index goes: it may be as large as the collection."""
    for shard in (stored / "shards").iterdir():
        (shard / "temp_segments" / "half").mkdir(parents=True)
        (shard / "temp_segments" / "half" / "vectors").write_bytes(bytes(1000))
    with QdrantStore.embedded(stored) as store:
        for name in store.list_names():
            assert store.count_points(name)
    assert not list(stored.rglob("temp_segments/half"))


def test_store_of_a_newer_format(stored: Path) -> None:
    """It is refused with a sentence, and left as it is."""
    file = stored / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 3}))
    with pytest.raises(StoreError, match=r"format 3.*update warmclip"):
        QdrantStore.embedded(stored)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))
    with QdrantStore.embedded(stored) as store:
        check_whole(store, range(500))


def test_names_are_torn(stored: Path) -> None:
    """The pictures are found again by the way that the message names."""
    file = stored / "store.json"
    file.write_text(file.read_text()[:20])
    with pytest.raises(StoreDamaged, match=re.escape(str(file))):
        QdrantStore.embedded(stored)
    file.unlink()
    with QdrantStore.embedded(stored) as store:
        store.ensure_collection("images", SPACE)
        check_whole(store, range(500))


def make_former_store(folder: Path) -> None:
    """A store as warmclip kept it until it used the engine: two collections and a staged one."""
    from qdrant_client import QdrantClient, models

    from warmclip.store.folder_keys import FOLDERS_FIELD
    from warmclip.store.payload import to_json

    folder.mkdir(mode=0o700)
    client = QdrantClient(path=str(folder))
    for name, space, numbers in (
        ("images", SPACE, range(300)),
        ("images", OTHER, range(20)),
        ("second", SPACE, range(5)),
    ):
        collection = collection_of(name, space.fingerprint)
        client.create_collection(
            collection, models.VectorParams(size=DIM, distance=models.Distance.COSINE)
        )
        for number in numbers:
            made = point(number, space)
            payload = to_json(made.payload)
            del payload[FOLDERS_FIELD]
            struct = models.PointStruct(id=made.id, vector=vector(number).tolist(), payload=payload)
            client.upsert(collection, [struct])
        if space is SPACE:
            alias = models.CreateAlias(collection_name=collection, alias_name=name)
            client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    client.close()


@pytest.fixture(scope="module")
def former_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: it is slow."""
    folder = tmp_path_factory.mktemp("former") / "qdrant"
    make_former_store(folder)
    return folder


@pytest.fixture
def former(former_store: Path, tmp_path: Path) -> Path:
    """A copy of a store of the former format."""
    return Path(shutil.copytree(former_store, tmp_path / "qdrant"))


def check_converted(store: QdrantStore) -> None:
    """All of ``make_former_store`` is there."""
    assert store.list_names() == ("images", "second")
    check_whole(store, range(300))
    staged = collection_of("images", OTHER.fingerprint)
    assert paths(store, staged) == expected(range(20))
    assert paths(store, "second", folder="/photos/3") == expected([3])


def test_former_format(former: Path) -> None:
    """It is converted once, with progress: points, vectors, names and what was staged."""
    told: list[tuple[int, int, str]] = []
    with QdrantStore.embedded(former, progress=lambda *it: told.append(it)) as store:
        check_converted(store)
    assert told[-1] == (325, 325, "converting the store")
    assert not (former / "meta.json").exists()
    assert not (former / "collection").exists()
    told.clear()
    with QdrantStore.embedded(former, progress=lambda *it: told.append(it)) as store:
        check_converted(store)
    assert told == []


def test_names_are_lost_after_the_conversion(former: Path) -> None:
    """Whoever deletes ``store.json``, as the message about a torn one says, loses no pictures,
    even if an older warmclip has begun a store of its own in the same folder meanwhile.
    """
    QdrantStore.embedded(former).close()
    (former / "store.json").unlink()
    (former / "meta.json").write_text('{"collections": {}, "aliases": {}}')
    with QdrantStore.embedded(former) as store:
        store.ensure_collection("images", SPACE)
        check_whole(store, range(300))


_CONVERT = """
import os
import signal
import sys
from pathlib import Path
from warmclip.store.qdrant import QdrantStore

left = int(sys.argv[2])

def die(event, arguments):
    global left
    if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def count(done, total, stage):
    if done == left:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
QdrantStore.embedded(Path(sys.argv[1]), progress=count).close()
"""


@pytest.mark.parametrize("step", [1, 2, 4, 8, *range(12, 24, 2), 128, 300])
def test_killed_while_converting(former: Path, step: int) -> None:
    """Wherever it dies, and dies again, the next process has all of it."""
    for _ in range(2):
        with start_python(_CONVERT, former, step) as child:
            child.communicate()
    with QdrantStore.embedded(former) as store:
        check_converted(store)
    assert sorted(it.name for it in former.iterdir()) == [".owner", "shards", "store.json"]


def test_disk_full_while_converting(former_store: Path, tmp_path: Path) -> None:
    """The former store stays as it is, and is converted when there is room."""
    with small_disk(tmp_path / "disk", 500) as disk:
        folder = Path(shutil.copytree(former_store, disk.folder / "qdrant"))

        def fill(done: int, _total: int, _stage: str) -> None:
            if done >= 128:
                disk.fill(40 * MB)

        with pytest.raises(StoreError, match="free space"):
            QdrantStore.embedded(folder, progress=fill)
        disk.empty()
        with QdrantStore.embedded(folder) as store:
            check_converted(store)


@pytest.mark.parametrize("file", ["meta.json", "collection/images__*/storage.sqlite"])
def test_torn_former_store(former: Path, file: str) -> None:
    """It is refused with the way out, and left as it is, every time."""
    torn = next(iter(former.glob(file)))
    os.truncate(torn, torn.stat().st_size // 2)
    before = torn.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=f"{re.escape(str(former))} away"):
            QdrantStore.embedded(former)
    assert torn.read_bytes() == before


def test_former_store_with_code_in_it(former: Path) -> None:
    """A row that would run code when it is unpickled is refused, and runs none."""
    import sqlite3
    from contextlib import closing

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {former}/ran",)

    (file,) = former.glob(f"collection/second__{SPACE.fingerprint}/storage.sqlite")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE points SET point = ?", (pickle.dumps(Evil()),))
        connection.commit()
    with pytest.raises(StoreDamaged):
        QdrantStore.embedded(former)
    assert not (former / "ran").exists()
