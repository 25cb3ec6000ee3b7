"""One suite over every vector store: embedded Qdrant, the same through its owner's socket, the
stand-in, and a real server if there is one.

Set QDRANT_URL to run it against a real server as well; it makes and removes its own collections.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient

from standins import qdrant as stand_in
from warmclip.errors import NotStored, SourceChanged, SpaceMismatch, StoreError
from warmclip.inference.arrays import Vector
from warmclip.store import folder_keys
from warmclip.store.engine import Record
from warmclip.store.filter import Filter
from warmclip.store.protocol import Payload, Point, Space, collection_of
from warmclip.store.qdrant import QdrantStore

DIM = 8
OLD = Space(fingerprint="0123456789abcdef" * 4, dim=DIM)
NEW = Space(fingerprint="fedcba9876543210" * 4, dim=DIM)

# Read here: while a test runs, the environment has no settings.
_SERVER = os.environ.get("QDRANT_URL")
_API_KEY = os.environ.get("QDRANT_API_KEY")


@pytest.fixture(params=["embedded", "remote", "stand-in", *(["server"] if _SERVER else [])])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantStore]:
    """A store of each kind."""
    match request.param:
        case "embedded":
            with QdrantStore.embedded(tmp_path / "qdrant") as store:
                yield store
        case "remote":
            with (
                QdrantStore.embedded(tmp_path / "qdrant"),
                QdrantStore.remote(tmp_path / "qdrant") as store,
            ):
                yield store
        case "stand-in":
            with stand_in.serve(tmp_path) as server, QdrantStore.server(server.url) as store:
                yield store
        case "server":
            assert _SERVER is not None
            with QdrantStore.server(_SERVER, _API_KEY) as store:
                yield store


@pytest.fixture
def name() -> Iterator[str]:
    """A collection's name that no other test uses."""
    name = f"warmclip-test-{uuid.uuid4().hex[:12]}"
    yield name
    if _SERVER is not None:
        client = QdrantClient(url=_SERVER, api_key=_API_KEY, check_compatibility=False)
        for collection in client.get_collections().collections:
            if collection.name.startswith(name):
                client.delete_collection(collection.name)
        client.close()


def unit(seed: int) -> Vector:
    """A random direction."""
    row = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return row / np.linalg.norm(row)


def point(number: int, *, space: Space = OLD, sha256: str = "", path: str = "") -> Point:
    """A point with every field filled, all of them different for each number."""
    return Point(
        id=str(uuid.UUID(int=number + 1)),
        vector=unit(number),
        payload=Payload(
            path=path or f"/photos/{number}.jpg",
            sha256=sha256 or f"{number:064x}",
            size_bytes=1000 + number,
            mtime_ns=1_790_000_000_123_456_789 + number,
            width_px=640,
            height_px=480,
            fingerprint=space.fingerprint,
            provider="cpu",
            versions={"warmclip": "0.1.0"},
            indexed_at="2026-11-24T02:00:00+00:00",
        ),
    )


def ids(points: Iterator[Point]) -> list[str]:
    """Their ids, sorted: a store has no order."""
    return sorted(point.id for point in points)


def test_points_written(store: QdrantStore, name: str) -> None:
    """They come back whole: every field of the payload, and the vector to 1e-6."""
    store.ensure_collection(name, OLD)
    written = [point(number) for number in range(5)]
    store.upsert(name, written)
    found = sorted(store.scroll(name, with_vectors=True), key=lambda it: it.id)
    assert [it.payload for it in found] == [it.payload for it in written]
    for before, after in zip(written, found, strict=True):
        assert before.vector is not None
        assert after.vector is not None
        np.testing.assert_allclose(after.vector, before.vector, atol=1e-6)


def test_vectors_not_asked_for(store: QdrantStore, name: str) -> None:
    """A scroll leaves them out, which is what makes it cheap."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1)])
    assert [it.vector for it in store.scroll(name)] == [None]


def test_collection_made_twice(store: QdrantStore, name: str) -> None:
    """The second time changes nothing."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1)])
    store.ensure_collection(name, OLD)
    assert ids(store.scroll(name)) == [point(1).id]


