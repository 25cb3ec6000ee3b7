"""Calls: a job on the queue ``high``, and the answer that a worker gives to it.

They are made with Redis' own commands, so that an application needs no RQ, or may have another one
than the workers. docs/reference/jobs.md has the records.
"""

import json
import logging
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from warmclip.errors import JobFailed, QueueUnreachable, WarmclipError, revive
from warmclip.work.job_result import FailureReason, JobResult, unusable
from warmclip.work.keys import QUEUES, job_key, queue_key, results_key
from warmclip.work.naming import job_name
from warmclip.work.patience import is_wrong_type
from warmclip.work.worker_watch import RETURN_S, describe_start, require_worker
from warmclip.work.workers import read_workers

log = logging.getLogger(__name__)

MOST_SENT_BYTES = 10 * 1024 * 1024
"""Of a picture that a job carries: in base64 14 MB, of the 16 MB that a worker reads."""

CALL_QUEUE = "high"
"""That calls go to."""

_SILENCE_S = 2.0  # before the log says why there is no answer yet


class CallCancelled(Exception):
    """Nobody waits for the answer to a call any more."""


def call(
    connection: Redis,
    function: str,
    arguments: Mapping[str, Any],
    *,
    timeout_s: float = 60.0,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Any:
    """Have a worker run one of ``warmclip.work.jobs`` now, and return its answer.

    Args:
        connection: from ``open_broker``.
        function: its name in that module, such as ``search``.
        arguments: by name, of JSON's types.
        timeout_s: for waiting and running together.
        is_cancelled: asked every second; once it is true, the job is taken back.

    Raises:
        QueueUnreachable: no worker is listening, or none answered in time.
        CallCancelled: it was cancelled.
        WarmclipError: what the function raised, of the same class.
    """
    sent = send_call(connection, function, arguments, timeout_s=timeout_s)
    return sent.wait(is_cancelled)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentCall:
    """A call that is in the queue, or in a worker."""

    connection: Redis
    id: str  # of the job
    timeout_s: float
    workers: int  # that listened when it was sent

    def wait(self, is_cancelled: Callable[[], bool] = lambda: False) -> Any:
        """Wait for the answer; see ``call``. Without one, the job leaves the queue."""
        told = False
        deadline = time.monotonic() + self.timeout_s
        while (left_s := deadline - time.monotonic()) > 0 and not is_cancelled():
            outcome = self._wait_a_second()
            if outcome is not None:
                return _answer(outcome)
            if not told and self.timeout_s - left_s >= _SILENCE_S:
                told = True
                why = self._describe_start() or "every worker is busy"
                log.warning("%s; waiting up to %.0f s", why, self.timeout_s)
        self._take_back()
        if is_cancelled():
            raise CallCancelled
        raise no_answer(self.timeout_s, self._describe_start())

    def _describe_start(self) -> str | None:
        return describe_start(read_workers(self.connection, CALL_QUEUE))

    def _wait_a_second(self) -> JobResult | None:
        key = results_key(self.id)
        try:
            streams: Any = self.connection.xread({key: "0-0"}, block=1000)
        except ResponseError as exc:
            if not is_wrong_type(exc):
                raise
            return JobResult(failure=FailureReason.of(unusable(exc)))
        for _, entries in streams:
            _, record = entries[-1]
            return JobResult.of(record)
        return None

    def _take_back(self) -> None:
        """Take the job out of the queue; one that a worker has begun ends there, and expires."""
        if self.connection.lrem(queue_key(CALL_QUEUE), 1, self.id):
            self.connection.delete(job_key(self.id))


def send_call(
    connection: Redis, function: str, arguments: Mapping[str, Any], *, timeout_s: float
) -> SentCall:
    """Queue a call; see ``call``.

    Raises:
        QueueUnreachable: no worker is listening.
    """
    workers = require_worker(connection, CALL_QUEUE, return_s=min(timeout_s, RETURN_S))
    whole_s = max(1, round(timeout_s))
    id_ = str(uuid.uuid4())
    with connection.pipeline() as pipeline:
        pipeline.sadd(QUEUES, queue_key(CALL_QUEUE))
        pipeline.hset(job_key(id_), mapping=job_record(CALL_QUEUE, function, arguments, whole_s))
        pipeline.expire(job_key(id_), whole_s)
        pipeline.rpush(queue_key(CALL_QUEUE), id_)
        pipeline.execute()
    return SentCall(connection=connection, id=id_, timeout_s=timeout_s, workers=workers)


def job_record(
    queue: str, function: str, arguments: Mapping[str, Any], whole_s: int
) -> dict[Any, Any]:
    """What RQ writes for a job that has so many seconds to wait, to run and to be read."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    called: list[Any] = [job_name(function), None, [], dict(arguments)]
    return {
        "data": zlib.compress(json.dumps(called).encode()),
        "origin": queue,
        "status": "queued",
        "created_at": now,
        "enqueued_at": now,
        "description": function,
        "timeout": whole_s,
        "ttl": whole_s,
        "result_ttl": whole_s,
        "failure_ttl": whole_s,  # the caller gets the error; `warmclip status` need not keep it
    }


def no_answer(timeout_s: float, start: str | None = None) -> QueueUnreachable:
    """The error of a call that no worker answered in time; of a start, see ``describe_start``."""
    why = start or "`warmclip status` shows what they are at"
    return QueueUnreachable(f"no worker answered within {max(1, round(timeout_s))} s; {why}")


def _answer(outcome: JobResult) -> Any:
    reason = outcome.failure
    if reason is None:
        if not isinstance(outcome.value, dict):
            raise JobFailed(
                "a worker's answer in Redis is none: are client and workers of one warmclip?"
            )
        return outcome.value
    module, _, kind = reason.kind.rpartition(".")
    if module == WarmclipError.__module__:
        raise revive(kind, reason.message)
    raise JobFailed(f"the worker could not do it: {reason}")
