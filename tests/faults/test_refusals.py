"""Redis answers, and refuses: the worker waits with one line, and goes on; no job is lost or runs
twice.

By hand with ``REFUSED_JOBS=120``.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rq.job import Job, JobStatus

from faults.conftest import Rig
from running import PATIENCE_S, Running, eventually, start_worker
from standins.redis_server import RedisServer, redis_server
from standins.refusals import ALL, PASSWORD, REFUSALS, order, refusing_redis
from warmclip.work.status import read_status

JOBS = int(os.environ.get("REFUSED_JOBS", "40"))


@pytest.fixture
def server(tmp_path: Path, server_binary: None) -> Iterator[RedisServer]:  # noqa: ARG001 - needed
    """A Redis that can be made to refuse."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with refusing_redis(folder) as server:
        yield server


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


# How long a server that loads is seen to depends on the machine: that is for `make soak`.
@pytest.mark.parametrize("name", [name for name in REFUSALS if name != "LOADING"])
def test_refused_for_a_while(rig: Rig, server: RedisServer, name: str) -> None:
    """In the middle of its work: it goes on where it was."""
    trace = rig.folder / "trace"
    fails = name.endswith("failure")
    with rig.worker(REDIS_URL=server.url("worker", PASSWORD)) as worker:
        watching = Running(
            process=worker.process,
            connection=server.admin,  # what the test itself asks is not refused
            settings=worker.settings,
            log=worker.log,
        )
        jobs = submit(watching, "count_and_fail" if fails else "count", trace)
        eventually(lambda: len(trace.read_text().split()) >= 5)
        told = f"Redis refuses: {name.partition(',')[0]}"
        with REFUSALS[name](server):
            eventually(lambda: told in worker.log.read_text())
            time.sleep(1.5)  # a few attempts
        check(jobs, trace, JobStatus.FAILED if fails else JobStatus.FINISHED)
        assert worker.process.poll() is None
        log = worker.log.read_text()
        assert log.count(told) == 1
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
        eventually(lambda: "Redis refuses: " in worker.log.read_text())
        worker.process.terminate()
        assert worker.process.wait(PATIENCE_S) == 3
        log = worker.log.read_text()
        assert "refuses what is asked of it (NOPERM" in " ".join(log.split())
        assert "Traceback" not in log
        order(server, f"ACL SETUSER worker {ALL}")


@pytest.mark.parametrize("slots", ["", "CLUSTER ADDSLOTSRANGE 0 16383"], ids=["down", "up"])
@pytest.mark.usefixtures("server_binary")
def test_cluster(rig: Rig, slots: str) -> None:
    """RQ's jobs cannot be kept in one: no worker waits for it, even while it says CLUSTERDOWN."""
    with redis_server(rig.folder, "--cluster-enabled", "yes") as server:
        if slots:
            order(server, slots)
        log = rig.folder / "worker.log"
        process = start_worker(rig.environment(REDIS_URL=server.url()), log=log)
        assert process.wait(PATIENCE_S) == 2
        assert "this Redis is part of a cluster" in log.read_text()
        assert "Traceback" not in log.read_text()