def test_same_id_written_twice(store: QdrantStore, name: str) -> None:
    """There is one point, the later one."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1, path="/before.jpg")])
    store.upsert(name, [point(1, path="/after.jpg")])
    assert [it.payload.path for it in store.scroll(name)] == ["/after.jpg"]


def test_search(store: QdrantStore, name: str) -> None:
    """Hits are the nearest, best first, and their scores are the cosines."""
    store.ensure_collection(name, OLD)
    points = [point(number) for number in range(40)]
    store.upsert(name, points)
    query = unit(1234)
    cosines = {it.payload.path: float(unit(number) @ query) for number, it in enumerate(points)}
    best = sorted(cosines, key=lambda path: cosines[path], reverse=True)[:5]
    hits = store.search(name, OLD, query, limit=5)
    assert [hit.payload.path for hit in hits] == best
    assert [hit.score for hit in hits] == pytest.approx([cosines[path] for path in best], abs=1e-5)


def found(store: QdrantStore, name: str, **only: Any) -> list[str]:
    """The paths that pass a filter, sorted."""
    hits = store.search(name, OLD, unit(1234), limit=99, only=Filter(**only))
    return sorted(hit.payload.path for hit in hits)


PLACES = (
    *("/a/b/1.jpg", "/a/b/c/d/2.jpg", "/a/bc/3.jpg", "/a/4.jpg", "/5.jpg", "/a/b.jpg"),
    *(os.fsdecode(b"/caf\xe9/6.jpg"), os.fsdecode(b"/caf\xe9/x/7.jpg"), "/caf\\xe9/8.jpg"),
    *("/日本/9.jpg", "/a/B/10.jpg"),
)


@pytest.mark.parametrize(
    ("folder", "below"),
    [
        ("/", range(11)),
        ("/a", [0, 1, 2, 3, 5, 10]),
        ("/a/b", [0, 1]),
        ("/a/b/c", [1]),
        ("/a/bc", [2]),
        ("/a/b.jpg", []),
        ("/a/b/c/d/e", []),
        (os.fsdecode(b"/caf\xe9"), [6, 7]),
        ("/caf\\xe9", [8]),
        ("/日本", [9]),
    ],
)
def test_search_below_a_folder(
    store: QdrantStore, name: str, folder: str, below: Iterable[int]
) -> None:
    """What lies below it at any depth is found, and nothing whose path only begins alike."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(number, path=path) for number, path in enumerate(PLACES)])
    assert found(store, name, folder=folder) == sorted(PLACES[number] for number in below)


def test_search_below_a_folder_goes_on_until_the_limit(store: QdrantStore, name: str) -> None:
    """The nearest of the folder fill the answer, however many nearer ones lie elsewhere."""
    store.ensure_collection(name, OLD)
    points = [point(number, path=f"/{number % 3}/{number}.jpg") for number in range(60)]
    store.upsert(name, points)
    query = unit(1234)
    inside = sorted(range(0, 60, 3), key=lambda number: float(unit(number) @ query), reverse=True)
    hits = store.search(name, OLD, query, limit=7, only=Filter(folder="/0"))
    assert [hit.id for hit in hits] == [points[number].id for number in inside[:7]]


def dated(number: int, time: str, nanoseconds: int = 0) -> Point:
    """A point of a file that was last changed at this time, UTC."""
    seconds = int(datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp())
    made = point(number, path=f"/{time}.{nanoseconds}")
    changed = replace(made.payload, mtime_ns=seconds * 10**9 + nanoseconds)
    return replace(made, payload=changed)


