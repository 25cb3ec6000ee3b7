"""Sessions without pictures, workers without a model; RQ's records are real, on a real Redis."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from redis import Redis
from redis.client import Pipeline
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.results import Result
from rq.utils import now, utcformat

from warmclip.indexing.report import IndexReport
from warmclip.work.allowlist import AllowedJob
from warmclip.work.queues import fetch_jobs, open_queue
from warmclip.work.replies import text_of
from warmclip.work.sessions.commands import SessionCommands
from warmclip.work.sessions.leases import ScanLeases
from warmclip.work.sessions.scanner import Scan, ScanResults
from warmclip.work.sessions.session import Session

_RESULT_TTL_S = 3600


class SimulatedWorker:
    """Takes jobs as our workers do, and records what RQ records; no picture is looked at."""

    def __init__(self, connection: Redis, name: str = "simulated") -> None:
        self.connection = connection
        self.queue = open_queue(connection)
        self.name = name
        self.ran: list[str] = []

    def take(self) -> AllowedJob | None:
        """Move a job to the list in between, as ``Dequeuer`` does."""
        between = self.queue.intermediate_queue.key
        while taken := self.connection.lmove(self.queue.key, between, "LEFT", "RIGHT"):
            with suppress(NoSuchJobError):
                job: AllowedJob = AllowedJob.fetch(
                    text_of(taken), connection=self.connection, serializer=self.queue.serializer
                )
                return job
            self.connection.lrem(between, 1, text_of(taken))
        return None

    def take_one(self) -> AllowedJob:
        """The same, where there is one."""
        job = self.take()
        assert job is not None
        return job

    def start(self, job: AllowedJob) -> None:
        """Record that it runs."""
        with self.connection.pipeline() as pipe:
            job.prepare_for_execution(self.name, pipe)
            pipe.lrem(self.queue.intermediate_queue.key, 1, job.id)
            pipe.execute()

    def finish(self, job: AllowedJob, *, skip: int = 0) -> None:
        """Record that it succeeded; so many of its pictures were skipped."""
        paths, collection = job.args
        skipped = dict.fromkeys(paths[:skip], "is empty")
        report = IndexReport(
            collection=collection, indexed=len(paths) - len(skipped), skipped=skipped
        )
        with self.connection.pipeline() as pipe:
            job.set_status(JobStatus.FINISHED, pipeline=pipe)
            Result.create(
                job,
                Result.Type.SUCCESSFUL,
                _RESULT_TTL_S,
                return_value=report.to_dict(),
                pipeline=pipe,
            )
            self.queue.finished_job_registry.add(job, _RESULT_TTL_S, pipeline=pipe)
            pipe.execute()
        self.ran.append(job.id)

    def give_back(self, job: AllowedJob) -> None:
        """Put it to the front again, as recovery does after this worker's death."""
        with self.connection.pipeline() as pipe:
            job.set_status(JobStatus.QUEUED, pipeline=pipe)
            pipe.lrem(self.queue.intermediate_queue.key, 0, job.id)
            self.queue.push_job_id(job.id, pipeline=pipe, at_front=True)
            pipe.execute()

    def run_one(self, *, skip: int = 0) -> bool:
        """Take a job and run it to its end; False if there is none."""
        job = self.take()
        if job is None:
            return False
        self.start(job)
        self.finish(job, skip=skip)
        return True

    def run_all(self) -> int:
        """Until the queue is empty; returns how many jobs there were."""
        count = 0
        while self.run_one():
            count += 1
        return count

    def run_for_a_while(self, chance: random.Random, stopped: Callable[[], bool]) -> None:
        """Until it is stopped; now and then it dies, and its job is given back."""
        while not stopped():
            job = self.take()
            if job is None:
                time.sleep(0.002)
                continue
            if chance.random() < 0.02:  # it died before it had recorded the start
                self.give_back(job)
                continue
            self.start(job)
            if chance.random() < 0.02:
                self.give_back(job)
                continue
            self.finish(job, skip=chance.randrange(2) if chance.random() < 0.1 else 0)


