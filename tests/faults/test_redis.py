"""Redis is killed, restarts, or is away for a while: the worker waits, and goes on.

By hand with ``AWAY_SECONDS=1,4,30,120``.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from faults.conftest import Rig
from running import PATIENCE_S, eventually, outcome, start_worker
from warmclip.work.private_redis import find_server
from warmclip.work.producer import submit_index, watch
from warmclip.work.queues import open_queue
from warmclip.work.status import read_status
from warmclip.work.workers import listening

EMBED = "warmclip.work.jobs.embed_texts"


AWAY_S = [float(part) for part in os.environ.get("AWAY_SECONDS", "1,4").split(",")]


class Server:
    """A redis-server of the test's own, with an append-only file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        # macOS takes a socket's path of 103 bytes at most, and a test's own folder is longer there.
        self.socket = Path(tempfile.mkdtemp(prefix="warmclip-", dir="/tmp")) / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._options = {"port": "0", "unixsocket": str(self.socket), "dir": str(folder)}
        # What was answered is there after a kill: a test would else lose jobs by itself.
        self._options |= {"appendonly": "yes", "appendfsync": "always", "save": ""}
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [find_server()]
        for name, value in self._options.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        with Redis(unix_socket_path=str(self.socket)) as probe:
            try:
                return bool(probe.ping())
            except RedisConnectionError:  # a socket is there before somebody listens
                return False

    def kill(self) -> None:
        """End it without a chance to write anything."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path, server_binary: None) -> Iterator[Server]:  # noqa: ARG001 - needed
    """A Redis that may be killed."""
    server = Server(tmp_path / "redis")
    yield server
    server.kill()


@pytest.mark.parametrize("away_s", [0.0, 20.0], ids=["restarted", "gone for 20 s"])
def test_redis_killed_during_jobs(rig: Rig, server: Server, away_s: float) -> None:
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
def test_redis_away_from_a_job(rig: Rig, server: Server, when: str, away_s: float) -> None:
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


def test_redis_absent_at_the_start(rig: Rig, server: Server) -> None:
    """A worker does not start: a sentence with the address, and the code of a service."""
    server.kill()
    log = rig.folder / "worker.log"
    process = start_worker(rig.environment(REDIS_URL=server.url), log=log)
    assert process.wait(PATIENCE_S) == 3
    assert "no answer from Redis at" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_redis_killed_while_idle(rig: Rig, server: Server) -> None:
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


def test_stop_while_redis_is_away(rig: Rig, server: Server) -> None:
    """A worker that waits for Redis leaves when it is asked to."""
    with rig.worker(REDIS_URL=server.url) as worker:
        server.kill()
        time.sleep(1)
        worker.process.terminate()
        assert worker.process.wait(PATIENCE_S) == 3  # it could not say good-bye
        server.start()
