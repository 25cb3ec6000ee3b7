"""A closed lid: every process of ours stands still while Redis lives on, and the clock with it.
Or the clock is set.

By hand with ``SLEEP_SECONDS=40`` and ``100``. Without it the sleep is short, and heartbeats are
made to have ceased meanwhile.
"""

import os
import signal
import time
from collections.abc import Iterable

import pytest
from redis import Redis
from rq.job import JobStatus

from faults.conftest import Rig
from running import children, eventually, outcome
from warmclip.work.queues import open_queue
from warmclip.work.status import read_status

SECONDS = float(os.environ.get("SLEEP_SECONDS", "0"))
SHORT_S = 12.0  # more than two heartbeats


@pytest.mark.parametrize("workers", [1, 2])
def test_closed_lid(rig: Rig, workers: int) -> None:
    """The job that ran goes on to its end: nobody takes it for lost, and it runs once."""
    trace = rig.folder / "trace"
    nowhere = {"QDRANT_URL": "http://[::1]:1"}  # so that two workers may share it
    with rig.worker(**nowhere) as one, rig.worker(**nowhere) as other:
        eventually(lambda: len(idle(one.connection)) == 2)
        if workers == 1:
            other.process.terminate()
            other.process.wait()
        job = one.enqueue("faulty_jobs.count_slowly", str(trace), 8, job_timeout=600)
        eventually(trace.exists)
        pids = [it.process.pid for it in (one, other) if it.process.poll() is None]
        pids += [horse for pid in pids for horse in children(pid)]
        stop(pids, signal.SIGSTOP)
        try:
            time.sleep(SECONDS or SHORT_S)
            if not SECONDS:
                started = open_queue(one.connection).started_job_registry
                for entry in started.get_job_and_execution_ids(cleanup=False):
                    one.connection.zadd(started.key, {":".join(entry): 1})
                    one.connection.delete(f"rq:execution:{':'.join(entry)}")
            read_status(one.connection)  # who counts cleans nothing up
        finally:
            stop(reversed(pids), signal.SIGCONT)
        assert outcome(job, 60).return_value == 8
        eventually(lambda: job.get_status() == JobStatus.FINISHED)
        assert trace.read_text() == "begin\nend\n"
        assert len(job.results()) == 1
        assert "was lost with its worker" not in one.log.read_text()


@pytest.mark.parametrize(("whose", "seconds"), [("of the job", -3600), ("of another worker", 3600)])
def test_clock_is_set(rig: Rig, whose: str, seconds: int) -> None:
    """The same where one worker's clock is set while a job runs: Redis has one of its own."""
    trace = rig.folder / "trace"
    nowhere = {"QDRANT_URL": "http://[::1]:1"}
    clocks = {name: rig.folder / name for name in ("of the job", "of another worker")}
    for clock in clocks.values():
        clock.write_text("0")
    with rig.worker(FAULTY_CLOCK=str(clocks["of the job"]), **nowhere) as one:
        job = one.enqueue("faulty_jobs.count_slowly", str(trace), 20, job_timeout=600)
        eventually(trace.exists)
        with rig.worker(FAULTY_CLOCK=str(clocks["of another worker"]), **nowhere):
            eventually(lambda: idle(one.connection))
            clocks[whose].write_text(str(seconds))
            assert outcome(job, 60).return_value == 20
        assert trace.read_text() == "begin\nend\n"
        assert len(job.results()) == 1
        assert "was lost with its worker" not in one.log.read_text()


def idle(connection: Redis) -> list[str]:
    """The workers that wait for a job."""
    return [it.name for it in read_status(connection).workers if it.state == "idle"]


def stop(pids: Iterable[int], signum: int) -> None:
    """Send a signal to each."""
    for pid in pids:
        os.kill(pid, signum)
