"""Records in Redis that are nobody's, or damaged: every route passes them by, and answers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.results import Result

from running import PATIENT, Running, environment_of, eventually, occupied, running_worker
from serving import SESSIONS, Served, draw, running_server
from warmclip.settings import Settings
from warmclip.work.queues import open_queue

pytestmark = pytest.mark.usefixtures("server_binary")

DIGITS = "9" * 5_000
NO_UTF8 = b"\xff\xfe\x00name"
ID = "0" * 32
POINT = "00000000-0000-4000-8000-000000000000"
VERSION = f"{'0' * 32}-64-2"
HIT = {
    "id": POINT, "score": 0.5, "path": "/a", "width_px": 1, "height_px": 1, "size_bytes": 1,
    "sha256": "s", "mtime_ns": 1, "indexed_at": "t",
}  # fmt: skip
SESSION = f"rq:warmclip:session:{ID}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> dict[str, str]:
    """What server and worker are told."""
    folder = tmp_path_factory.mktemp("hostile")
    draw(folder / "pictures", 3)
    roots = str(folder / "pictures")
    return environment_of(folder / "home", demo_bundle, WARMCLIP_ROOTS=roots, **PATIENT)


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[Served]:
    """A server."""
    with running_server(environment, "--rate", "0") as served:
        yield served


@pytest.fixture(scope="module")
def worker(served: Served, environment: dict[str, str]) -> Iterator[Running]:
    """Its worker, after one session."""
    session = served.begin(Path(environment["WARMCLIP_ROOTS"]))
    with running_worker(Settings.from_env(environment), environment) as worker:
        served.wait(session)
        yield worker


@pytest.fixture
def redis(worker: Running) -> Iterator[Redis]:
    """The Redis of both; what a test writes there is taken back."""
    connection = worker.connection
    before = {key: connection.dump(key) for key in connection.scan_iter("rq:*")}
    yield connection
    for key in list(connection.scan_iter("rq:*")):
        if key not in before:
            connection.delete(key)
    for key, value in before.items():
        if value is not None and connection.dump(key) != value:
            connection.restore(key, 0, value, replace=True)


def members_of_sets(redis: Redis) -> None:
    """Members that RQ did not write."""
    for key in ("rq:queues", "rq:workers"):
        redis.sadd(key, "evil", NO_UTF8, "", "rq:queue:", "rq:worker:")


def queues_that_are_none(redis: Redis) -> None:
    """Queues of another type, and one whose name is no text."""
    redis.set("rq:queue:weird", "x")
    redis.sadd("rq:queue:heap", "x")
    redis.sadd("rq:queues", "rq:queue:weird", "rq:queue:heap", b"rq:queue:" + NO_UTF8)


def forged_workers(redis: Redis) -> None:
    """Workers that nobody started."""
    workers: dict[str, dict[Any, Any]] = {
        "zz": {"pid": "zz", "queues": "high", "birth": "no date"},
        "long": {"pid": DIGITS, "queues": "high,default", "last_heartbeat": DIGITS},
        "empty": {"state": "busy"},
    }
    for name, fields in workers.items():
        redis.hset(f"rq:worker:{name}", mapping=fields)
        redis.sadd("rq:workers", f"rq:worker:{name}")
        redis.sadd("rq:workers:high", f"rq:worker:{name}")
    redis.set("rq:worker:text", "x")
    redis.sadd("rq:workers", "rq:worker:text")
    redis.hset("rq:worker:bytes", mapping={"pid": 1, "hostname": NO_UTF8, "queues": NO_UTF8})
    redis.sadd("rq:workers", "rq:worker:bytes")


def totals(redis: Redis) -> None:
    """Counters with more digits than a number is read from, and with none."""
    redis.hset("rq:warmclip:totals", mapping={"indexed": DIGITS, "skipped": "x", "jobs": "-1"})
    redis.hset("rq:warmclip:totals", NO_UTF8, "1")


def totals_of_another_type(redis: Redis) -> None:
    """A text in the place of all counters."""
    redis.delete("rq:warmclip:totals")
    redis.set("rq:warmclip:totals", "x")


def failed_jobs(redis: Redis) -> None:
    """Jobs that are none, or whose records and results are damaged."""
    members: dict[Any, Any] = {"none": 1, NO_UTF8: 2, "forged": 3, "text": 4}
    redis.zadd("rq:failed:default", members)
    redis.hset("rq:job:forged", mapping={"data": b"\x00\x01", "ended_at": "x", "origin": NO_UTF8})
    redis.xadd("rq:results:forged", {"type": "9", "exc_string": NO_UTF8})
    redis.set("rq:job:text", "x")


def sessions(redis: Redis) -> None:
    """Sessions that are not there, and one whose record is damaged."""
    members: dict[Any, Any] = {"none": 1, NO_UTF8: 2, ID: 3}
    redis.zadd("rq:warmclip:sessions", members)
    redis.sadd("rq:warmclip:sessions:open", "none", NO_UTF8, ID)
    redis.hset(SESSION, mapping={"state": "running", "images": DIGITS, "directory": "x"})


def session_of_another_type(redis: Redis) -> None:
    """A text in the place of a record."""
    redis.set(SESSION, "x")
    redis.zadd("rq:warmclip:sessions", {ID: 3})
    redis.sadd("rq:warmclip:sessions:open", ID)


HOSTILE: tuple[Callable[[Redis], None], ...] = (
    members_of_sets,
    queues_that_are_none,
    forged_workers,
    totals,
    totals_of_another_type,
    failed_jobs,
    sessions,
    session_of_another_type,
)


@pytest.mark.parametrize("write", HOSTILE, ids=lambda each: each.__name__)
def test_hostile_records(served: Served, redis: Redis, write: Callable[[Redis], None]) -> None:
    """Figures, health, searches, the doctor and sessions are answered as before."""
    write(redis)
    for _ in range(2):  # also after whatever was cleaned up at first
        metrics = served.client.get("/metrics")
        assert metrics.status_code == 200
        assert "warmclip_redis_up 1.0" in metrics.text
        assert served.client.get("/readyz").status_code == 200
        health = served.client.get("/healthz")
        assert health.status_code == 200, health.text
        hits = served.client.get("/api/v1/search?q=red")
        assert hits.status_code == 200, hits.text
        doctor = served.client.get("/api/v1/doctor")
        assert doctor.status_code == 200, doctor.text
        assert doctor.json()["verdict"] is not None
        listed = served.client.get(SESSIONS)
        assert listed.status_code == 200, listed.text
        assert len(listed.json()["sessions"]) == 1
        one = served.client.get(f"{SESSIONS}/{ID}")
        assert one.status_code == 404, one.text
    assert "Traceback" not in served.log.read_text()


@pytest.mark.parametrize(
    ("method", "path", "value"),
    [
        ("GET", "/api/v1/search?q=red", None),
        ("GET", "/api/v1/search?q=red", []),
        ("GET", "/api/v1/search?q=red", {"hits": 7, "fingerprint": "f"}),
        ("GET", "/api/v1/search?q=red", {"hits": [{}], "fingerprint": "f"}),
        ("GET", "/api/v1/search?q=red", {"hits": [HIT | {"id": "\ud800"}], "fingerprint": "f"}),
        ("GET", "/api/v1/search?q=red", {"hits": [HIT], "fingerprint": "\ud800"}),
        (
            "GET",
            f"/api/v1/points/{POINT}/thumbnail",
            {"version": VERSION, "jpeg": "no base64"},
        ),
        ("GET", f"/api/v1/points/{POINT}/thumbnail", {"jpeg": 7}),
        ("GET", f"/api/v1/points/{POINT}/thumbnail", {"version": "\r\nX: y", "jpeg": None}),
        ("GET", f"/api/v1/points/{POINT}/original", {"path": "\ud800"}),
        ("GET", f"/api/v1/points/{POINT}/original", {"path": 7}),
        ("POST", "/api/v1/embed/text", {"fingerprint": "f", "dim": 1, "vectors": {"red": "x"}}),
        ("POST", "/api/v1/embed/text", {"fingerprint": "f", "dim": 1, "vectors": {}}),
    ],
)
def test_forged_answer(
    served: Served, worker: Running, method: str, path: str, value: object
) -> None:
    """Whoever can write to Redis can answer in a worker's place; what is no answer is a 502."""
    queue = open_queue(worker.connection, "high")
    body = {"texts": ["red"]} if method == "POST" else None
    with occupied(worker), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(served.client.request, method, path, json=body)
        eventually(lambda: queue.job_ids)
        (job,) = queue.jobs
        Result.create(job, Result.Type.SUCCESSFUL, ttl=60, return_value=value)
        answer = asked.result()
    assert answer.status_code == 502, answer.text
    assert "of one warmclip" in answer.json()["detail"]
    eventually(lambda: not queue.job_ids)