def draw_session(
    connection: Redis, chunks: int, *, size: int = 1, directory: str = "/pictures"
) -> Session:
    """A session, or the one at this folder, whose search has found so many chunks of pictures."""
    session, _ = SessionCommands(connection).start(directory, "images")
    leases = ScanLeases(connection)
    leases.beat()
    assert leases.acquire(session.id)
    results, scan = ScanResults(connection, leases), Scan(rescans_asked=session.rescans_asked)
    for number in range(chunks):
        paths = [f"{directory}/2026/holiday/{number:06}-{place:02}.jpg" for place in range(size)]
        results.add_chunk(session.id, scan, paths)
        scan.digests += bytes(8 * size)
    results.complete(session.id, scan)
    leases.release(session.id)
    leases.leave()
    found = results.get(session.id)
    assert found is not None
    return found


def jobs_of(connection: Redis, session: Session) -> dict[str, str]:
    """Every job of a session that RQ knows of, and its state."""
    keys = connection.scan_iter(f"rq:job:session-{session.id}-*", count=1000)
    ids = [text_of(key).removeprefix("rq:job:") for key in keys]
    jobs = fetch_jobs(connection, ids)
    return {id_: str(job.get_status(refresh=False)) for id_, job in jobs.items()}


def keys_of(connection: Redis) -> set[str]:
    """Every key that there is, without those of workers and of all sessions together."""
    return {text_of(key) for key in connection.scan_iter(count=1000)} - {
        *("rq:queues", "rq:warmclip:sessions", "rq:warmclip:totals"),
        *("rq:warmclip:sessions:open", "rq:warmclip:sessions:scanners"),
        "rq:warmclip:dead:version",  # whenever a session's pictures get another chance
    }


def failed_job(
    queue: Queue, function: str, job_id: str, *, args: Sequence[Any] = (), ttl_s: int = 3600
) -> Job:
    """A job that failed for good, as RQ records it."""
    job = queue.enqueue(function, args=args, job_id=job_id)
    queue.connection.lrem(queue.key, 0, job.id)
    job.set_status(JobStatus.FAILED)
    queue.failed_job_registry.add(job, ttl=ttl_s)  # which saves the whole record
    queue.connection.expire(job.key, ttl_s)
    return job


def register(connection: Redis, name: str, *queues: str, **fields: str) -> None:
    """A worker's record, as RQ writes it, of a worker on another machine."""
    names = queues or ("high", "default")
    record: dict[Any, Any] = {"pid": "7", "hostname": "elsewhere", "state": "idle"}
    record |= {"queues": ",".join(names), "last_heartbeat": utcformat(now())}
    connection.hset(f"rq:worker:{name}", mapping=record | fields)
    for key in ("rq:workers", *(f"rq:workers:{queue}" for queue in names)):
        connection.sadd(key, f"rq:worker:{name}")


@contextmanager
def before_next_write(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, watched: bool = True
) -> Iterator[None]:
    """Do something just before the next transaction, of watched keys or any, is carried out."""
    execute, has_acted = Pipeline.execute, False

    def interrupted(pipe: Pipeline, raise_on_error: bool = True) -> list[Any]:
        nonlocal has_acted
        is_it = pipe.explicit_transaction if watched else pipe.transaction
        if is_it and not has_acted:
            has_acted = True
            act()
        return execute(pipe, raise_on_error)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "execute", interrupted)
        yield
    assert has_acted, "no transaction came"


class Died(BaseException):
    """What ends a process between two of its steps."""


@contextmanager
def dying_before(monkeypatch: pytest.MonkeyPatch, writes: int) -> Iterator[list[Died]]:
    """The block ends just before it sends its next commands, once it has sent so many pipelines.

    Yields a list that has an entry afterwards if that came to pass.
    """
    execute, left = Pipeline.execute, writes
    deaths: list[Died] = []

    def counted(pipe: Pipeline, raise_on_error: bool = True) -> list[Any]:
        nonlocal left
        if left == 0:
            raise Died
        left -= 1
        return execute(pipe, raise_on_error)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "execute", counted)
        try:
            yield deaths
        except Died as death:
            deaths.append(death)
