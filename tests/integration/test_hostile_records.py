"""What somebody who may write to Redis leaves there: it costs itself, never the worker."""

import base64
import json
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer

from running import Running, environment_of, eventually, outcome, reason, running_worker
from warmclip.settings import Settings
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.producer import report_of
from warmclip.work.queues import fetch_jobs, open_queue
from warmclip.work.requeue import requeue_poisoned
from warmclip.work.status import read_status

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]

EMBED = "warmclip.work.jobs.embed_texts"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> Iterator[Running]:
    """One worker for all of them: it must outlive each."""
    environment = environment_of(tmp_path_factory.mktemp("hostile") / "home", demo_bundle)
    with running_worker(Settings.from_env(environment), environment) as running:
        yield running


def still_works(worker: Running) -> None:
    """The next job runs, and the process is the same."""
    assert worker.run(EMBED, ["still here"]).return_value
    assert worker.process.poll() is None


def test_time_out_beyond_measure(worker: Running) -> None:
    """It is refused, not computed with."""
    job = worker.enqueue(EMBED, ["a"], job_timeout=10**400)
    assert "time-out is longer" in reason(outcome(job))
    still_works(worker)


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("search", {"collection": 7, "text": "a"}, "SettingsError: collection 7"),
        ("search", {"collection": "a" * 10**6, "text": "a"}, "SettingsError: collection 'aaa"),
        ("search", {"collection": "images", "text": "a", "since": "1" * 10**6}, "is no day"),
        ("search", {"collection": "images", "text": "a", "folder": ["a" * 10**6]}, "no absolute"),
        ("search", {"collection": "images", "like": "a" * 10**6}, "is no id of a picture"),
        ("search", {"collection": "images", "text": "a", "min_score": 10**400}, "min_score=1000"),
        ("thumbnail", {"collection": "images", "id": "x", "side_px": 10**400}, "side_px=1000"),
        ("thumbnail", {"collection": "images", "id": "x", "side_px": 64, "known": 1}, "known must"),
        ("embed_images", {"paths": ["a" * 10**6]}, "is not an absolute path"),
    ],
)
def test_arguments_of_another_kind(
    worker: Running, function: str, arguments: dict[str, Any], said: str
) -> None:
    """They are refused with a sentence that is as short as any."""
    told = reason(worker.run(f"warmclip.work.jobs.{function}", kwargs=arguments))
    assert said in told
    assert len(told) < 2_000
    still_works(worker)


@pytest.mark.parametrize("entry", [b"a:b:c", b"\xff\xfe:x", b"no-colon"])
def test_strange_entry_among_the_started(worker: Running, entry: bytes) -> None:
    """It is taken out, so that nobody stumbles over it again."""
    key = open_queue(worker.connection).started_job_registry.key
    worker.connection.zadd(key, {entry: 4102444800})
    eventually(lambda: entry not in worker.connection.zrange(key, 0, -1))
    still_works(worker)


def test_strange_entry_in_between(worker: Running) -> None:
    """The same for the list of jobs that are on their way."""
    key = open_queue(worker.connection).intermediate_queue.key
    worker.connection.rpush(key, b"\xff\xfe")
    eventually(lambda: worker.connection.lrange(key, 0, -1) == [])
    still_works(worker)


@pytest.mark.parametrize("name", ["rq:wip:high", "rq:queue:high", "rq:queue:high:intermediate"])
def test_key_of_another_kind(worker: Running, name: str) -> None:
    """The queue is passed by; the others are worked on."""
    worker.connection.delete(name)
    worker.connection.set(name, "x")
    still_works(worker)
    worker.connection.delete(name)
    still_works(worker)


@pytest.mark.parametrize(
    "name", ["rq:workers", "rq:workers:high", "rq:warmclip:switched", "rq:warmclip:dead"]
)
def test_key_that_a_heartbeat_needs(worker: Running, name: str) -> None:
    """It is passed by: the worker lives on, and so do its heartbeats."""
    mine = f"rq:worker:{read_status(worker.connection).workers[0].name}"
    worker.connection.set(name, "x")
    still_works(worker)
    before = worker.connection.hget(mine, "last_heartbeat")
    eventually(lambda: worker.connection.hget(mine, "last_heartbeat") != before)
    still_works(worker)
    worker.connection.delete(name)
    if name.startswith("rq:workers"):  # they are told again at a heartbeat
        eventually(lambda: worker.connection.scard(name) == 1)


def test_worker_that_starts_and_ends(worker: Running, demo_bundle: Path, tmp_path: Path) -> None:
    """What it cannot tell of itself, as others have taken the place, does not end it."""
    worker.connection.set("rq:workers:low", "x")
    redis = f"unix://{worker.connection.get_connection_kwargs()['path']}"
    environment = environment_of(tmp_path / "home", demo_bundle) | {"REDIS_URL": redis}
    done = subprocess.run(
        [sys.executable, "-m", "warmclip", "worker", "--queues", "low", "--burst"],
        env=environment,
        capture_output=True,
        check=False,
    )
    worker.connection.delete("rq:workers:low")
    assert done.returncode == 0, done.stderr.decode()


