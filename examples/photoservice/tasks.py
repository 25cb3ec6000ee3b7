"""Tasks: a job in RQ, and its row in the database."""

import os
from contextlib import suppress
from functools import cache
from typing import Any

from redis import Redis
from rq import Callback, Queue, Retry
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from photoservice.database import COMPLETED, FINAL, Task, transaction


@cache
def redis() -> Redis:
    """This process's connection."""
    return Redis.from_url(os.environ["REDIS_URL"])


def submit(function: str, about: str, *args: Any, queue: str = "default") -> None:
    """Queue a task once: with the same function and subject again, nothing happens.

    So whoever submits may be repeated, a request after an error as well as a job after a crash.
    """
    id_ = f"{function}-{about}"
    with transaction() as session:
        task = session.get(Task, id_)
        if task is None:
            session.add(Task(id=id_))
        elif task.status in FINAL:
            return
    # The row is committed by now: a worker may begin at once, and looks for it.
    with suppress(DuplicateJobError):  # it waits or runs
        Queue(queue, connection=redis(), serializer=JSONSerializer).enqueue(
            f"photoservice.jobs.{function}",
            args=(id_, *args),
            job_id=id_,
            unique=True,
            job_timeout=1800,
            result_ttl=24 * 3600,
            retry=Retry(max=10),
            on_failure=Callback("photoservice.jobs.note_failure"),
        )


def set_status(id_: str, status: str, error: str | None = None) -> None:
    """Write what became of a task; what is completed stays so."""
    with transaction() as session:
        task = session.get(Task, id_)
        if task is not None and task.status != COMPLETED:
            task.status, task.error = status, error
