"""The worker: RQ's SimpleWorker with JSON, an allow-list, and a model that is already warm.

It never forks: no work horse per job, no scheduler, no worker pool. In this version a job that
kills its process kills the worker with it; a supervisor starts it again, and RQ retries the job.
"""

import logging
import signal
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from types import FrameType
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker

from warmclip.errors import QueueUnreachable, WarmclipError
from warmclip.settings import Settings
from warmclip.work.allowlist import AllowedJob
from warmclip.work.broker import open_broker
from warmclip.work.horse import Horse, open_horse

log = logging.getLogger(__name__)

QUEUES = ("high", "default")

_PAUSE_S = 0.2  # after a record that is no job, in case there are many


class JsonWorker(SimpleWorker):
    """SimpleWorker for the jobs of the allow-list, in JSON."""

    log_result_lifespan = False

    def __init__(self, queues: Sequence[str], connection: Redis) -> None:
        # A name of its own at every start: RQ takes a killed worker's for taken, for minutes.
        super().__init__(
            list(queues),
            name=f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
            connection=connection,
            job_class=AllowedJob,
            serializer=JSONSerializer,
            log_job_description=False,  # arguments are not for the log: they may be searches
        )
        self.was_asked_to_stop = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the job, then leave; a second signal leaves at once."""
        self.was_asked_to_stop = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]  # rq's is not annotated

    def dequeue_job_and_maintain_ttl(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for a job, passing by what is none.

        A record that breaks RQ's own reading of the queue must not end the worker: the next one
        would read it again.
        """
        while True:
            try:
                return super().dequeue_job_and_maintain_ttl(*args, **kwargs)
            except (RedisConnectionError, RedisTimeoutError):
                raise
            except (RedisError, ValueError, TypeError, RecursionError) as exc:
                self.log.warning("something in the queues is no job; passed by: %r", exc)
                time.sleep(_PAUSE_S)

    def procline(self, message: str) -> None:
        """Keep the process's title: setproctitle loads frameworks on macOS."""

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log what went wrong: our own errors say it in a line."""
        if isinstance(exc_info[1], WarmclipError):
            self.log.error("job %s failed: %s", job.id, exc_info[1])
        else:
            super().handle_exception(job, *exc_info)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: object = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Record a failure, even one whose text cannot be UTF-8, as a file's name may not be."""
        text = exc_string.encode("utf-8", "backslashreplace").decode("utf-8")
        super().handle_job_failure(job, queue, started_job_registry, text, execution)


def run_worker(settings: Settings, *, queues: Sequence[str] = QUEUES, burst: bool = False) -> None:
    """Load the model, then run jobs until SIGTERM or SIGINT.

    Args:
        settings: where Redis, the model and the store are, and what jobs may name.
        queues: polled in this order.
        burst: leave as soon as the queues are empty.

    Raises:
        BundleError, ProviderUnavailable: the model cannot be used.
        StoreHeld: another worker owns the embedded store.
        QueueUnreachable: Redis does not answer, or was lost.
    """
    # Until RQ listens to it, a SIGTERM too shall close what is open here.
    signal.signal(signal.SIGTERM, _leave)
    with open_broker(settings) as connection, open_horse(settings) as horse:
        worker = JsonWorker(queues, connection)
        _announce(worker, horse, settings)
        try:
            worker.work(burst=burst, with_scheduler=False)
        except SystemExit:  # asked to leave before RQ listened, or for the second time
            worker.register_death()  # type: ignore[no-untyped-call]  # rq's is not annotated
            raise
        if not (burst or worker.was_asked_to_stop):
            raise QueueUnreachable(
                "the worker could not go on, most likely because Redis was lost; its log says why"
            )


def _leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal calls with
    sys.exit(0)


def _announce(worker: JsonWorker, horse: Horse, settings: Settings) -> None:
    encoder = horse.encoder
    log.info(
        "worker %s: %s (%s) on %s, queues %s",
        worker.name,
        encoder.bundle.manifest.name,
        encoder.fingerprint[:12],
        encoder.provider,
        ", ".join(worker.queue_names()),
        extra={"action": "worker_ready"},
    )
    if settings.redis_url is not None and not settings.roots:
        log.warning("no WARMCLIP_ROOTS are set: jobs that name files will be refused")