@pytest.mark.parametrize(
    ("since", "until", "passing"),
    [
        (None, None, range(6)),
        (date(2026, 1, 2), None, [2, 3, 4, 5]),
        (None, date(2026, 1, 1), [0, 1]),
        (date(2026, 1, 2), date(2026, 1, 2), [2, 3]),
        (date(2026, 1, 2), date(2026, 1, 3), [2, 3, 4]),
        (date(1960, 1, 1), date(1970, 1, 1), [0]),
        (date.min, date.max, range(6)),
        (date(2027, 1, 1), None, [5]),
    ],
)
def test_search_by_date(
    store: QdrantStore, name: str, since: date | None, until: date | None, passing: Iterable[int]
) -> None:
    """Both days belong to the span, from their first second to their last, in UTC."""
    store.ensure_collection(name, OLD)
    points = [
        dated(0, "1969-07-20T20:17:40"),
        dated(1, "2026-01-01T23:59:59", 999_999_000),
        dated(2, "2026-01-02T00:00:00"),
        dated(3, "2026-01-02T23:59:59", 999_999_000),
        dated(4, "2026-01-03T00:00:00"),
        dated(5, "2200-01-01T00:00:00"),
    ]
    store.upsert(name, points)
    wanted = sorted(points[number].payload.path for number in passing)
    assert found(store, name, since=since, until=until) == wanted


def test_search_below_a_folder_by_date(store: QdrantStore, name: str) -> None:
    """A picture must pass both."""
    store.ensure_collection(name, OLD)
    day = dated(1, "2026-01-02T12:00:00").payload.mtime_ns
    for number, (path, mtime_ns) in enumerate(
        [("/a/1.jpg", day), ("/b/2.jpg", day), ("/a/3.jpg", day + 10**15)]
    ):
        made = point(number, path=path)
        store.upsert(name, [replace(made, payload=replace(made.payload, mtime_ns=mtime_ns))])
    day_of = date(2026, 1, 2)
    assert found(store, name, folder="/a", since=day_of, until=day_of) == ["/a/1.jpg"]


