"""One suite over every vector store: embedded Qdrant, the stand-in, a real server if there is one.

Set QDRANT_URL to run it against a real server as well; it makes and removes its own collections.
"""

import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from standins import qdrant as stand_in
from warmclip.errors import SpaceMismatch, StoreError
from warmclip.inference.arrays import Vector
from warmclip.store import folder_keys
from warmclip.store.aliases import collection_of
from warmclip.store.filter import Filter
from warmclip.store.protocol import Payload, Point, Space
from warmclip.store.qdrant import QdrantStore

DIM = 8
OLD = Space(fingerprint="0123456789abcdef" * 4, dim=DIM)
NEW = Space(fingerprint="fedcba9876543210" * 4, dim=DIM)

# Read here: while a test runs, the environment has no settings.
_SERVER = os.environ.get("QDRANT_URL")
_API_KEY = os.environ.get("QDRANT_API_KEY")


@pytest.fixture(params=["embedded", "stand-in", *(["server"] if _SERVER else [])])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantStore]:
    """A store of each kind."""
    match request.param:
        case "embedded":
            with QdrantStore.embedded(tmp_path / "qdrant") as store:
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
        client = QdrantClient(url=_SERVER, api_key=_API_KEY)
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
    store.ensure(name, OLD)
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
    store.ensure(name, OLD)
    store.upsert(name, [point(1)])
    assert [it.vector for it in store.scroll(name)] == [None]


def test_collection_made_twice(store: QdrantStore, name: str) -> None:
    """The second time changes nothing."""
    store.ensure(name, OLD)
    store.upsert(name, [point(1)])
    store.ensure(name, OLD)
    assert ids(store.scroll(name)) == [point(1).id]


def test_same_id_written_twice(store: QdrantStore, name: str) -> None:
    """There is one point, the later one."""
    store.ensure(name, OLD)
    store.upsert(name, [point(1, path="/before.jpg")])
    store.upsert(name, [point(1, path="/after.jpg")])
    assert [it.payload.path for it in store.scroll(name)] == ["/after.jpg"]


def test_search(store: QdrantStore, name: str) -> None:
    """Hits are the nearest, best first, and their scores are the cosines."""
    store.ensure(name, OLD)
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
    store.ensure(name, OLD)
    store.upsert(name, [point(number, path=path) for number, path in enumerate(PLACES)])
    assert found(store, name, folder=folder) == sorted(PLACES[number] for number in below)


def test_search_below_a_folder_goes_on_until_the_limit(store: QdrantStore, name: str) -> None:
    """The nearest of the folder fill the answer, however many nearer ones lie elsewhere."""
    store.ensure(name, OLD)
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
    store.ensure(name, OLD)
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
    store.ensure(name, OLD)
    day = dated(1, "2026-01-02T12:00:00").payload.mtime_ns
    for number, (path, mtime_ns) in enumerate(
        [("/a/1.jpg", day), ("/b/2.jpg", day), ("/a/3.jpg", day + 10**15)]
    ):
        made = point(number, path=path)
        store.upsert(name, [replace(made, payload=replace(made.payload, mtime_ns=mtime_ns))])
    day_of = date(2026, 1, 2)
    assert found(store, name, folder="/a", since=day_of, until=day_of) == ["/a/1.jpg"]


def test_points_without_folders(store: QdrantStore, name: str) -> None:
    """What was stored before points had them is found by folder like the others, once opened."""
    store.ensure(name, OLD)
    store.upsert(name, [point(number, path=path) for number, path in enumerate(PLACES)])
    store._client.delete_payload(
        collection_of(name, OLD.fingerprint),
        [folder_keys.FOLDERS_FIELD],
        models.Filter(must=[models.HasIdCondition(has_id=[point(0).id, point(6).id])]),
    )
    assert found(store, name, folder="/a/b") == sorted([PLACES[0], PLACES[1]])
    assert found(store, name, folder=os.fsdecode(b"/caf\xe9")) == sorted(PLACES[6:8])
    store.upsert(name, [point(0, path="/moved/1.jpg")])
    assert found(store, name, folder="/a/b") == [PLACES[1]]
    assert found(store, name, folder="/moved") == ["/moved/1.jpg"]


