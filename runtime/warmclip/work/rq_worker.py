"""RQ's worker as the worker and its horse use it: jobs in JSON, and what is private in RQ.

RQ's private attributes are reached through the names here, which are RQ's without the underscore.
``tests/contract/test_rq_names.py`` tells when a release of RQ does without one.
"""

import socket
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from redis import Redis
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import Worker

from warmclip.errors import WarmclipError
from warmclip.work.allowlist import AllowedJob

HEARTBEAT_EVERY_S = 5
"""How often a worker tells Redis that it and its job are alive."""

_LIFE_S = 30  # of a job's record as started, after its last heartbeat: six may be missed

_WORKER_TTL_S = 60  # RQ keeps the record of a worker that died for a minute longer


def new_name() -> str:
    """A worker's name of its own at every start: RQ takes a killed worker's for taken."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"


class RqWorker(Worker):
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
            job_monitoring_interval=HEARTBEAT_EVERY_S,
            log_job_description=False,  # arguments are not for the log: they may be searches
            prepare_for_work=not is_horse,
        )
        self._is_horse = is_horse

    # What RQ keeps to itself

    @property
    def stopped_job_id(self) -> str | None:
        """The job that a command has stopped: it is not retried."""
        return self._stopped_job_id

    @stopped_job_id.setter
    def stopped_job_id(self, job_id: str | None) -> None:
        self._stopped_job_id = job_id

    @property
    def stop_requested(self) -> bool:
        """Whether RQ's loop ends after this job."""
        return self._stop_requested

    @stop_requested.setter
    def stop_requested(self, is_requested: bool) -> None:
        self._stop_requested = is_requested

    @property
    def shutdown_requested_at(self) -> datetime | None:
        """When this process was asked to stop; RQ's ``_shutdown_requested_date``."""
        return self._shutdown_requested_date

    @shutdown_requested_at.setter
    def shutdown_requested_at(self, when: datetime) -> None:
        self._shutdown_requested_date = when

    def set_horse_pid(self, pid: int) -> None:
        """Say which process runs the job, for RQ's commands; 0: none does."""
        self._horse_pid = pid

    def install_signal_handlers(self) -> None:
        """Listen to SIGTERM and SIGINT; RQ does so only after it has told Redis of this worker."""
        self._install_signal_handlers()  # type: ignore[no-untyped-call]  # rq's is not annotated

    # What RQ lets be overridden

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