def test_points_without_folders(
    store: QdrantStore, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was stored before points had them is found by folder like the others, once the
    collection was made ready to be written to; until then a search by folder says so once.
    """
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(number, path=path) for number, path in enumerate(PLACES)])
    store._engine.delete_payload(
        collection_of(name, OLD.fingerprint),
        folder_keys.FOLDERS_FIELD,
        {"must": [{"has_id": [point(0).id, point(6).id]}]},
    )
    store.search(name, OLD, unit(1), 9)
    assert "by folder" not in caplog.text
    for _ in range(2):
        store.search(name, OLD, unit(1), 9, Filter(folder="/a/b"))
        assert caplog.text.count("are not found by folder") == 1
    assert "2 pictures of " in caplog.text
    store.ensure_collection(name, OLD)
    assert found(store, name, folder="/a/b") == sorted([PLACES[0], PLACES[1]])
    assert found(store, name, folder=os.fsdecode(b"/caf\xe9")) == sorted(PLACES[6:8])
    store.upsert(name, [point(0, path="/moved/1.jpg")])
    assert found(store, name, folder="/a/b") == [PLACES[1]]
    assert found(store, name, folder="/moved") == ["/moved/1.jpg"]


def test_another_space(store: QdrantStore, name: str) -> None:
    """Indexing and searching with it is refused, naming both models and the way out."""
    store.ensure_collection(name, OLD)
    for attempt in (
        lambda: store.ensure_collection(name, NEW),
        lambda: store.search(name, NEW, unit(1), limit=1),
    ):
        with pytest.raises(SpaceMismatch) as caught:
            attempt()
        message = str(caught.value)
        assert OLD.fingerprint[:12] in message
        assert NEW.fingerprint[:12] in message
        assert f"warmclip migrate {name}" in message


def test_no_collection(store: QdrantStore, name: str) -> None:
    """Every way of reading says that there is none, and how to make one."""
    for attempt in (
        lambda: store.search(name, OLD, unit(1), limit=1),
        lambda: list(store.scroll(name)),
        lambda: store.list_generations(name),
        lambda: store.revision(name),
    ):
        with pytest.raises(StoreError, match="warmclip index"):
            attempt()


def test_scroll_by_ids(store: QdrantStore, name: str) -> None:
    """Those that are there come back; the others, and none at all, are no error."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(number) for number in range(5)])
    wanted = [point(1).id, point(3).id, point(77).id]
    assert ids(store.scroll(name, ids=wanted)) == sorted([point(1).id, point(3).id])
    assert ids(store.scroll(name, ids=[])) == []


def test_scroll_by_content(store: QdrantStore, name: str) -> None:
    """Every point with one of the digests comes back."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1, sha256="a" * 64), point(2, sha256="a" * 64), point(3)])
    found = store.scroll(name, sha256=["a" * 64, "b" * 64], with_vectors=True)
    assert ids(found) == sorted([point(1).id, point(2).id])
    assert ids(store.scroll(name, sha256=[])) == []


def test_more_than_one_page(store: QdrantStore, name: str) -> None:
    """300 points are each written, scrolled, found by id and by digest exactly once."""
    store.ensure_collection(name, OLD)
    points = [point(number) for number in range(300)]
    everything = sorted(it.id for it in points)
    store.upsert(name, points)
    assert ids(store.scroll(name)) == everything
    assert ids(store.scroll(name, ids=everything)) == everything
    assert ids(store.scroll(name, sha256=[it.payload.sha256 for it in points])) == everything
    store.delete_unchanged(name, points[:260])
    assert ids(store.scroll(name)) == everything[260:]


def waiting(number: int, canary: str) -> Point:
    """A point whose vector waits for a canary."""
    made = point(number)
    return replace(made, payload=replace(made.payload, canary=canary))


def test_suspect_until_proven(store: QdrantStore, name: str) -> None:
    """What waits for a canary is found by it, keeps its vector, and is none once it is proven."""
    store.ensure_collection(name, OLD)
    points = [waiting(1, "a-0"), waiting(2, "a-1"), point(3)]
    store.upsert(name, points)
    suspects = sorted(store.scroll(name, unverified=True), key=lambda it: it.id)
    assert [it.payload.canary for it in suspects] == ["a-0", "a-1"]
    store.mark_verified(name, points[:1])
    assert ids(store.scroll(name, unverified=True)) == [points[1].id]
    (proven,) = store.scroll(name, ids=[points[0].id], with_vectors=True)
    assert proven.payload == point(1).payload
    assert proven.vector is not None
    np.testing.assert_allclose(proven.vector, unit(1), atol=1e-6)


def test_written_again_before_it_is_proven(store: QdrantStore, name: str) -> None:
    """One process's good canary says nothing of what another one has written meanwhile."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [waiting(1, "a-0")])
    store.upsert(name, [waiting(1, "b-0")])
    store.mark_verified(name, [waiting(1, "a-0")])
    assert ids(store.scroll(name, unverified=True)) == [point(1).id]


def test_many_proven_at_once(store: QdrantStore, name: str) -> None:
    """More than one request's worth, of two canaries."""
    store.ensure_collection(name, OLD)
    points = [waiting(number, f"a-{number % 2}") for number in range(300)]
    store.upsert(name, points)
    store.mark_verified(name, points)
    store.mark_verified(name, [])
    assert ids(store.scroll(name, unverified=True)) == []
    assert len(ids(store.scroll(name))) == 300


def test_delete(store: QdrantStore, name: str) -> None:
    """It takes away the named points, and does not mind one that is not there."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1), point(2)])
    assert store.delete_unchanged(name, [point(1), point(99)]) == frozenset()
    assert ids(store.scroll(name)) == [point(2).id]
    assert store.delete_unchanged(name, []) == frozenset()
    assert ids(store.scroll(name)) == [point(2).id]


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "f" * 64},
        {"mtime_ns": 1_790_000_000_123_456_790 + 1},  # one nanosecond: no float64 tells them apart
        {"indexed_at": "2026-11-24T02:00:01+00:00"},
    ],
    ids=["content", "time", "indexed again"],
)
def test_point_written_again_before_it_is_deleted(
    store: QdrantStore, name: str, change: dict[str, Any]
) -> None:
    """It stays, and the caller is told; the others of the same call go."""
    store.ensure_collection(name, OLD)
    before = [point(1), point(2)]
    store.upsert(name, before)
    after = replace(before[0], payload=replace(before[0].payload, **change))
    store.upsert(name, [after])
    assert store.delete_unchanged(name, before) == {point(1).id}
    (left,) = store.scroll(name)
    assert left.payload == after.payload


def test_delete_after_the_name_was_switched(store: QdrantStore, name: str) -> None:
    """What was read in the former collection is deleted there, and not in the one in use, where
    the same file has the same id.
    """
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1)])
    (read,) = store.scroll(name)
    store.create_collection(name, NEW)
    store.upsert(name, [point(1, space=NEW)])
    former = store.switch_alias(name, NEW.fingerprint)
    assert former is not None
    store.delete_unchanged(name, [read])
    assert ids(store.scroll(name)) == [point(1).id]
    assert ids(store.scroll(former)) == []


def test_name_that_is_not_utf8(store: QdrantStore, name: str) -> None:
    """The path comes back byte for byte."""
    path = os.fsdecode(b"/photos/caf\xe9 \xff.jpg")
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1, path=path)])
    (found,) = store.scroll(name)
    assert os.fsencode(found.payload.path) == b"/photos/caf\xe9 \xff.jpg"
    assert store.search(name, OLD, unit(1), limit=1)[0].payload.path == path


def test_two_names(store: QdrantStore, name: str) -> None:
    """What is in one is not in the other, though their space is the same."""
    store.ensure_collection(name, OLD)
    store.ensure_collection(f"{name}-b", OLD)
    store.upsert(name, [point(1)])
    assert ids(store.scroll(f"{name}-b")) == []


def test_new_space_staged(store: QdrantStore, name: str) -> None:
    """It is filled unseen, and shown at once by the switch; the former one stays until dropped."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1)])
    staged = store.create_collection(name, NEW)
    store.upsert(staged, [point(2, space=NEW)])
    assert ids(store.scroll(name)) == [point(1).id]
    assert ids(store.scroll(staged)) == [point(2).id]
    former = store.switch_alias(name, NEW.fingerprint)
    assert former is not None
    found = store.list_generations(name)
    assert [(it.fingerprint, it.points, it.in_use) for it in found] == [
        (NEW.fingerprint, 1, True),
        (OLD.fingerprint, 1, False),
    ]
    assert [hit.id for hit in store.search(name, NEW, unit(2), limit=9)] == [point(2).id]
    assert ids(store.scroll(former)) == [point(1).id]
    assert store.switch_alias(name, NEW.fingerprint) is None
    store.delete_collection(former)
    with pytest.raises(StoreError):
        list(store.scroll(former))


def test_collection_in_use_deleted_or_cleared(store: QdrantStore, name: str) -> None:
    """It is refused, and nothing is lost."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1)])
    collection = store.create_collection(name, OLD)
    for attempt in (store.delete_collection, store.clear_collection):
        for it in (collection, name):
            with pytest.raises(StoreError, match="in use"):
                attempt(it)
    assert ids(store.scroll(name)) == [point(1).id]


def test_collection_cleared(store: QdrantStore, name: str) -> None:
    """A collection that no name leads to loses its points, and can be filled again."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1)])
    staged = store.create_collection(name, NEW)
    store.upsert(staged, [point(number, space=NEW) for number in range(300)])
    store.clear_collection(staged)
    assert ids(store.scroll(staged)) == []
    store.upsert(staged, [point(2, space=NEW)])
    assert ids(store.scroll(staged)) == [point(2).id]
    assert ids(store.scroll(name)) == [point(1).id]


def test_switch_only_if_the_source_is_as_it_was(store: QdrantStore, name: str) -> None:
    """Any write to the source forbids the switch; a proof of a vector is none."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [waiting(1, "a-0"), point(2)])
    store.create_collection(name, NEW)
    writes: list[Callable[[], object]] = [
        lambda: store.upsert(name, [point(3)]),
        lambda: store.upsert(name, [point(3, sha256="f" * 64)]),
        lambda: store.delete_unchanged(name, [point(2)]),
    ]
    for write in writes:
        before = store.revision(name)
        write()
        with pytest.raises(SourceChanged, match=name):
            store.switch_alias(name, NEW.fingerprint, if_revision=before)
        assert store.list_generations(name)[0].fingerprint == OLD.fingerprint
    before = store.revision(name)
    store.mark_verified(name, [waiting(1, "a-0")])
    store.upsert(name, [])
    assert store.revision(name) == before
    assert store.switch_alias(name, NEW.fingerprint, if_revision=before) is not None
    assert store.list_generations(name)[0].fingerprint == NEW.fingerprint
    assert store.revision(name) != before


def test_switch_to_no_collection(store: QdrantStore, name: str) -> None:
    """It is refused: the name goes on leading where it led."""
    store.ensure_collection(name, OLD)
    with pytest.raises(NotStored, match=name):
        store.switch_alias(name, NEW.fingerprint)
    assert store.list_generations(name)[0].fingerprint == OLD.fingerprint


def test_collection_made_in_steps(store: QdrantStore, name: str) -> None:
    """A process may be killed after each of them: the next ensure makes what is missing."""
    engine = store._engine
    collection = collection_of(name, OLD.fingerprint)
    engine.create_collection(collection, DIM)
    with pytest.raises(StoreError, match="warmclip index"):
        store.revision(name)
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(number) for number in range(3)])
    assert found(store, name, folder="/photos") == [f"/photos/{it}.jpg" for it in range(3)]
    assert name in store.list_names()


def test_foreign_points(store: QdrantStore, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Points that others wrote into a collection of ours refuse nothing: every read passes them
    by, they take no hit's place, they are counted, and told once.
    """
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(number) for number in range(5)])
    collection = collection_of(name, OLD.fingerprint)
    strange = [
        Record(id=str(uuid.UUID(int=900 + number)), payload=payload, vector=unit(1234))
        for number, payload in enumerate([{}, {"path": "/photos/a.jpg"}, {"sha256": "a" * 64}])
    ]
    store._engine.upsert(collection, strange)
    everything = [point(number).id for number in range(5)]
    for _ in range(2):
        store.ensure_collection(name, OLD)
        assert ids(store.scroll(name)) == everything
        assert ids(store.scroll(name, ids=[*everything, strange[0].id])) == everything
        assert ids(store.scroll(name, sha256=["a" * 64])) == []
        hits = store.search(name, OLD, unit(1234), limit=4)
        assert {hit.id for hit in hits} <= set(everything)
        assert len(hits) >= 3
        assert found(store, name, folder="/photos") == [f"/photos/{it}.jpg" for it in range(5)]
    (generation,) = store.list_generations(name)
    assert (generation.points, generation.foreign) == (8, 2)
    told = [it.getMessage() for it in caplog.records if "not written by warmclip" in it.message]
    assert len(told) == 1


