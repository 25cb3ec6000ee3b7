"""Runs one job in the horse, with its callbacks and its time-out, and reports what became of it."""

import base64
import json
import logging
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, ClassVar

from redis import Redis
from rq.callbacks import execute_failure_callback, execute_success_callback
from rq.defaults import UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
from rq.exceptions import AbandonedJobError
from rq.job import JobStatus, Retry
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.timeouts import BaseTimeoutException, JobTimeoutException, UnixSignalDeathPenalty
from rq.utils import now

from warmclip.errors import BadVectors, JobFailed, WarmclipError
from warmclip.work.allowlist import AllowedJob
from warmclip.work.horse.models import MOST_MODELS, ModelNeeded
from warmclip.work.horse.report import JobReport, Outcome
from warmclip.work.job_bounds import are_intervals
from warmclip.work.job_result import MOST_BYTES

log = logging.getLogger(__name__)

_MOST_TOLD_CHARS = 200_000  # of a traceback: half from its beginning, half from its end


class JobRunner:
    """What happens in the work horse of other RQ workers, but for the writing."""

    def __init__(
        self,
        job_class: type[AllowedJob],
        connection: Redis,
        worker: str,
        on_callback: Callable[[float], None],
    ) -> None:
        """Nothing is run yet.

        Args:
            job_class: knows which functions and callbacks may run.
            connection: of the jobs; connected when a user's function first uses it.
            worker: the name under which RQ knows the worker.
            on_callback: told, in seconds, how long a callback may take that begins now.
        """
        self._job_class = job_class
        self._connection = connection
        self._worker = worker
        self._on_callback = on_callback

    def run(
        self, execution: str, job_id: str, record: Mapping[str, str], *, may_wait: bool
    ) -> JobReport:
        """Run a job.

        Args:
            execution: which this one is.
            job_id: the job's.
            record: the job's fields in Redis; the values are bytes in base64.
            may_wait: whether it may be queued again for a model that is not loaded.
        """
        job = self._restored(job_id, record)
        job.mark_started(self._worker)
        _TimeLimit.has_struck = False
        error: BaseException | None = None
        try:
            with _TimeLimit(  # type: ignore[no-untyped-call]  # rq's is not annotated
                job.timeout or Queue.DEFAULT_TIMEOUT, JobTimeoutException, job_id=job.id
            ):
                value = job.perform()
            job.ended_at = now()
            if isinstance(value, Retry):
                outcome, text = _retry(value)
            else:
                if job.success_callback is not None:
                    self._on_callback(job.success_callback_timeout)
                    job.mark_ended(JobStatus.FINISHED)
                    execute_success_callback(job, _TimeLimit, value)
                outcome, text = "success", _serialized(value)
        except BaseException as exc:  # a job may raise anything, SystemExit included
            if may_wait and isinstance(exc, ModelNeeded):
                outcome, text = "requeue", str(exc)
            else:
                job.ended_at = now()
                error = self._after_failure(job, _in_vain(exc))
                outcome, text = "failure", _told(error)
                _log(job, error, text)
        return JobReport(
            execution=execution,
            outcome=outcome,
            text=text,
            retries_left=job.retries_left,
            result_ttl=job.result_ttl,
            failure_ttl=job.failure_ttl,
            tainted=taint(error, has_struck=_TimeLimit.has_struck),
        )

    def tell_of_death(self, job_id: str, record: Mapping[str, str], reason: str) -> None:
        """Call the failure callback of a job whose process died, as it could not itself.

        Args:
            job_id: the job's.
            record: the job's fields in Redis; the values are bytes in base64.
            reason: how the process died.
        """
        job = self._restored(job_id, record)
        error = AbandonedJobError(reason)
        try:
            execute_failure_callback(job, _TimeLimit, AbandonedJobError, error, None)
        except BaseException:  # the job has failed already
            log.exception("the failure callback of job %s failed", job.id)

    def _restored(self, job_id: str, record: Mapping[str, str]) -> AllowedJob:
        job = self._job_class(job_id, self._connection, JSONSerializer)
        job.restore({name.encode(): base64.b64decode(value) for name, value in record.items()})
        return job

    def _after_failure(self, job: AllowedJob, error: BaseException) -> BaseException:
        """Call the failure callback; if it fails as well, its error is the one that counts."""
        if job.failure_callback is None:
            return error
        self._on_callback(job.failure_callback_timeout)
        job.mark_ended(JobStatus.FAILED)
        try:
            execute_failure_callback(job, _TimeLimit, type(error), error, error.__traceback__)
        except BaseException as exc:  # the user's, as above
            return exc
        return error


