"""While no job ends: notices that no worker listens, and queues lost jobs again."""

import logging
import time
from collections.abc import Sequence

from rq.queue import Queue

from warmclip.errors import QueueUnreachable
from warmclip.work.queues import fetch_jobs, is_lost
from warmclip.work.status import listening

log = logging.getLogger(__name__)

_CHECK_S = 2.0


class StallWatch:
    """For a client that waits for jobs; it looks every two seconds."""

    def __init__(self, queue: Queue, worker_wait_s: float) -> None:
        self._queue = queue
        self._worker_wait_s = worker_wait_s
        self._suspects: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """A job ended: all is well."""
        self._alone_since: float | None = None
        self._next_check = time.monotonic() + _CHECK_S

    def check(self, pending: Sequence[str]) -> None:
        """Look, if it is time to.

        Args:
            pending: the ids of the jobs that are next.

        Raises:
            QueueUnreachable: no worker has been listening for as long as we may wait.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_S
        # Reading it has RQ hand back the jobs of workers that died.
        self._queue.started_job_registry.get_job_ids()
        self._requeue_lost(pending)
        if listening(self._queue):
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
            log.warning(
                "no worker is listening on the queue %r; start one with `warmclip worker` "
                "(waiting %.0f s)",
                self._queue.name,
                self._worker_wait_s,
            )
        if now - self._alone_since >= self._worker_wait_s:
            raise QueueUnreachable(
                f"no worker is listening on the queue {self._queue.name!r}; run `warmclip worker`. "
                "The jobs stay queued: `warmclip status` shows them"
            )

    def _requeue_lost(self, ids: Sequence[str]) -> None:
        """Queue again what a worker took, and died with before it said so."""
        queued = set(self._queue.job_ids)
        jobs = fetch_jobs(self._queue.connection, ids)
        lost = {id_ for id_, job in jobs.items() if is_lost(job, queued)}
        # Twice in a row: one look may fall between a worker's two steps.
        for id_ in lost & self._suspects:
            log.warning("job %s was lost with its worker; it is queued again", id_)
            self._queue.push_job_id(id_)
        self._suspects = lost
