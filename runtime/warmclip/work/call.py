"""Questions: a job on the queue ``high``, and the answer that a worker gives to it."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from redis import Redis
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.results import Result

from warmclip.errors import JobFailed, QueueUnreachable, WarmclipError, revive
from warmclip.work.allowlist import job_name
from warmclip.work.queues import FailureReason, open_queue
from warmclip.work.worker_watch import RETURN_S, require_worker

log = logging.getLogger(__name__)

MOST_SENT_BYTES = 10 * 1024 * 1024
"""Of a picture that a job carries: in base64 14 MB, of the 16 MB that a worker reads."""

_SILENCE_S = 2.0  # before whoever waits for an answer is told why


def call(
    connection: Redis,
    function: str,
    arguments: Mapping[str, Any],
    *,
    timeout_s: float = 60.0,
    given_up: Callable[[], bool] = lambda: False,
) -> Any:
    """Have a worker run one of ``warmclip.work.jobs`` now, and return its answer.

    Args:
        connection: from ``open_broker``.
        function: its name in that module, such as ``search``.
        arguments: by name, of JSON's types.
        timeout_s: for waiting and running together.
        given_up: asked about every second; once it says so, nobody waits any more.

    Raises:
        QueueUnreachable: no worker is listening, or none answered in time.
        WarmclipError: what the function raised, of the same class.
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
        failure_ttl=whole_s,  # who asked is told; `warmclip status` need not keep it
    )
    told = False
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0 and not given_up():
        # Short waits, well within the connection's time-out.
        result = job.latest_result(timeout=1)
        if result is not None:
            return _answer(result)
        if not told and timeout_s - left >= _SILENCE_S:
            told = True
            log.warning("every worker is busy; waiting for one, up to %d s", whole_s)
    # It leaves the queue in any case. Then RQ raises if its record has ended, as it does by now.
    with suppress(InvalidJobOperation, NoSuchJobError):
        job.delete()
    raise QueueUnreachable(
        f"no worker answered within {whole_s} s; `warmclip status` shows what they are at"
    )


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
