"""What the worker and its horse have in common: RQ's bookkeeping for jobs in JSON."""

import socket
import uuid
from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import Worker

from warmclip.errors import WarmclipError
from warmclip.work.allowlist import AllowedJob

BEAT_EVERY_S = 5
"""How often a worker tells Redis that it and its job are alive."""

_LIFE_S = 30  # of a job's record as started, after its last heartbeat: six may be missed

_WORKER_TTL_S = 60  # RQ keeps the record of a worker that died for a minute longer


def new_name() -> str:
    """A worker's name of its own at every start: RQ takes a killed worker's for taken."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"


class JsonWorker(Worker):
    """An RQ worker for the jobs of the allow-list, in JSON, that never changes its title."""

    log_result_lifespan = False

    def __init__(
        self,
        queues: Sequence[str],
        *,
        name: str,
        connection: Redis,
        job_class: type[AllowedJob] = AllowedJob,
        is_horse: bool = False,
    ) -> None:
        super().__init__(
            list(queues),
            name=name,
            connection=connection,
            job_class=job_class,
            serializer=JSONSerializer,
            worker_ttl=_WORKER_TTL_S,
            job_monitoring_interval=BEAT_EVERY_S,
            log_job_description=False,  # arguments are not for the log: they may be searches
            prepare_for_work=not is_horse,
        )
        self._is_horse = is_horse

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002 - rq's
        """How long a job counts as started after a heartbeat, seconds."""
        return _LIFE_S

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
