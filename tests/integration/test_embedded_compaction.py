"""Compacting a collection of the embedded store: what is stored, written meanwhile, and found."""

import contextlib
import os
import random
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge

from small_disk import small_disk
from standins.dying_store import end_at_step
from standins.points import DIM, SPACE, point, vector
from warmclip.cli.compaction import compact_if_it_pays
from warmclip.cli.console import Terminal
from warmclip.errors import NotStored, StoreDamaged, StoreError, StoreUnreachable
from warmclip.store import embedded_copy, qdrant
from warmclip.store.embedded_layout import is_cold
from warmclip.store.filter import Filter
from warmclip.store.filters import INDEXED
from warmclip.store.protocol import Point, collection_of
from warmclip.store.qdrant import QdrantStore

MB = 1024 * 1024
COLLECTION = collection_of("images", SPACE.fingerprint)
_DAY = datetime(2026, 1, 1, tzinfo=UTC)


def _moment(day: int) -> int:
    return int((_DAY + timedelta(days=day)).timestamp()) * 10**9


def make(number: int, version: int = 0) -> Point:
    """A point of one of five folders, 30 days and 3 canaries; each version has another vector."""
    made = point(number)
    payload = replace(
        made.payload,
        sha256=f"{number % 50:064x}",
        mtime_ns=_moment(number % 30),
        taken_at=f"2026-01-0{number % 7 + 1}T12:00:00" if number % 2 else "",
        canary=f"canary-{number % 3}" if number % 4 == 0 else "",
        indexed_at=f"2026-11-24T02:00:{version:02}+00:00",
    )
    return replace(made, vector=vector(number + 10_000 * version), payload=payload)


def told(store: QdrantStore) -> dict[str, Any]:
    """All that a user can ask of a collection, in an order of its own."""
    answers: dict[str, Any] = {"count": store.count_points("images")}
    answers["points"] = {
        it.id: (it.payload, [round(float(x), 5) for x in (() if it.vector is None else it.vector)])
        for it in store.scroll("images", with_vectors=True)
    }
    answers["unverified"] = sorted(it.id for it in store.scroll("images", unverified=True))
    digests = [f"{number:064x}" for number in range(0, 50, 7)]
    answers["digests"] = sorted(it.id for it in store.scroll("images", sha256=digests))
    filters = [Filter()]
    filters += [Filter(folder=f"/photos/{number}") for number in (0, 3)]
    filters += [
        Filter(since=date(2026, 1, 2), until=date(2026, 1, 12), by_file_date=by_file)
        for by_file in (False, True)
    ]
    filters.append(Filter(folder="/photos/4", since=date(2026, 1, 5)))
    for only in filters:
        answers[f"{only}"] = sorted(it.id for it in store.scroll("images", only=only))
        for number in (1, 2):
            hits = store.search("images", SPACE, vector(90_000 + number), 20, only)
            answers[f"{only} {number}"] = [(hit.id, round(hit.score, 5)) for hit in hits]
    return answers


def open_store(folder: Path, numbers: range = range(0)) -> QdrantStore:
    """A store with these points."""
    store = QdrantStore.embedded(folder)
    store.ensure_collection("images", SPACE)
    store.upsert("images", [make(number) for number in numbers])
    return store