def test_collection_without_its_name(store: QdrantStore, name: str) -> None:
    """As after a snapshot was restored: it is named, with the command that mends it; ensure, which
    that command calls, leads the name there again.
    """
    store.create_collection(name, OLD)
    store.upsert(name, [point(1)])
    collection = collection_of(name, OLD.fingerprint)
    with pytest.raises(NotStored, match=f"{collection}.*warmclip index"):
        store.search(name, OLD, unit(1), limit=1)
    store.ensure_collection(name, OLD)
    assert ids(store.scroll(name)) == [point(1).id]


def test_searches_write_nothing(store: QdrantStore, name: str) -> None:
    """Also where points lack their folders, of which a search by folder tells."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1)])
    collection = collection_of(name, OLD.fingerprint)
    chosen = {"must": [{"has_id": [point(1).id]}]}
    store._engine.delete_payload(collection, folder_keys.FOLDERS_FIELD, chosen)
    before = [it.payload for it in store._engine.scroll(collection)]
    assert found(store, name, folder="/photos") == []
    assert [it.payload for it in store._engine.scroll(collection)] == before


def test_collection_described(store: QdrantStore, name: str) -> None:
    """How many points there are, and by what they are kept."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1), point(2)])
    told = store.describe(name)
    assert told["points"] == 2
    assert told["engine"] in ("embedded", "server")
    json.dumps(told)


