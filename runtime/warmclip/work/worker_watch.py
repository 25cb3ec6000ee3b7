"""While no job ends: notices that no worker listens."""

import logging
import time

from rq.queue import Queue

from warmclip.errors import QueueUnreachable
from warmclip.work.status import listening

log = logging.getLogger(__name__)

_CHECK_S = 2.0


class WorkerWatch:
    """For a client that waits for jobs; it looks every two seconds."""

    def __init__(self, queue: Queue, worker_wait_s: float) -> None:
        self._queue = queue
        self._worker_wait_s = worker_wait_s
        self.reset()

    def reset(self) -> None:
        """A job ended: all is well."""
        self._alone_since: float | None = None
        self._next_check = time.monotonic() + _CHECK_S

    def check(self) -> None:
        """Look, if it is time to.

        Raises:
            QueueUnreachable: no worker has been listening for as long as we may wait.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_S
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