def change(store: QdrantStore, moves: random.Random, version: int) -> None:
    """What indexing, proving, forgetting and pruning do, with points at random."""
    numbers = moves.sample(range(600), 60)
    match moves.randrange(4):
        case 0:
            store.upsert("images", [make(number, version) for number in numbers])
        case 1:
            there = list(store.scroll("images", unverified=True))
            store.mark_verified("images", moves.sample(there, len(there) // 2))
        case 2:
            there = list(store.scroll("images", ids=[make(number).id for number in numbers]))
            store.delete_unchanged("images", [*there[:20], make(numbers[0], 59)])
        case _:
            below = Filter(folder=f"/photos/{moves.randrange(10)}")
            doomed = [it.id for it in store.scroll("images", only=below)]
            store.delete_points("images", doomed[:10])


@pytest.mark.parametrize("seed", range(4))
def test_as_if_it_were_never_compacted(tmp_path: Path, seed: int) -> None:
    """Whatever is written, proven, forgotten, pruned and asked between compactions, and while the
    store is closed and opened: the answers are those of a store that was never compacted.
    """
    moves = random.Random(seed)
    stores = [open_store(tmp_path / name, range(400)) for name in ("compacted", "plain")]
    for version in range(1, 13):
        state = moves.getstate()
        for store in stores:
            moves.setstate(state)
            change(store, moves, version)
        if moves.random() < 0.5:
            assert stores[0].optimize_collection("images") is not None
        if moves.random() < 0.3:
            stores[0].close()
            stores[0] = QdrantStore.embedded(tmp_path / "compacted")
        assert told(stores[0]) == told(stores[1])
    for store in stores:
        store.close()


def test_written_meanwhile(tmp_path: Path) -> None:
    """What comes while a copy is compacted is in the collection, during and after."""
    with open_store(tmp_path / "compacted", range(300)) as store:
        done: list[int] = []

        def write(*_: object) -> None:
            if not done:
                done.append(1)
                store.upsert("images", [make(number, 1) for number in range(250, 350)])
                store.delete_points("images", [make(number).id for number in range(100)])
                assert store.count_points("images") == 250

        optimized = store.optimize_collection("images", progress=write)
        assert optimized is not None
        assert (optimized.done, optimized.points) == (True, 250)
        with open_store(tmp_path / "plain", range(300)) as plain:
            plain.upsert("images", [make(number, 1) for number in range(250, 350)])
            plain.delete_points("images", [make(number).id for number in range(100)])
            assert told(store) == told(plain)


def test_written_while_the_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until they are, while a search is answered; then it is in the collection."""
    copied = embedded_copy._copy_files
    threads = ThreadPoolExecutor()
    writing = []

    def copy_files(source: Path, target: Path) -> None:
        writing.append(threads.submit(store.upsert, "images", [make(100)]))
        assert not wait(writing, timeout=0.2).done
        assert len(store.search("images", SPACE, vector(1), 200)) == 100
        copied(source, target)

    monkeypatch.setattr(embedded_copy, "_copy_files", copy_files)
    with threads, open_store(tmp_path / "qdrant", range(100)) as store:
        optimized = store.optimize_collection("images")
        writing[0].result()
        assert optimized is not None
        assert optimized.done
        assert store.count_points("images") == 101


def test_writes_keep_their_order_while_the_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody waits for any more is not carried out after what came later: a picture that was
    forgotten meanwhile stays forgotten.
    """
    copied = embedded_copy._copy_files
    folder, threads = tmp_path / "qdrant", ThreadPoolExecutor()
    forgetting = []

    def copy_files(source: Path, target: Path) -> None:
        with QdrantStore.remote(folder, patience_s=0.2) as impatient:
            for number in range(100, 105):
                with pytest.raises(StoreUnreachable):
                    impatient.upsert("images", [make(number)])
        doomed = [make(number).id for number in range(100, 105)]
        forgetting.append(threads.submit(store.delete_points, COLLECTION, doomed))
        assert not wait(forgetting, timeout=0.2).done
        copied(source, target)

    monkeypatch.setattr(embedded_copy, "_copy_files", copy_files)
    with threads, open_store(folder, range(100)) as store:
        store.optimize_collection("images")
        forgetting[0].result()
        assert store.count_points("images") == 100


def test_very_much_is_written_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compaction is given up, and what was written is there."""
    with open_store(tmp_path / "qdrant", range(100)) as store:

        def write(*_: object) -> None:
            for number in range(600):
                store.upsert("images", [make(number)])

        with pytest.raises(StoreError, match="too much was written"):
            store.optimize_collection("images", progress=write)
        assert store.count_points("images") == 600
        assert store.optimize_collection("images") is not None

        def write_late(*_: object, **__: object) -> bool:
            write()
            return True

        # After the last look at how much there is; then it is carried out by pieces.
        monkeypatch.setattr(embedded_copy.CollectionCopy, "compact", write_late)
        with pytest.raises(StoreError, match="too much was written"):
            store.optimize_collection("images")
        assert store.count_points("images") == 600


def test_deleted_and_made_again_meanwhile(tmp_path: Path) -> None:
    """The copy is of something else by then, and is dropped."""
    with open_store(tmp_path / "qdrant", range(100)) as store:

        def replace_it(*_: object) -> None:
            if store.count_points("images") == 100:
                store.delete_name("images")
                store.ensure_collection("images", SPACE)
                store.upsert("images", [make(1)])

        with pytest.raises(StoreError, match="not compacted"):
            store.optimize_collection("images", progress=replace_it)
        assert [it.id for it in store.scroll("images")] == [make(1).id]


def test_others_are_served_meanwhile(tmp_path: Path) -> None:
    """A search of another process is answered, and what it writes is kept; a second compaction is
    refused.
    """
    folder = tmp_path / "qdrant"
    with open_store(folder, range(100)) as store, QdrantStore.remote(folder) as other:
        found = []

        def ask(*_: object) -> None:
            found.append(len(other.search("images", SPACE, vector(1), 200)))
            other.upsert("images", [make(100)])
            with pytest.raises(StoreError, match="already"):
                store.optimize_collection("images")

        store.optimize_collection("images", progress=ask)
        assert found[0] == 100
        assert other.count_points("images") == 101


def test_graph(tmp_path: Path) -> None:
    """It is built when it is asked for, said to be there, and gone when it is not asked for."""
    with open_store(tmp_path / "qdrant", range(300)) as store:
        before = told(store)
        graphs = []
        for with_graph in (False, True, True, False):
            optimized = store.optimize_collection("images", with_graph=with_graph)
            assert optimized is not None
            graphs.append((optimized.done, optimized.had_graph, optimized.has_graph))
        assert graphs == [
            (True, False, False),
            (True, False, True),
            (False, True, True),
            (True, True, False),
        ]
        assert told(store) == before


_OLD_KINDS: dict[str, edge.PayloadSchemaType | edge.IntegerIndexParams] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.IntegerIndexParams(lookup=False, range=True),
}


def make_former(folder: Path) -> None:
    """Let a store's collection be made as warmclip made it before it compacted any."""
    path = folder / "shards" / COLLECTION
    shard = edge.EdgeShard.load(os.fspath(path))
    points = shard.scroll(edge.ScrollRequest(limit=1000, with_payload=True, with_vector=True))[0]
    shard.close()
    shutil.rmtree(path)
    vectors = edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Cosine)
    made = edge.EdgeShard.create(os.fspath(path), edge.EdgeConfig(vectors=vectors))
    for field, kind in INDEXED.items():
        made.update(edge.UpdateOperation.create_field_index(field, _OLD_KINDS[kind]))
    copies = [edge.Point(it.id, it.vector or [], it.payload) for it in points]
    made.update(edge.UpdateOperation.upsert_points(copies))
    made.flush()
    made.close()


def cold_fields(folder: Path) -> set[str]:
    """The fields whose indexes are mapped."""
    shard = edge.EdgeShard.load(os.fspath(folder / "shards" / COLLECTION))
    fields = {name for name, it in shard.info().payload_schema.items() if is_cold(it.params)}
    shard.close()
    return fields


def test_store_of_a_former_version(tmp_path: Path) -> None:
    """It is used as it is; its indexes are made anew when it is compacted."""
    folder = tmp_path / "qdrant"
    with open_store(folder, range(300)) as store:
        before = told(store)
    make_former(folder)
    with QdrantStore.embedded(folder) as store:
        assert told(store) == before
    assert cold_fields(folder) == set()
    with QdrantStore.embedded(folder) as store:
        store.optimize_collection("images")
        assert told(store) == before
    assert cold_fields(folder) == INDEXED.keys()


def test_new_store(tmp_path: Path) -> None:
    """Its indexes are mapped from the first compaction on."""
    open_store(tmp_path / "qdrant", range(10)).close()
    assert cold_fields(tmp_path / "qdrant") == INDEXED.keys()


def test_when_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With enough points that are new or have another vector, unless they are few of all, or there
    is a graph.
    """
    monkeypatch.setattr(qdrant, "COMPACTED_FROM", 20)
    folder = tmp_path / "qdrant"
    with open_store(folder, range(19)) as store:
        assert not store.wants_compaction("images")
        store.upsert("images", [make(number) for number in range(19, 300)])
        assert store.wants_compaction("images")
        with QdrantStore.remote(folder) as other:
            assert not other.wants_compaction("images")
        store.optimize_collection("images")
        assert not store.wants_compaction("images")
        store.upsert("images", [make(number) for number in range(300, 328)])
        assert not store.wants_compaction("images")
        store.upsert("images", [make(number) for number in range(328, 340)])
        assert store.wants_compaction("images")
        store.optimize_collection("images")
        store.upsert("images", [make(number, 1) for number in range(30)])  # as many as before
        assert not store.wants_compaction("images")
        store.upsert("images", [make(number, 2) for number in range(34)])
        assert store.wants_compaction("images")
        store.delete_points("images", [make(number).id for number in range(34)])
        assert not store.wants_compaction("images")
        store.optimize_collection("images", with_graph=True)
        store.upsert("images", [make(number) for number in range(340, 400)])
        assert not store.wants_compaction("images")
        with pytest.raises(NotStored):
            store.wants_compaction("another")


def _interrupt(store: QdrantStore) -> None:  # noqa: ARG001 - of the same kind as the others
    raise KeyboardInterrupt


def _too_much(store: QdrantStore) -> None:
    for number in range(600):
        store.upsert("images", [make(number)])


@pytest.mark.parametrize(
    ("meanwhile", "said"),
    [
        (lambda _: None, "compacted in"),
        (_interrupt, "stopped; all is stored"),
        (_too_much, "All pictures are stored; `warmclip collections optimize images`"),
    ],
    ids=["well", "Ctrl+C", "failure"],
)
def test_at_the_end_of_an_index(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    meanwhile: Callable[[QdrantStore], None],
    said: str,
) -> None:
    """It is a note, whatever becomes of it: the pictures are stored, and the command is named."""
    monkeypatch.setattr(qdrant, "COMPACTED_FROM", 100)
    with open_store(tmp_path / "qdrant", range(200)) as store:
        inner = store.optimize_collection
        monkeypatch.setattr(
            store,
            "optimize_collection",
            lambda name, **options: inner(
                name, **options | {"progress": lambda *_: meanwhile(store)}
            ),
        )
        compact_if_it_pays(Terminal(), store, "images")
        assert store.count_points("images") in (200, 600)
    told_by = " ".join(capsys.readouterr().err.split())
    assert said in told_by
    assert ("`warmclip collections optimize images`" in told_by) == (said != "compacted in")
    assert not list((tmp_path / "qdrant" / "shards").glob(".*"))


def test_killed_at_every_step(tmp_path: Path) -> None:
    """Wherever the owner dies: the next one finds all that was stored, and nothing left behind."""
    whole = tmp_path / "whole"
    with open_store(whole, range(300)) as store:
        before = told(store)
    use = 'store.optimize_collection("images")'
    for step in range(1, 100):
        folder = tmp_path / "qdrant"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        code = end_at_step(folder, step, use)
        with QdrantStore.embedded(folder) as store:
            assert told(store) == before
        assert not list((folder / "shards").glob(".*"))
        if code != -signal.SIGKILL:
            break
    assert 5 < step < 100


@pytest.mark.parametrize(
    "file", ["id_tracker.e2i", "id_tracker.versions", "vector_storage/matrix.dat", "segment.json"]
)
def test_torn_file_of_a_compacted_collection(tmp_path: Path, file: str) -> None:
    """It is said, and what can be read is kept by a rebuild."""
    folder = tmp_path / "qdrant"
    with open_store(folder, range(300)) as store:
        store.optimize_collection("images")
    largest = max(
        (folder / "shards" / COLLECTION / "segments").glob(f"*/{file}"),
        key=lambda it: it.stat().st_size,
    )
    os.truncate(largest, largest.stat().st_size // 2)
    with QdrantStore.embedded(folder) as store:
        with pytest.raises(StoreDamaged):
            told(store)
        store.rebuild_collection("images", SPACE)
        store.upsert("images", [make(number) for number in range(300)])
        assert store.count_points("images") == 300


def test_torn_index_of_a_compacted_collection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is made anew from the payloads, once."""
    folder = tmp_path / "qdrant"
    with open_store(folder, range(300)) as store:
        store.optimize_collection("images")
        before = told(store)
    for file in (folder / "shards").glob("*/segments/*/payload_index/*/values_to_points.bin"):
        os.truncate(file, 0)
    with QdrantStore.embedded(folder) as store:
        assert told(store) == before
    assert "were damaged" in caplog.text
    caplog.clear()
    with QdrantStore.embedded(folder) as store:
        assert told(store) == before
    assert not caplog.text


def test_compacted_by_a_version_that_notes_nothing(tmp_path: Path) -> None:
    """Its new segment is not taken for a torn one, and neither are notes that are none."""
    folder = tmp_path / "qdrant"
    with open_store(folder, range(300)) as store:
        store.optimize_collection("images")
    path = folder / "shards" / COLLECTION
    former = edge.EdgeShard.load(os.fspath(path))
    points = [edge.Point(make(it).id, vector(it).tolist(), {}) for it in range(300)]
    former.update(edge.UpdateOperation.upsert_points(points))
    assert former.optimize()
    former.close()
    (noted,) = path.glob("files.json")
    for content in (noted.read_text(), '{"a": null}', "[" * 100_000, "[[1]]", ""):
        noted.write_text(content)
        with QdrantStore.embedded(folder) as store:
            assert store.count_points("images") == 300


def test_collection_that_lies_on_another_disk(tmp_path: Path) -> None:
    """It would come back from there: that is refused, and `index` does not try."""
    folder = tmp_path / "qdrant"
    open_store(folder, range(300)).close()
    path = folder / "shards" / COLLECTION
    path.symlink_to(path.rename(tmp_path / "elsewhere"))
    (folder / "shards" / ".gone-link").symlink_to(tmp_path / "elsewhere")
    with QdrantStore.embedded(folder) as store:
        with pytest.raises(StoreError, match="is a symbolic link"):
            store.optimize_collection("images")
        assert not store.wants_compaction("images")
        assert store.count_points("images") == 300
    assert path.is_symlink()
    assert not (folder / "shards" / ".gone-link").is_symlink()


@pytest.mark.parametrize("is_copy", [True, False])
def test_former_files_beside_a_collection(
    tmp_path: Path, is_copy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They go if the collection is their copy. One that was begun anew since, by a version that
    knows of no copies, is none: they are set aside.
    """
    folder = tmp_path / "qdrant"
    with open_store(folder, range(300)) as store:
        store.optimize_collection("images")
    path = folder / "shards" / COLLECTION
    former = path.with_name(f".former-{COLLECTION}")
    if is_copy:
        shutil.copytree(path, former)
    else:
        path.rename(former)
        open_store(tmp_path / "new", range(5)).close()
        (tmp_path / "new" / "shards" / COLLECTION).rename(path)
    with QdrantStore.embedded(folder) as store:
        assert store.count_points("images") == (300 if is_copy else 5)
    assert not former.exists()
    if not is_copy:
        (aside,) = (folder / "damaged").iterdir()
        assert str(aside) in caplog.text
        shutil.rmtree(path)
        aside.rename(path)
        with QdrantStore.embedded(folder) as store:
            assert store.count_points("images") == 300


def test_disk_without_room_for_the_copy(tmp_path: Path) -> None:
    """It says how much is missing, and the collection is used as before."""
    with small_disk(tmp_path / "disk", 600) as disk:
        with open_store(disk.folder / "qdrant", range(300)) as store:
            before = told(store)
            disk.fill(100 * MB)
            with pytest.raises(StoreError, match="free space"):
                store.optimize_collection("images")
            assert told(store) == before
            disk.empty()
            assert store.optimize_collection("images") is not None
            assert told(store) == before
        assert not list((disk.folder / "qdrant" / "shards").glob(".*"))


def test_disk_that_fills_meanwhile(tmp_path: Path) -> None:
    """A sentence, and the collection is used as before; a later run is not disturbed."""
    with (
        small_disk(tmp_path / "disk", 600) as disk,
        open_store(disk.folder / "qdrant", range(300)) as store,
    ):
        before = told(store)

        def fill(*_: object) -> None:
            with contextlib.suppress(OSError):  # there is less room than a moment before
                disk.fill(0)

        with pytest.raises(StoreError, match=r"nothing is lost|is whole"):
            store.optimize_collection("images", progress=fill)
        disk.empty()
        assert told(store) == before
        assert store.optimize_collection("images") is not None
        assert told(store) == before


def test_vectors_after_compaction(tmp_path: Path) -> None:
    """A search finds what numpy finds, in its order."""
    with open_store(tmp_path / "qdrant", range(500)) as store:
        store.optimize_collection("images")
        asked = vector(77_000)
        rows = np.stack([make(number).vector for number in range(500)])  # type: ignore[misc]
        expected = [make(int(it)).id for it in np.argsort(-(rows @ asked))[:10]]
        assert [hit.id for hit in store.search("images", SPACE, asked, 10)] == expected
