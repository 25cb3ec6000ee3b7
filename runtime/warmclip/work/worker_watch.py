"""Whether a worker listens to a queue, for whoever sends jobs there; if none does, why."""

import logging
import time
from collections.abc import Sequence

from redis import Redis

from warmclip.errors import QueueUnreachable
from warmclip.work.liveness import STARTING, describe_stage
from warmclip.work.workers import WorkerState, expired_workers, read_workers, unregister

log = logging.getLogger(__name__)

_CHECK_S = 2.0
_START_CHECK_S = 0.5
RETURN_S = 8.0
"""In which a worker registers again: its next heartbeat, and a little more."""

LONGEST_STAGE_S = 1800.0
"""Of a start; one that tells nothing new for longer is not waited for. It tells of every trial,
which has five minutes (WARMCLIP_TRIAL_SECONDS)."""

_PROBE = "rq:warmclip:probe"


def require_worker(connection: Redis, queue: str, *, return_s: float = RETURN_S) -> int:
    """Return how many workers listen to this queue: one at least.

    Records of workers expire while Redis is frozen, or refuses writes: where there are signs of
    that, workers get the time to register again.

    Args:
        connection: from ``open_broker``.
        queue: that a job is to be sent to.
        return_s: that time.

    Raises:
        QueueUnreachable: none does; the message says so, and which queues workers listen to.
        RedisError: Redis refuses writes, which is why workers cannot register.
    """
    deadline = time.monotonic() + return_s
    while not (there := read_workers(connection, queue)):
        check_writes(connection)
        expired = expired_workers(connection, queue)
        if not expired or time.monotonic() >= deadline:
            unregister(connection, queue, expired)  # so that the next one need not wait for them
            raise QueueUnreachable(f"{describe_absence(connection, queue)}; run `warmclip worker`")
        time.sleep(0.2)
    return len(there)


def check_writes(connection: Redis) -> None:
    """Write something that expires at once.

    Raises:
        RedisError: Redis refuses it.
    """
    connection.set(_PROBE, "", px=1)


def describe_absence(connection: Redis, queue: str) -> str:
    """That no worker listens to a queue, and to which ones those listen that are there."""
    others = {name for worker in read_workers(connection) for name in worker.queues}
    absence = f"no worker is listening on the queue {queue!r}"
    if not others:
        return absence
    return f"{absence}: the workers that are there listen on {', '.join(sorted(others))} (--queues)"


def describe_start(workers: Sequence[WorkerState]) -> str | None:
    """How far a worker's start is, while none of these workers has its model; else None.

    The first start on a machine tries its providers, which may compile the model for minutes.
    """
    if not workers or any(worker.state != STARTING for worker in workers):
        return None
    progress = next((worker.at for worker in workers if worker.at is not None), None)
    if progress is None:
        return "a worker is starting"
    return f"a worker is starting: {describe_stage(progress)}"


class _Start:
    """How far the start of a queue's workers is, as it was last seen."""

    def __init__(self) -> None:
        self.words: str | None = None  # while there is none but such
        self._since = time.monotonic()

    def look(self, workers: Sequence[WorkerState]) -> str | None:
        """Take note of these workers, and return the words.

        Raises:
            QueueUnreachable: for too long, they have told nothing new.
        """
        former, self.words = self.words, describe_start(workers)
        now = time.monotonic()
        if self.words is None or self.words != former:
            self._since = now
        elif now - self._since > LONGEST_STAGE_S:
            raise QueueUnreachable(
                f"{self.words}, and has told nothing new for {LONGEST_STAGE_S / 60:.0f} minutes: "
                "look at its log, and start it again"
            )
        return self.words


def wait_for_start(connection: Redis, queue: str) -> None:
    """Wait while no worker of this queue has its model, and one is starting; the log says how far.

    A worker that cannot load its model leaves, which ends its start.

    Raises:
        QueueUnreachable: the start has told nothing new for ``LONGEST_STAGE_S``.
    """
    began, told = time.monotonic(), None
    seen = _Start()
    while (start := seen.look(read_workers(connection, queue))) is not None:
        if start != told and time.monotonic() - began >= _CHECK_S:
            told = start
            log.warning("waiting: %s", start)
        time.sleep(_START_CHECK_S)


class WorkerWatch:
    """For a client that waits for jobs; it looks every two seconds."""

    def __init__(self, connection: Redis, queue: str, worker_wait_s: float) -> None:
        self._connection, self._queue = connection, queue
        self._worker_wait_s = worker_wait_s
        self.reset()

    def reset(self) -> None:
        """A job ended: all is well."""
        self._start = _Start()
        self._alone_since: float | None = None
        self._next_check = time.monotonic() + _CHECK_S

    @property
    def start(self) -> str | None:
        """How far a worker's start is, while there is none but such."""
        return self._start.words

    def check(self) -> None:
        """Look, if it is time to.

        Raises:
            QueueUnreachable: no worker has been listening for as long as we may wait, or one has
                been starting for too long.
            RedisError: Redis refuses writes, which is why workers cannot register.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_S
        workers = read_workers(self._connection, self._queue)
        self._start.look(workers)
        if workers:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
            log.warning(
                "%s; start one with `warmclip worker` (waiting %.0f s)",
                describe_absence(self._connection, self._queue),
                self._worker_wait_s,
            )
        if now - self._alone_since >= self._worker_wait_s:
            check_writes(self._connection)
            raise QueueUnreachable(
                f"{describe_absence(self._connection, self._queue)}; run `warmclip worker`. "
                "The jobs stay queued: `warmclip status` shows them"
            )
