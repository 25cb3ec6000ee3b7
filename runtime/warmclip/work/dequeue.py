"""Jobs are taken out of their queues by a move to RQ's intermediate list, never by a pop.

A worker that dies just after it took a job leaves it in that list, where ``OrphanRecovery`` finds
it. RQ itself pops as soon as there are several queues, and so loses it.
"""

import logging
import time
from collections.abc import Sequence

from redis.exceptions import ResponseError
from rq.exceptions import NoSuchJobError
from rq.queue import Queue
from rq.utils import as_text

from warmclip.work.allowlist import AllowedJob
from warmclip.work.patience import is_wrong_type

log = logging.getLogger(__name__)

_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.02, 0.2  # on the first queue, while there are others
_ONLY_QUEUE_WAIT_S = 1.0


class Dequeuer:
    """The queues of one worker, the most urgent first."""

    def __init__(self, queues: Sequence[Queue]) -> None:
        self._queues = queues
        self.reset_wait()

    def reset_wait(self) -> None:
        """Wait for a short time first: after a job, another one often follows soon."""
        self._wait_s = _ONLY_QUEUE_WAIT_S if len(self._queues) == 1 else _SHORTEST_WAIT_S

    def take(self) -> tuple[AllowedJob, Queue] | None:
        """The next job, if there is one now; the queues in their order."""
        for queue in self._queues:
            try:
                if job := self._take(queue):
                    return job, queue
            except ResponseError as exc:
                _pass_by(queue, exc)
        return None

    def wait(self) -> tuple[AllowedJob, Queue] | None:
        """The next job of the most urgent queue, for a moment; the others are only looked at."""
        first = self._queues[0]
        try:
            if job := self._take(first, self._wait_s):
                return job, first
        except ResponseError as exc:
            _pass_by(first, exc)
            time.sleep(_ONLY_QUEUE_WAIT_S)
        self._wait_s = max(self._wait_s, min(self._wait_s * 1.2, _LONGEST_WAIT_S))
        return None

    def _take(self, queue: Queue, wait_s: float | None = None) -> AllowedJob | None:
        connection, between = queue.connection, queue.intermediate_queue.key
        while True:
            if wait_s is None:
                taken = connection.lmove(queue.key, between, "LEFT", "RIGHT")
            else:  # redis-py's annotation knows whole seconds only; Redis takes fractions
                taken = connection.blmove(queue.key, between, wait_s, "LEFT", "RIGHT")  # type: ignore[arg-type]
            if taken is None:
                return None
            if job := self._fetch(queue, taken):
                return job

    def _fetch(self, queue: Queue, taken: bytes | str) -> AllowedJob | None:
        """The job of an id; an id of none is dropped, so that it cannot come again."""
        try:
            return AllowedJob.fetch(as_text(taken), queue.connection, queue.serializer)
        except (NoSuchJobError, UnicodeDecodeError) as exc:
            log.warning("something in the queue %r is no job; passed by: %r", queue.name, exc)
        queue.connection.lrem(queue.intermediate_queue.key, 1, taken)  # type: ignore[arg-type]  # bytes will do
        return None


def _pass_by(queue: Queue, error: ResponseError) -> None:
    """Leave a key alone that is no queue; any other refusal is none of ours to judge."""
    if not is_wrong_type(error):
        raise error
    log.warning("%r is no queue; passed by: %s", queue.key, error)
