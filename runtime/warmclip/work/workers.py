"""Workers, as their records in Redis tell of them. Reading changes nothing there.

Others may write to the same Redis: what cannot be read is passed by, and said once.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import Redis

from warmclip.work.keys import WORKER_PREFIX, WORKERS, execution_key, executions_key, workers_key
from warmclip.work.liveness import AT, MODELS, STARTING, TROUBLE, is_gone
from warmclip.work.replies import read_members, replies_of, text_of

_MOST_DIGITS = 9  # of a process's number
_MOST = 16  # models of one worker
_MOST_TROUBLE = 1_000  # characters

FINGERPRINT = re.compile("[0-9a-f]{64}")
"""Of a model, as a whole text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker that is registered and, as far as can be seen from here, alive."""

    name: str
    state: str  # starting, started, idle, busy or suspended
    queues: tuple[str, ...]
    job: str | None  # the id of the one that it runs
    at: tuple[int, int, str] | None  # how far that, or its start, is: done, total, stage
    hostname: str
    pid: int
    last_heartbeat: str | None  # ISO 8601, UTC
    models: tuple[str, ...] = ()  # the fingerprints of those that it has loaded
    trouble: str = ""  # why it has not loaded one that it should


def read_workers(connection: Redis, queue: str | None = None) -> list[WorkerState]:
    """The workers that are there, by name: all, or those that listen to one queue."""
    names = _registered(connection, queue)
    records = replies_of(connection, [("HGETALL", WORKER_PREFIX + name) for name in names])
    jobs = _running_jobs(connection, names)
    workers = []
    for name, record in zip(names, records, strict=True):
        if isinstance(record, Mapping) and (worker := _parse(name, record, jobs.get(name))):
            workers.append(worker)
    return [it for it in workers if not is_gone(connection, WORKER_PREFIX + it.name)]


def listening(connection: Redis, queue: str) -> bool:
    """Whether a worker that reads this queue is there."""
    return bool(read_workers(connection, queue))


def expired_workers(connection: Redis, queue: str) -> list[str]:
    """Workers that are registered for this queue, and have no record any more.

    They died without a word, or Redis did not run for longer than records live: then they register
    again at their next heartbeat.
    """
    names = _registered(connection, queue)
    found = replies_of(connection, [("EXISTS", WORKER_PREFIX + name) for name in names])
    return [name for name, is_there in zip(names, found, strict=True) if not is_there]


def unregister(connection: Redis, queue: str, names: Sequence[str]) -> None:
    """Take workers that died out of RQ's sets, as RQ's own maintenance does."""
    if names:
        keys = [WORKER_PREFIX + name for name in names]
        with connection.pipeline() as pipeline:
            pipeline.srem(workers_key(queue), *keys)
            pipeline.srem(WORKERS, *keys)
            pipeline.execute()


def _registered(connection: Redis, queue: str | None) -> list[str]:
    key = WORKERS if queue is None else workers_key(queue)
    return read_members(connection, key, WORKER_PREFIX)


def _running_jobs(connection: Redis, names: list[str]) -> dict[str, str]:
    """Worker -> the job that it runs, where it runs one."""
    answers = replies_of(connection, [("SMEMBERS", executions_key(name)) for name in names])
    found: list[tuple[str, str, str]] = []
    for name, entries in zip(names, answers, strict=True):
        for entry in sorted(map(text_of, entries)) if isinstance(entries, set) else ():
            job, colon, execution = entry.partition(":")
            if colon and ":" not in execution:
                found.append((name, job, execution_key(job, execution)))
    # Of one that does not exist, the heartbeats have ceased.
    alive = replies_of(connection, [("EXISTS", key) for _, _, key in found])
    return {name: job for (name, job, _), is_there in zip(found, alive, strict=True) if is_there}


def _parse(name: str, record: Mapping[Any, Any], job: str | None) -> WorkerState | None:
    """A worker's record; None for one that is none, or of a worker that has left."""
    values = {text_of(field): text_of(value) for field, value in record.items()}
    pid = values.get("pid", "")
    if not (pid.isascii() and pid.isdigit() and len(pid) <= _MOST_DIGITS and int(pid)):
        return None
    try:
        beat = datetime.fromisoformat(values["last_heartbeat"]).isoformat()
    except (KeyError, ValueError):
        beat = None
    state = values.get("state", "?")
    return WorkerState(
        name=name,
        state=state,
        queues=tuple(filter(None, values.get("queues", "").split(","))),
        job=job,
        at=_progress(values.get(AT), STARTING if state == STARTING else job),
        hostname=values.get("hostname", ""),
        pid=int(pid),
        last_heartbeat=beat,
        models=tuple(filter(FINGERPRINT.fullmatch, values.get(MODELS, "").split(",")))[:_MOST],
        trouble=values.get(TROUBLE, "")[:_MOST_TROUBLE],
    )


def _progress(raw: str | None, job: str | None) -> tuple[int, int, str] | None:
    """What the worker last heard of its horse about this job, or about its start."""
    try:
        told_of, done, total, stage = json.loads(raw or "")
        return (int(done), int(total), str(stage)) if job and told_of == job else None
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
