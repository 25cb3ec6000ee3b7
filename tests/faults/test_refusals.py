"""Redis answers, and refuses: the worker waits with one line, and goes on; no job is lost or runs
twice.

By hand with ``REFUSED_JOBS=120``.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from rq.job import Job, JobStatus

from faults.conftest import Rig
from running import PATIENCE_S, Running, eventually, start_worker
from standins.redis_server import RedisServer, redis_server
from warmclip.work.status import read_status

PASSWORD = "s3cret"  # noqa: S105 - of a server that lives for one test
ALL = "on >s3cret ~* &* +@all"
JOBS = int(os.environ.get("REFUSED_JOBS", "40"))


@pytest.fixture
def server(tmp_path: Path, server_binary: None) -> Iterator[RedisServer]:  # noqa: ARG001 - needed
    """A Redis with a user for the worker, and an administrator who may change what that may do."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder, "--enable-debug-command", "yes", password="admin") as server:  # noqa: S106
        order(server, f"ACL SETUSER worker {ALL}")
        yield server


def order(server: RedisServer, commands: str) -> None:
    """Have the administrator do it, one after the other."""
    for command in commands.split("; "):
        server.admin.execute_command(*command.split())  # type: ignore[no-untyped-call]  # redis-py


# What makes Redis refuse -> what ends that -> how the line begins.
EVERYTHING = {
    "memory is full": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM"),
    "became a replica": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "READONLY"),
    "lost its master": (
        "CONFIG SET replica-serve-stale-data no; REPLICAOF 127.0.0.1 1",
        "REPLICAOF NO ONE; CONFIG SET replica-serve-stale-data yes",
        "MASTERDOWN",
    ),
    "too few replicas": (
        "CONFIG SET min-replicas-to-write 1",
        "CONFIG SET min-replicas-to-write 0",
        "NOREPLICAS",
    ),
    "no key": ("ACL SETUSER worker resetkeys", "ACL SETUSER worker ~*", "NOPERM"),
}
# The commands of one moment.
MOMENTS = {
    "dequeue": "lmove blmove",
    "start": "persist",
    "heartbeat": "expire",
    "success": "xadd",
    "failure": "xadd",
    "cleaning": "zrange",
    "registering": "sadd",
    "reading a job": "hgetall",
    "looking": "exists",
}


def cases() -> Iterator[object]:
    """Each refusal, for everything or for the commands of one moment."""
    for name, (begin, end, code) in EVERYTHING.items():
        yield pytest.param(begin, end, code, "count", id=name)
    for name, commands in MOMENTS.items():
        without = " ".join(f"-{command}" for command in commands.split())
        function = "count_and_fail" if name == "failure" else "count"
        begin, end = f"ACL SETUSER worker {without}", f"ACL SETUSER worker {ALL}"
        yield pytest.param(begin, end, "NOPERM", function, id=f"no right: {name}")


def submit(worker: Running, function: str, trace: Path) -> list[Job]:
    """Jobs that each leave a line of their own."""
    trace.touch()
    return [worker.enqueue(f"faulty_jobs.{function}", str(trace), n) for n in range(JOBS)]


def check(jobs: list[Job], trace: Path, status: JobStatus) -> None:
    """Every job has run once, and has its outcome."""
    eventually(lambda: all(job.get_status() == status for job in jobs))
    assert Counter(trace.read_text().split()) == Counter(str(n) for n in range(JOBS))
    for job in jobs:
        assert len(job.results()) == 1


@pytest.mark.parametrize(("begin", "end", "code", "function"), list(cases()))
def test_refused_for_a_while(
    rig: Rig, server: RedisServer, begin: str, end: str, code: str, function: str
) -> None:
    """In the middle of its work: it goes on where it was."""
    trace = rig.folder / "trace"
    with rig.worker(REDIS_URL=server.url("worker", PASSWORD)) as worker:
        watching = Running(
            process=worker.process,
            connection=server.admin,  # what the test itself asks is not refused
            settings=worker.settings,
            log=worker.log,
        )
        jobs = submit(watching, function, trace)
        eventually(lambda: len(trace.read_text().split()) >= 5)
        order(server, begin)
        eventually(lambda: "Redis refuses: " in worker.log.read_text(), 20)
        time.sleep(1.5)  # a few attempts
        order(server, end)
        check(jobs, trace, JobStatus.FAILED if function != "count" else JobStatus.FINISHED)
        assert worker.process.poll() is None
        log = worker.log.read_text()
        assert f"Redis refuses: {code}" in log
        assert log.count("Redis refuses: ") == 1
        assert "passed by" not in log
        assert "Traceback" not in log.replace("Traceback (most recent call last):\n  File", "")
        queue = jobs[0].origin
        assert server.admin.llen(f"rq:queue:{queue}:intermediate") == 0
        assert server.admin.zcard(f"rq:wip:{queue}") == 0