class _TimeLimit(UnixSignalDeathPenalty):
    """RQ's time limit, which remembers that it has struck: the job may have caught its error."""

    has_struck: ClassVar[bool] = False

    def handle_death_penalty(self, signum: int, frame: FrameType | None) -> None:
        """Raise in the main thread, wherever that is."""
        type(self).has_struck = True
        super().handle_death_penalty(signum, frame)  # type: ignore[no-untyped-call]  # rq's


def taint(error: BaseException | None, *, has_struck: bool) -> str:
    """Why a horse is not to run another job after this one; empty: it may.

    A time-out raises between any two steps of the interpreter, so what was being changed may be
    half changed; and what is no ordinary error of a job's may have any reason.
    """
    if has_struck:
        return "a time-out has struck in it"
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BaseTimeoutException):
            return "a time-out has struck in it"
        if isinstance(error, MemoryError):
            return "it ran out of memory"
        if isinstance(error, BadVectors):
            return "its model computed nonsense"
        if not isinstance(error, Exception):
            return f"a job raised {type(error).__name__} in it"
        error = error.__cause__ or error.__context__
    return ""


def _in_vain(error: BaseException) -> BaseException:
    """The error of a job, if it has waited for models too often."""
    if not isinstance(error, ModelNeeded):
        return error
    told = JobFailed(
        f"{error}; but the job was put back for models too often: it needs more than the "
        f"{MOST_MODELS} that a worker holds, or other jobs take turns with it"
    )
    return told.with_traceback(error.__traceback__)


def _retry(retry: Retry) -> tuple[Outcome, str]:
    """What RQ's worker would do with it, in JSON.

    Raises:
        JobFailed: its intervals cannot be computed with.
    """
    if not are_intervals(retry.intervals):
        raise JobFailed(f"the job returned {retry!r}, whose intervals are no numbers of seconds")
    asked = {
        "max": retry.max,
        "intervals": retry.intervals,
        "at_front": retry.enqueue_at_front,
    }
    return "retry", json.dumps(asked)


def _serialized(value: Any) -> str:
    """A result in JSON; one that JSON cannot carry leaves RQ's note in its place.

    Raises:
        JobFailed: it is larger than whoever asked would read.
    """
    try:
        text = json.dumps(value)
    except Exception:  # what RQ does: a user's value may raise anything
        text = json.dumps(UNSERIALIZABLE_RETURN_VALUE_PAYLOAD)
    if len(text) > MOST_BYTES:
        raise JobFailed(
            f"the job's result has {len(text):,} bytes, at most {MOST_BYTES:,} are kept"
        )
    return text


def _told(error: BaseException) -> str:
    """A traceback as it is recorded: UTF-8, even if a file's name in it is not, and bounded."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # an error of the user's own that cannot be shown
        text = f"{type(error).__module__}.{type(error).__qualname__}: it cannot be shown"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) > _MOST_TOLD_CHARS:
        half = _MOST_TOLD_CHARS // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half:,} characters ...\n{text[-half:]}"
    return text


def _log(job: AllowedJob, error: BaseException, text: str) -> None:
    if isinstance(error, WarmclipError):
        log.error("job %s failed: %s", job.id, error)
    else:
        log.error("job %s failed\n%s", job.id, text)