def test_names(store: QdrantStore, name: str) -> None:
    """Those that lead to a collection are listed; a collection without one is not."""
    store.create_collection(f"{name}-staged", OLD)
    store.ensure_collection(f"{name}-b", OLD)
    store.ensure_collection(f"{name}-a", NEW)
    listed = [it for it in store.list_names() if it.startswith(name)]
    assert listed == [f"{name}-a", f"{name}-b"]


def test_misspelt_name(store: QdrantStore, name: str) -> None:
    """The likely one is named, and no other."""
    store.ensure_collection(name, OLD)
    store.create_collection(f"{name}-staged", OLD)
    with pytest.raises(NotStored, match=rf"'{name[:-1]}'; did you mean '{name}'\?"):
        list(store.scroll(name[:-1]))
    with pytest.raises(NotStored) as far:
        list(store.scroll("quite-another-one"))
    assert name not in str(far.value)
    assert "did you mean" not in str(far.value)


def test_points_deleted(store: QdrantStore, name: str) -> None:
    """They go whatever was written to them meanwhile, while a scroll of them goes on."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(number) for number in range(600)])
    seen = store.scroll(name, only=Filter(folder="/photos"))
    store.delete_points(name, (it.id for it in seen))
    assert ids(store.scroll(name)) == []
    store.upsert(name, [point(1), point(2)])
    read = list(store.scroll(name, ids=[point(1).id]))
    store.upsert(name, [point(1, sha256="f" * 64)])
    store.delete_points(name, [it.id for it in read])
    store.delete_points(name, [point(1).id])
    assert ids(store.scroll(name)) == [point(2).id]
    with pytest.raises(NotStored):
        store.delete_points(f"{name}-none", [point(1).id])


def test_scroll_below_a_folder_without_folders(store: QdrantStore, name: str) -> None:
    """What was stored before points had them is read as well, and nothing beside it."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(number, path=path) for number, path in enumerate(PLACES)])
    store._engine.delete_payload(
        collection_of(name, OLD.fingerprint),
        folder_keys.FOLDERS_FIELD,
        {"must": [{"has_id": [point(number).id for number in range(6)]}]},
    )
    below = store.scroll(name, only=Filter(folder="/a/b"))
    assert sorted(it.payload.path for it in below) == sorted([PLACES[0], PLACES[1]])
    assert list(store.scroll(name, only=Filter(folder="/a/b", until=date(1999, 1, 1)))) == []