def test_no_channel_for_a_while(rig: Rig, server: RedisServer) -> None:
    """A worker that hears no commands any more runs its jobs, and hears them again when it may."""
    trace = rig.folder / "trace"
    with rig.worker(REDIS_URL=server.url("worker", PASSWORD)) as worker:
        jobs = submit(worker, "count", trace)
        eventually(lambda: len(trace.read_text().split()) >= 5)
        order(server, "ACL SETUSER worker resetchannels")
        check(jobs, trace, JobStatus.FINISHED)
        order(server, f"ACL SETUSER worker {ALL}")
        (name,) = (it.name for it in read_status(server.admin).workers)
        eventually(lambda: server.admin.publish(f"rq:pubsub:{name}", "no command") == 1)
        assert worker.process.poll() is None


def test_busy_with_a_script(rig: Rig, server: RedisServer) -> None:
    """The same while a script keeps it."""
    trace = rig.folder / "trace"
    order(server, "CONFIG SET busy-reply-threshold 10")
    with rig.worker(REDIS_URL=server.url("worker", PASSWORD)) as worker:
        jobs = submit(worker, "count", trace)
        eventually(lambda: len(trace.read_text().split()) >= 5)

        def keep_busy() -> None:
            with Redis(port=server.port, password="admin") as busy, suppress(ResponseError):  # noqa: S106
                busy.eval("while true do end", 0)

        thread = threading.Thread(target=keep_busy)
        thread.start()
        eventually(lambda: "Redis refuses: BUSY" in worker.log.read_text(), 20)
        time.sleep(1.5)
        order(server, "SCRIPT KILL")
        thread.join()
        check(jobs, trace, JobStatus.FINISHED)
        assert worker.process.poll() is None


def test_disk_of_redis_is_full(rig: Rig, server: RedisServer) -> None:
    """The same while it cannot save, and so takes no writes."""
    trace = rig.folder / "trace"
    folder = rig.folder / "redis"
    (folder / "dump.rdb").mkdir()
    (folder / "dump.rdb" / "in-the-way").touch()  # so that no snapshot can take its name
    with rig.worker(REDIS_URL=server.url("worker", PASSWORD)) as worker:
        jobs = submit(worker, "count", trace)
        eventually(lambda: len(trace.read_text().split()) >= 5)
        server.admin.config_set("save", "3600 1")
        order(server, "BGSAVE")
        eventually(lambda: "Redis refuses: MISCONF" in worker.log.read_text(), 20)
        time.sleep(1.5)
        server.admin.config_set("save", "")
        check(jobs, trace, JobStatus.FINISHED)
        assert worker.process.poll() is None


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("ACL SETUSER worker -sadd", f"ACL SETUSER worker {ALL}"),
        ("ACL SETUSER worker -subscribe", f"ACL SETUSER worker {ALL}"),
        ("ACL SETUSER worker resetchannels", f"ACL SETUSER worker {ALL}"),
    ],
)
def test_refused_at_the_start(rig: Rig, server: RedisServer, begin: str, end: str) -> None:
    """A worker that starts meanwhile says why it waits, and begins its work when it may."""
    order(server, begin)
    log = rig.folder / "worker.log"
    process = start_worker(rig.environment(REDIS_URL=server.url("worker", PASSWORD)), log=log)
    try:
        eventually(lambda: "Redis refuses: " in log.read_text())
        order(server, end)
        eventually(lambda: [it.state for it in read_status(server.admin).workers] == ["idle"])
        assert "Traceback" not in log.read_text()
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_refused_and_asked_to_stop(rig: Rig, server: RedisServer) -> None:
    """It leaves at once, with one sentence and the code of a service that cannot be used."""
    with rig.worker(REDIS_URL=server.url("worker", PASSWORD)) as worker:
        order(server, "ACL SETUSER worker -hset -lmove -blmove")
        eventually(lambda: "Redis refuses: " in worker.log.read_text(), 20)
        worker.process.terminate()
        assert worker.process.wait(PATIENCE_S) == 3
        log = worker.log.read_text()
        assert "refuses what is asked of it (NOPERM" in " ".join(log.split())
        assert "Traceback" not in log
        order(server, f"ACL SETUSER worker {ALL}")