def test_another_space(store: QdrantStore, name: str) -> None:
    """Indexing and searching with it is refused, naming both models and the way out."""
    store.ensure(name, OLD)
    for attempt in (
        lambda: store.ensure(name, NEW),
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
        lambda: store.delete(name, [point(1).id]),
    ):
        with pytest.raises(StoreError, match="warmclip index"):
            attempt()


def test_scroll_by_ids(store: QdrantStore, name: str) -> None:
    """Those that are there come back; the others, and none at all, are no error."""
    store.ensure(name, OLD)
    store.upsert(name, [point(number) for number in range(5)])
    wanted = [point(1).id, point(3).id, point(77).id]
    assert ids(store.scroll(name, ids=wanted)) == sorted([point(1).id, point(3).id])
    assert ids(store.scroll(name, ids=[])) == []


def test_scroll_by_content(store: QdrantStore, name: str) -> None:
    """Every point with one of the digests comes back."""
    store.ensure(name, OLD)
    store.upsert(name, [point(1, sha256="a" * 64), point(2, sha256="a" * 64), point(3)])
    found = store.scroll(name, sha256=["a" * 64, "b" * 64], with_vectors=True)
    assert ids(found) == sorted([point(1).id, point(2).id])
    assert ids(store.scroll(name, sha256=[])) == []


def test_more_than_one_page(store: QdrantStore, name: str) -> None:
    """300 points are each written, scrolled, found by id and by digest exactly once."""
    store.ensure(name, OLD)
    points = [point(number) for number in range(300)]
    everything = sorted(it.id for it in points)
    store.upsert(name, points)
    assert ids(store.scroll(name)) == everything
    assert ids(store.scroll(name, ids=everything)) == everything
    assert ids(store.scroll(name, sha256=[it.payload.sha256 for it in points])) == everything
    store.delete(name, everything[:260])
    assert ids(store.scroll(name)) == everything[260:]


def waiting(number: int, canary: str) -> Point:
    """A point whose vector waits for a canary."""
    made = point(number)
    return replace(made, payload=replace(made.payload, canary=canary))


def test_suspect_until_proven(store: QdrantStore, name: str) -> None:
    """What waits for a canary is found by it, keeps its vector, and is none once it is proven."""
    store.ensure(name, OLD)
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
    store.ensure(name, OLD)
    store.upsert(name, [waiting(1, "a-0")])
    store.upsert(name, [waiting(1, "b-0")])
    store.mark_verified(name, [waiting(1, "a-0")])
    assert ids(store.scroll(name, unverified=True)) == [point(1).id]


def test_many_proven_at_once(store: QdrantStore, name: str) -> None:
    """More than one request's worth, of two canaries."""
    store.ensure(name, OLD)
    points = [waiting(number, f"a-{number % 2}") for number in range(300)]
    store.upsert(name, points)
    store.mark_verified(name, points)
    store.mark_verified(name, [])
    assert ids(store.scroll(name, unverified=True)) == []
    assert len(ids(store.scroll(name))) == 300


def test_delete(store: QdrantStore, name: str) -> None:
    """It takes away the named points, and does not mind one that is not there."""
    store.ensure(name, OLD)
    store.upsert(name, [point(1), point(2)])
    store.delete(name, [point(1).id, point(99).id])
    assert ids(store.scroll(name)) == [point(2).id]
    store.delete(name, [])
    assert ids(store.scroll(name)) == [point(2).id]