def test_scroll_by_filter(store: QdrantStore, name: str) -> None:
    """What lies below a folder is read without the rest."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(number, path=path) for number, path in enumerate(PLACES)])
    below = store.scroll(name, only=Filter(folder="/a/b"))
    assert sorted(it.payload.path for it in below) == sorted([PLACES[0], PLACES[1]])


def test_name_switched_while_writing(store: QdrantStore, name: str) -> None:
    """A point of the former space does not get in among those of the new one."""
    store.ensure_collection(name, OLD)
    store.create_collection(name, NEW)
    store.switch_alias(name, NEW.fingerprint)
    store.upsert(name, [point(1, space=OLD), point(2, space=NEW)])
    assert ids(store.scroll(name)) == [point(2).id]


def test_digests_follow_what_is_written(store: QdrantStore, name: str) -> None:
    """A content is found where it is now: after an overwrite, after a deletion, in a switch."""
    store.ensure_collection(name, OLD)
    store.upsert(name, [point(1, sha256="a" * 64), point(2, sha256="a" * 64)])
    assert ids(store.scroll(name, sha256=["a" * 64])) == [point(1).id, point(2).id]
    store.upsert(name, [point(1, sha256="b" * 64)])
    assert ids(store.scroll(name, sha256=["a" * 64])) == [point(2).id]
    assert ids(store.scroll(name, sha256=["b" * 64, "c" * 64])) == [point(1).id]
    store.delete_unchanged(name, [point(2, sha256="a" * 64)])
    assert ids(store.scroll(name, sha256=["a" * 64, "b" * 64])) == [point(1).id]
    store.create_collection(name, NEW)
    former = store.switch_alias(name, NEW.fingerprint)
    assert ids(store.scroll(name, sha256=["b" * 64])) == []
    assert former is not None
    store.delete_collection(former)
    store.create_collection(name, OLD)
    store.switch_alias(name, OLD.fingerprint)
    assert ids(store.scroll(name, sha256=["b" * 64])) == []
