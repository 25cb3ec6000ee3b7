"""Jobs are taken out of their queues by a move to RQ's intermediate list, never by a pop.

A worker that dies just after it took a job leaves it in that list, where ``OrphanRecovery`` finds
it. RQ itself pops as soon as there are several queues, and so loses it.
"""

import logging
from collections.abc import Sequence

from redis import Redis
from redis.exceptions import ResponseError
from rq.exceptions import NoSuchJobError
from rq.queue import Queue
from rq.utils import as_text

from warmclip.work.allowlist import AllowedJob
from warmclip.work.patience import is_wrong_type
from warmclip.work.queue_watch import QueueWatch

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 0.5  # so soon does a worker see that it shall stop


class Dequeuer:
    """The queues of one worker, the most urgent first."""

    def __init__(self, redis: Redis, queues: Sequence[Queue]) -> None:
        self._queues = queues
        self._watch = QueueWatch(redis, [queue.key for queue in queues])
        self._passed_by: set[str] = set()

    def take(self) -> tuple[AllowedJob, Queue] | None:
        """The next job, if there is one now; the queues in their order."""
        for queue in self._queues:
            try:
                job = self._take(queue)
            except ResponseError as exc:
                self._pass_by(queue, exc)
                continue
            self._passed_by.discard(queue.key)
            if job is not None:
                return job, queue
        return None

    def wait(self) -> None:
        """Return as soon as there may be a job in one of the queues, or after half a second."""
        self._watch.wait(_LONGEST_WAIT_S)

    def _take(self, queue: Queue) -> AllowedJob | None:
        connection, between = queue.connection, queue.intermediate_queue.key
        while (taken := connection.lmove(queue.key, between, "LEFT", "RIGHT")) is not None:
            if job := self._fetch(queue, taken):
                return job
        return None

    def _fetch(self, queue: Queue, taken: bytes | str) -> AllowedJob | None:
        """The job of an id; an id of none is dropped, so that it cannot come again."""
        try:
            return AllowedJob.fetch(as_text(taken), queue.connection, queue.serializer)
        except NoSuchJobError:
            # Not worth a warning: a question expires when whoever asked it waits no longer.
            log.info("job %s expired or was deleted in the queue %r", as_text(taken), queue.name)
        except UnicodeDecodeError as exc:
            log.warning("something in the queue %r is no job; passed by: %r", queue.name, exc)
        queue.connection.lrem(queue.intermediate_queue.key, 1, taken)  # type: ignore[arg-type]  # bytes will do
        return None

    def _pass_by(self, queue: Queue, error: ResponseError) -> None:
        """Leave a key alone that is no queue; any other refusal is none of ours to judge."""
        if not is_wrong_type(error):
            raise error
        if queue.key not in self._passed_by:
            self._passed_by.add(queue.key)
            log.warning("%r is no queue; passed by: %s", queue.key, error)