def test_name_that_is_not_utf8(store: QdrantStore, name: str) -> None:
    """The path comes back byte for byte."""
    path = os.fsdecode(b"/photos/caf\xe9 \xff.jpg")
    store.ensure(name, OLD)
    store.upsert(name, [point(1, path=path)])
    (found,) = store.scroll(name)
    assert os.fsencode(found.payload.path) == b"/photos/caf\xe9 \xff.jpg"
    assert store.search(name, OLD, unit(1), limit=1)[0].payload.path == path


def test_two_names(store: QdrantStore, name: str) -> None:
    """What is in one is not in the other, though their space is the same."""
    store.ensure(name, OLD)
    store.ensure(f"{name}-b", OLD)
    store.upsert(name, [point(1)])
    assert ids(store.scroll(f"{name}-b")) == []


def test_new_space_staged(store: QdrantStore, name: str) -> None:
    """It is filled unseen, and shown at once by the switch; the former one stays until dropped."""
    store.ensure(name, OLD)
    store.upsert(name, [point(1)])
    staged = store.stage(name, NEW)
    store.upsert(staged, [point(2, space=NEW)])
    assert ids(store.scroll(name)) == [point(1).id]
    assert ids(store.scroll(staged)) == [point(2).id]
    former = store.switch(name, NEW)
    assert former is not None
    assert [hit.id for hit in store.search(name, NEW, unit(2), limit=9)] == [point(2).id]
    assert ids(store.scroll(former)) == [point(1).id]
    assert store.switch(name, NEW) is None
    store.drop(former)
    with pytest.raises(StoreError):
        list(store.scroll(former))


def test_collection_in_use_dropped(store: QdrantStore, name: str) -> None:
    """It is refused, and nothing is lost."""
    store.ensure(name, OLD)
    store.upsert(name, [point(1)])
    with pytest.raises(StoreError, match="in use"):
        store.drop(store.stage(name, OLD))
    assert ids(store.scroll(name)) == [point(1).id]


def test_name_switched_while_writing(store: QdrantStore, name: str) -> None:
    """A point of the former space does not get in among those of the new one."""
    store.ensure(name, OLD)
    store.stage(name, NEW)
    store.switch(name, NEW)
    store.upsert(name, [point(1, space=OLD), point(2, space=NEW)])
    assert ids(store.scroll(name)) == [point(2).id]


def test_embedded_store_writes_ahead(tmp_path: Path) -> None:
    """A commit of the embedded store does not wait for the disk, in a new collection and in one
    that was there: its file says so.
    """
    folder = tmp_path / "qdrant"
    for name in ("new", "newer"):
        with QdrantStore.embedded(folder) as store:
            store.ensure(name, OLD)
            store.upsert(name, [point(1)])
            logs = list(folder.rglob("*.sqlite-wal"))
            assert len(logs) == len(list(folder.rglob("*.sqlite")))
    with QdrantStore.embedded(folder) as store:
        assert ids(store.scroll("new")) == ids(store.scroll("newer")) == [point(1).id]


def test_digests_follow_what_is_written(store: QdrantStore, name: str) -> None:
    """A content is found where it is now: after an overwrite, after a deletion, in a switch."""
    store.ensure(name, OLD)
    store.upsert(name, [point(1, sha256="a" * 64), point(2, sha256="a" * 64)])
    assert ids(store.scroll(name, sha256=["a" * 64])) == [point(1).id, point(2).id]
    store.upsert(name, [point(1, sha256="b" * 64)])
    assert ids(store.scroll(name, sha256=["a" * 64])) == [point(2).id]
    assert ids(store.scroll(name, sha256=["b" * 64, "c" * 64])) == [point(1).id]
    store.delete(name, [point(2).id])
    assert ids(store.scroll(name, sha256=["a" * 64, "b" * 64])) == [point(1).id]
    store.stage(name, NEW)
    former = store.switch(name, NEW)
    assert ids(store.scroll(name, sha256=["b" * 64])) == []
    assert former is not None
    store.drop(former)
    store.stage(name, OLD)
    store.switch(name, OLD)
    assert ids(store.scroll(name, sha256=["b" * 64])) == []
