"""RQ's results, read within bounds, and never fatal: others may write to the same Redis."""

from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError
from rq.job import Job
from rq.results import Result

from warmclip.work.job_result import MALFORMED, check_size, unusable


class BoundedResult(Result):
    """A result that cannot be read, or is larger than any of ours, becomes a failure."""

    @classmethod
    def fetch_latest(cls, job: Job, serializer: Any = None, timeout: int = 0) -> Result | None:
        """The outcome of a job, waited for so many seconds; None if there is none."""
        try:
            return super().fetch_latest(job, serializer, timeout)
        except ResponseError as exc:
            if "WRONGTYPE" not in str(exc):
                raise
            return _unusable(job.id, job.connection, exc)

    @classmethod
    def restore(
        cls,
        job_id: str,
        result_id: str,
        payload: Mapping[bytes, bytes],
        connection: Redis,
        serializer: Any = None,
    ) -> Result:
        """Read one record."""
        try:
            check_size(payload)
            return super().restore(job_id, result_id, dict(payload), connection, serializer)
        except MALFORMED as exc:
            return _unusable(job_id, connection, exc, result_id)


def _unusable(job_id: str, connection: Redis, exc: Exception, id_: str = "0-0") -> Result:
    return Result(job_id, Result.Type.FAILED, connection, id=id_, exc_string=unusable(exc))
