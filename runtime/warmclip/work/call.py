"""Calls: a job on the queue ``high``, and the answer that a worker gives to it."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import Redis
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.results import Result

from warmclip.errors import JobFailed, QueueUnreachable, WarmclipError, revive
from warmclip.work.allowlist import job_name
from warmclip.work.queues import FailureReason, open_queue
from warmclip.work.worker_watch import RETURN_S, require_worker

log = logging.getLogger(__name__)

MOST_SENT_BYTES = 10 * 1024 * 1024
"""Of a picture that a job carries: in base64 14 MB, of the 16 MB that a worker reads."""

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

    job: Job
    timeout_s: float

    def wait(self, is_cancelled: Callable[[], bool] = lambda: False) -> Any:
        """Wait for the answer; see ``call``. Without one, the job leaves the queue."""
        told = False
        deadline = time.monotonic() + self.timeout_s
        while (left_s := deadline - time.monotonic()) > 0 and not is_cancelled():
            result = self.job.latest_result(timeout=1)
            if result is not None:
                return _answer(result)
            if not told and self.timeout_s - left_s >= _SILENCE_S:
                told = True
                log.warning("every worker is busy; waiting for one, up to %.0f s", self.timeout_s)
        # RQ deletes it, and then raises if its record has expired, as it does by now.
        with suppress(InvalidJobOperation, NoSuchJobError):
            self.job.delete()
        if is_cancelled():
            raise CallCancelled
        raise QueueUnreachable(
            f"no worker answered within {max(1, round(self.timeout_s))} s; `warmclip status` "
            "shows what they are at"
        )


def send_call(
    connection: Redis, function: str, arguments: Mapping[str, Any], *, timeout_s: float
) -> SentCall:
    """Queue a call; see ``call``.

    Raises:
        QueueUnreachable: no worker is listening.
    """
    queue = open_queue(connection, "high")
    require_worker(queue, return_s=min(timeout_s, RETURN_S))
    whole_s = max(1, round(timeout_s))
    job = queue.enqueue(
        job_name(function),
        kwargs=dict(arguments),
        description=function,
        job_timeout=whole_s,
        ttl=whole_s,
        result_ttl=whole_s,
        failure_ttl=whole_s,  # the caller gets the error; `warmclip status` need not keep it
    )
    return SentCall(job=job, timeout_s=timeout_s)


def _answer(result: Result) -> Any:
    if result.type == Result.Type.SUCCESSFUL:
        if not isinstance(result.return_value, dict):
            raise JobFailed(
                "a worker's answer in Redis is none: are client and workers of one warmclip?"
            )
        return result.return_value
    reason = FailureReason.of(result.exc_string)
    module, _, kind = reason.kind.rpartition(".")
    if module == WarmclipError.__module__:
        raise revive(kind, reason.message)
    raise JobFailed(f"the worker could not do it: {reason}")
