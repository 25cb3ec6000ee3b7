"""Workers, as their records in Redis tell of them. Reading changes nothing there.

Others may write to the same Redis: what cannot be read is passed by, and said once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, Execution
from rq.queue import Queue
from rq.utils import utcparse
from rq.worker import Worker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from warmclip.work.liveness import AT, is_gone
from warmclip.work.queues import answers_of, read_members, text_of

_MOST_DIGITS = 9  # of a process's number

_PREFIX: str = Worker.redis_worker_namespace_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker that is registered and, as far as can be seen from here, alive."""

    name: str
    state: str  # started, idle, busy or suspended
    queues: tuple[str, ...]
    job: str | None  # the id of the one that it runs
    at: tuple[int, int, str] | None  # how far that is: done, total, stage
    hostname: str
    pid: int
    last_heartbeat: str | None  # ISO 8601, UTC


def read_workers(connection: Redis, queue: Queue | None = None) -> list[WorkerState]:
    """The workers that are there, by name: all, or those that listen to one queue."""
    names = _registered(connection, queue)
    with connection.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.hgetall(_PREFIX + name)
        records = answers_of(pipeline)
    jobs = _running_jobs(connection, names)
    workers = []
    for name, record in zip(names, records, strict=True):
        if isinstance(record, Mapping) and (worker := _parse(name, record, jobs.get(name))):
            workers.append(worker)
    return [it for it in workers if not is_gone(connection, _PREFIX + it.name)]


def expired_workers(queue: Queue) -> list[str]:
    """Workers that are registered for this queue, and have no record any more.

    They died without a word, or Redis did not run for longer than records live: then they register
    again at their next heartbeat.
    """
    names = _registered(queue.connection, queue)
    with queue.connection.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.exists(_PREFIX + name)
        found = answers_of(pipeline)
    return [name for name, is_there in zip(names, found, strict=True) if not is_there]


def unregister(queue: Queue, names: Sequence[str]) -> None:
    """Take workers that died out of RQ's sets, as RQ's own maintenance does."""
    if names:
        keys = [_PREFIX + name for name in names]
        with queue.connection.pipeline() as pipeline:
            pipeline.srem(WORKERS_BY_QUEUE_KEY % queue.name, *keys)
            pipeline.srem(Worker.redis_workers_keys, *keys)
            pipeline.execute()


def _registered(connection: Redis, queue: Queue | None) -> list[str]:
    key = Worker.redis_workers_keys if queue is None else WORKERS_BY_QUEUE_KEY % queue.name
    return read_members(connection, key, _PREFIX)


def _running_jobs(connection: Redis, names: list[str]) -> dict[str, str]:
    """Worker -> the job that it runs, where it runs one."""
    with connection.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.smembers(WORKER_EXECUTIONS_KEY_TEMPLATE.format(name))
        answers = answers_of(pipeline)
    found: list[tuple[str, str, str]] = []
    for name, entries in zip(names, answers, strict=True):
        for entry in sorted(map(text_of, entries)) if isinstance(entries, set) else ():
            job, colon, execution = entry.partition(":")
            if colon and ":" not in execution:
                found.append((name, job, Execution(execution, job, connection).key))
    with connection.pipeline(transaction=False) as pipeline:
        for _, _, key in found:
            pipeline.exists(key)  # else its heartbeats have ceased
        alive = answers_of(pipeline)
    return {name: job for (name, job, _), is_there in zip(found, alive, strict=True) if is_there}


def _parse(name: str, record: Mapping[Any, Any], job: str | None) -> WorkerState | None:
    """A worker's record; None for one that is none, or of a worker that has left."""
    values = {text_of(field): text_of(value) for field, value in record.items()}
    pid = values.get("pid", "")
    if not (pid.isascii() and pid.isdigit() and len(pid) <= _MOST_DIGITS and int(pid)):
        return None
    try:
        beat = utcparse(values["last_heartbeat"]).isoformat()
    except (KeyError, ValueError):
        beat = None
    return WorkerState(
        name=name,
        state=values.get("state", "?"),
        queues=tuple(filter(None, values.get("queues", "").split(","))),
        job=job,
        at=_progress(values.get(AT), job),
        hostname=values.get("hostname", ""),
        pid=int(pid),
        last_heartbeat=beat,
    )


def _progress(raw: str | None, job: str | None) -> tuple[int, int, str] | None:
    """What the worker last heard of its horse about this job."""
    try:
        told_of, done, total, stage = json.loads(raw or "")
        return (int(done), int(total), str(stage)) if job and told_of == job else None
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
