"""Redis is killed, restarts, or is away for a while: the worker waits, and goes on.

By hand with ``AWAY_SECONDS=1,4,30,120``.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.conftest import Rig
from running import PATIENCE_S, eventually, outcome, start_worker
from standins.redis_server import DurableRedis
from warmclip.work.producer import submit_index, watch
from warmclip.work.queues import open_queue
from warmclip.work.status import read_status
from warmclip.work.workers import listening

EMBED = "warmclip.work.jobs.embed_texts"


AWAY_S = [float(part) for part in os.environ.get("AWAY_SECONDS", "1,4").split(",")]


@pytest.fixture
def server(tmp_path: Path, server_binary: None) -> Iterator[DurableRedis]:  # noqa: ARG001 - needed
    """A Redis that may be killed."""
    server = DurableRedis(tmp_path / "redis")
    yield server
    server.kill()


@pytest.mark.parametrize("away_s", [0.0, 20.0], ids=["restarted", "gone for 20 s"])
def test_redis_killed_during_jobs(rig: Rig, server: DurableRedis, away_s: float) -> None:
    """What was queued is done to the end; the worker is the same process as before."""
    pictures = rig.pictures(48)
    slow = {"WARMCLIP_PROVIDER": "faulty-slow", "FAULTY_SECONDS": "0.1", "WARMCLIP_BATCH_SIZE": "8"}
    roots = str(rig.folder)
    with rig.worker(REDIS_URL=server.url, WARMCLIP_ROOTS=roots, **slow) as worker:
        run = submit_index(worker.connection, worker.settings, pictures, chunk=16)
        eventually(open_queue(worker.connection).started_job_registry.get_job_ids)
        server.kill()
        time.sleep(away_s)
        server.start()
        report = watch(worker.connection, run)
        assert report.indexed + report.unchanged == 48
        assert report.skipped == {}
        assert worker.process.poll() is None
        assert worker.run(EMBED, ["still here"]).return_value


@pytest.mark.parametrize("away_s", AWAY_S)
@pytest.mark.parametrize("when", ["start", "middle", "end"])
def test_redis_away_from_a_job(rig: Rig, server: DurableRedis, when: str, away_s: float) -> None:
    """Its outcome is recorded once, as it was, and it has run once."""
    trace = rig.folder / "trace"
    nowhere = {"REDIS_URL": server.url, "QDRANT_URL": "http://[::1]:1"}
    with rig.worker(**nowhere) as worker:
        seconds = round(away_s) + 4 if when == "middle" else 2
        job = worker.enqueue("faulty_jobs.count_slowly", str(trace), seconds, job_timeout=600)
        if when != "start":
            eventually(trace.exists)
        server.kill()
        time.sleep(away_s + (seconds if when == "end" else 0))
        server.start()
        assert outcome(job, 60).return_value == seconds
        assert trace.read_text() == "begin\nend\n"
        assert len(job.results()) == 1
        queue = open_queue(worker.connection)
        assert queue.started_job_registry.get_job_ids() == []
        assert queue.intermediate_queue.get_job_ids() == queue.job_ids == []
        assert worker.process.poll() is None


def test_redis_absent_at_the_start(rig: Rig, server: DurableRedis) -> None:
    """A worker does not start: a sentence with the address, and the code of a service."""
    server.kill()
    log = rig.folder / "worker.log"
    process = start_worker(rig.environment(REDIS_URL=server.url), log=log)
    assert process.wait(PATIENCE_S) == 3
    assert "no answer from Redis at" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_redis_killed_while_idle(rig: Rig, server: DurableRedis) -> None:
    """The worker listens again when Redis is back, also one that came back without memory."""
    with rig.worker(REDIS_URL=server.url) as worker:
        server.kill()
        for file in server.socket.parent.rglob("*.aof*"):
            file.unlink()
        time.sleep(1)
        server.start()
        eventually(lambda: listening(worker.connection, "default"))
        assert [it.state for it in read_status(worker.connection).workers] == ["idle"]
        assert outcome(worker.enqueue(EMBED, ["a"]), 60).return_value


def test_stop_while_redis_is_away(rig: Rig, server: DurableRedis) -> None:
    """A worker that waits for Redis leaves when it is asked to."""
    with rig.worker(REDIS_URL=server.url) as worker:
        server.kill()
        time.sleep(1)
        worker.process.terminate()
        assert worker.process.wait(PATIENCE_S) == 3  # it could not say good-bye
        server.start()