def test_forged_worker_record(worker: Running) -> None:
    """A process number that is none of the digits that int takes."""
    mine = read_status(worker.connection).workers[0].name
    machine = worker.connection.hget(f"rq:worker:{mine}", "machine")
    assert isinstance(machine, bytes)
    worker.connection.hset("rq:worker:forged", mapping={"machine": machine, "pid": "²"})
    worker.connection.hset("rq:execution:j:e", mapping={"worker_name": "forged"})
    worker.connection.zadd("rq:wip:default", {"j:e": 4102444800})
    still_works(worker)
    worker.connection.zrem("rq:wip:default", "j:e")


def test_command_that_is_none(worker: Running) -> None:
    """The worker hears the next one all the same."""
    name = read_status(worker.connection).workers[0].name
    worker.connection.publish(f"rq:pubsub:{name}", b"not json \xff")
    worker.connection.publish(f"rq:pubsub:{name}", b"[]")
    eventually(lambda: "a command that is none" in worker.log.read_text())
    job = worker.enqueue("warmclip.work.jobs.embed_texts", ["a"])
    assert outcome(job).return_value
    worker.connection.publish(f"rq:pubsub:{name}", json.dumps({"command": "unheard-of"}))
    still_works(worker)


def test_path_that_asks_what_lies_outside(worker: Running, tmp_path: Path) -> None:
    """Two dots, or a name that no file can have, refuse the job."""
    for path in (f"{tmp_path}/../{tmp_path.name}/a.png", f"{tmp_path}/\ud800.png"):
        result = worker.run("warmclip.work.jobs.embed_images", [path])
        assert "is not an absolute path without '..'" in reason(result)


def forged_result(worker: Running, **fields: str | bytes) -> str:
    """The id of a failed job that has this result."""
    queue = open_queue(worker.connection)
    job = worker.enqueue("os.getpid")
    assert "not on the worker's list" in reason(outcome(job))
    key = f"rq:results:{job.id}"
    worker.connection.delete(key)
    payload = {"type": str(Result.Type.FAILED.value), "worker_name": "w"} | fields
    worker.connection.xadd(key, {name: it for name, it in payload.items() if it})
    assert job.id in queue.failed_job_registry
    return job.id


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"exc_string": base64.b64encode(zlib.compress(bytes(2**27)))}, "unpacks to more than"),
        ({"exc_string": b"\xff not base64"}, "cannot be used"),
        ({"exc_string": base64.b64encode(b"not compressed")}, "cannot be used"),
        ({"return_value": base64.b64encode(b"[" * 100_000)}, "cannot be used"),
        ({"type": "99"}, "cannot be used"),
        ({"type": ""}, "cannot be used"),
        ({"execution_started_at": "1e300"}, "cannot be used"),
    ],
    ids=["bomb", "no base64", "not packed", "deep", "unknown type", "no type", "no time"],
)
def test_forged_result(worker: Running, fields: dict[str, str | bytes], told: str) -> None:
    """Whoever reads it, `warmclip status` or a client, is told so, in little memory."""
    id_ = forged_result(worker, **fields)
    tracemalloc.start()
    try:
        (failure,) = [it for it in read_status(worker.connection).failures if it.job == id_]
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told in failure.reason
    assert used < 64 * 1024 * 1024
    report = report_of("images", ["/a.png"], fetch_jobs(worker.connection, [id_])[id_])
    assert told in report.skipped["/a.png"]
    still_works(worker)


def test_forged_dead_letters(worker: Running, tmp_path: Path) -> None:
    """They neither stop pictures nor make `--requeue` search folders."""
    (tmp_path / "secret.png").write_bytes(b"")
    letter: dict[str, object] = {"path": f"{tmp_path}/**/*", "collection": "images"}
    letter |= {"reason": "x", "job": "x", "size_bytes": None, "mtime_ns": None}
    letter["at"] = "2026-11-25T00:00:00+00:00"
    forged: list[object] = [
        letter,
        letter | {"path": 5},
        letter | {"at": "\x1b[2J"},
        {"path": "a\0b"},
        [],
    ]
    for number, record in enumerate(forged):
        worker.connection.hset("rq:warmclip:dead", f"{number}", json.dumps(record))
    assert len(PoisonedFiles(worker.connection).all()) == 1
    ids, images = requeue_poisoned(worker.connection, worker.settings)
    assert images == 1
    job = Queue(connection=worker.connection, serializer=JSONSerializer).fetch_job(ids[0])
    assert job is not None
    assert "secret.png" not in str(outcome(job).return_value) + str(job.args)
    worker.connection.delete("rq:warmclip:dead")
    still_works(worker)
