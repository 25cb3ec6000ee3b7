"""RQ's worker as ours uses it: jobs in JSON, no process title, and what is private in RQ.

RQ's private attributes are reached through the names here, which are RQ's without the underscore.
``tests/contract/test_rq_names.py`` tells when a release of RQ does without one.
"""

import socket
import uuid
from collections.abc import Sequence
from datetime import datetime

from redis import Redis
from rq.serializers import JSONSerializer
from rq.worker import Worker

from warmclip.work.allowlist import AllowedJob

HEARTBEAT_EVERY_S = 5
"""How often a worker tells Redis that it and its job are alive."""

LIFE_S = 90
"""How long a job counts as started after its last heartbeat, as with RQ's own workers."""

_WORKER_TTL_S = 60  # RQ keeps the record of a worker that died for a minute longer


def new_name() -> str:
    """A worker's name of its own at every start: RQ takes a killed worker's for taken."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"


class RqWorker(Worker):
    """An RQ worker for the jobs of the allow-list, in JSON."""

    log_result_lifespan = False

    def __init__(self, queues: Sequence[str], *, name: str, connection: Redis) -> None:
        super().__init__(
            list(queues),
            name=name,
            connection=connection,
            job_class=AllowedJob,
            serializer=JSONSerializer,
            worker_ttl=_WORKER_TTL_S,
            job_monitoring_interval=HEARTBEAT_EVERY_S,
            log_job_description=False,  # arguments are not for the log: they may be searches
        )

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

    def _set_ip_address(self, connection: Redis) -> None:
        """Ask Redis for this worker's address; through a socket there is none.

        Redis answers with the path of the socket then, and redis-py cannot read an answer with a
        space or a line break in it.
        """
        if "path" in connection.connection_pool.connection_kwargs:
            self.ip_address = "unknown"
        else:
            super()._set_ip_address(connection)

    def procline(self, message: str) -> None:
        """Keep the process's title: setproctitle loads frameworks on macOS."""
