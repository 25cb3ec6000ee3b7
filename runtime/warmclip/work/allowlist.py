"""Which jobs run: those that name a function on the list, in JSON. Nothing else is imported.

Whoever can write to Redis can name any function of any installed module, and a callback or a
webhook beside it. What is refused here is recorded as a failed job, with the reason.
"""

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self, cast

from redis.exceptions import ResponseError
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.results import Result
from rq.utils import now

from warmclip.errors import JobRefused, SettingsError, WarmclipError
from warmclip.work.job_bounds import excess, make_harmless
from warmclip.work.job_result import unpacks_to_more
from warmclip.work.naming import job_name
from warmclip.work.patience import is_wrong_type
from warmclip.work.results import BoundedResult

log = logging.getLogger(__name__)


FUNCTIONS = frozenset(
    job_name(function)
    for function in (
        *("canary", "embed_image", "embed_images", "embed_texts", "find_image"),
        *("forget_images", "index_images", "search", "search_many", "thumbnail", "verdict"),
    )
)


_MOST_BYTES = 16 * 1024 * 1024  # of a job's arguments; a full job of long paths has 4 MB


class AllowedJob(Job):
    """A job as read from Redis by a worker or a client of ours.

    Callbacks and webhooks are dropped when the job is read, unless they are on the list of the
    process that runs it, and make it fail when it is run: RQ would import the one, and send
    requests for the other, in other places too than the running of a job.

    Attributes:
        record: its fields in Redis, as they were read.
        problem: why it cannot be run whatever is on the list, if its record is no good.
    """

    allowed: ClassVar[frozenset[str]] = FUNCTIONS
    allowed_callbacks: ClassVar[frozenset[str]] = frozenset()
    _refusal: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.record: dict[bytes, bytes] = {}
        self.problem: str | None = None
        self._withheld: dict[str, str] = {}  # field of the record -> the callback that was dropped

    @classmethod
    def fetch(cls, *args: Any, **kwargs: Any) -> Self:
        """Read one job.

        Raises:
            NoSuchJobError: there is none, or its key or id is nothing of RQ's.
        """
        try:
            return cast("Self", super().fetch(*args, **kwargs))
        except ResponseError as exc:
            if not is_wrong_type(exc):
                raise  # Redis refuses to read it just now: that says nothing about the job
            log.warning("a queue names something that is no job: %s", exc)
            raise NoSuchJobError(str(exc)) from exc
        except (ValueError, TypeError) as exc:  # an id that is none
            log.warning("a queue names something that is no job: %r", exc)
            raise NoSuchJobError(str(exc)) from exc

    @classmethod
    def fetch_many(cls, job_ids: Iterable[str], *args: Any, **kwargs: Any) -> list[Any]:
        """Read several jobs; None for each that is none."""
        found: list[Any] = []
        for job_id in job_ids:
            try:
                found.append(cls.fetch(job_id, *args, **kwargs))
            except NoSuchJobError:
                found.append(None)
        return found

    def restore(self, raw_data: Mapping[bytes, bytes]) -> Any:
        """Take over a job's record; a malformed one becomes a job that is refused.

        Raises:
            NoSuchJobError: it has none of what makes a job.
        """
        self.problem = self._refusal = None
        self.record = record = dict(raw_data)
        for field in (b"data", b"exc_info"):
            if unpacks_to_more(record.get(field, b""), _MOST_BYTES):
                self.problem = f"it unpacks to more than {_MOST_BYTES:,} bytes"
                record[field] = b""
        try:
            super().restore(record)
        except NoSuchJobError:
            raise
        except Exception as exc:  # RQ parses some forty fields, each in its own way
            self.problem = self.problem or f"its record in Redis is malformed ({exc!r})"
            self.origin = record.get(b"origin", b"").decode("ascii", "replace")
        self.problem = self.problem or excess(self)
        ids: Any = self._dependency_ids
        if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
            self._dependency_ids = []
            self.problem = self.problem or "it depends on what is no job"
        if self.problem is not None:
            make_harmless(self)
        self._withheld = {}
        self._success_callback_name = self._checked("success", self._success_callback_name)
        self._failure_callback_name = self._checked("failure", self._failure_callback_name)
        if self._stopped_callback_name:  # it would run in the worker, which loads nothing
            self._refuse(f"its callback {self._stopped_callback_name!r} is on_stopped")
            self._withheld["stopped_callback_name"] = self._stopped_callback_name
        elif self.webhooks:
            self._refuse("webhooks are not on the worker's list")
        self._stopped_callback_name = None
        self.webhooks = []

    def mark_started(self, worker: str) -> None:
        """Show, to the function that runs, what the worker has recorded; nothing is written."""
        self.worker_name = worker
        self.started_at = self.last_heartbeat = now()
        self._status = JobStatus.STARTED

    def mark_ended(self, status: JobStatus) -> None:
        """Show, to a callback, what the worker will record; nothing is written."""
        self._status = status

    def latest_result(self, timeout: int = 0) -> Result | None:
        """The outcome, waited for so many seconds; one that cannot be used is a failure."""
        return BoundedResult.fetch_latest(self, serializer=self.serializer, timeout=timeout)

    def to_dict(self, include_meta: bool = True, include_result: bool = True) -> dict[str, Any]:
        """The record to save: a callback that was dropped here may run elsewhere.

        A worker saves the jobs that it retries after a crash; only its horse knows the list.
        """
        return super().to_dict(include_meta, include_result) | self._withheld

    def _refuse(self, reason: str) -> None:
        """Have the job fail when it is run; the first reason is told."""
        self._refusal = self._refusal or reason

    def _checked(self, outcome: str, callback: str | None) -> str | None:
        if callback and callback not in self.allowed_callbacks:
            self._refuse(f"its callback {callback!r} is not on the worker's list")
            self._withheld[f"{outcome}_callback_name"] = callback
            return None
        return callback

    @property
    def func(self) -> Callable[..., Any]:
        """The function to call.

        Raises:
            JobRefused: it is not on the list.
        """
        if self.instance is not None or self.func_name not in self.allowed:
            listed = ", ".join(sorted(self.allowed))
            raise JobRefused(
                f"the function {self.func_name!r} is not on the worker's list: {listed}"
            )
        function: Callable[..., Any] = super().func
        return function

    def perform(self) -> Any:
        """Run the job.

        Raises:
            JobRefused: it asks for what is not on the list.
        """
        try:
            if reason := self.problem or self._refusal:
                raise JobRefused(f"job {self.id}: {reason}")
            return super().perform()
        except WarmclipError as exc:
            if not exc.may_pass:
                self.retries_left = 0
            raise

    def _deserialize_data(self) -> None:
        """Read the call that a job stands for.

        Raises:
            DeserializationError: it is none.
        """
        try:
            super()._deserialize_data()  # type: ignore[no-untyped-call]  # rq's is not annotated
        except DeserializationError as exc:
            not_json = "not in JSON: enqueue it with Queue(..., serializer=JSONSerializer)"
            raise self._no_call(self.problem or f"the job is {not_json}") from exc
        name, args, kwargs = self._func_name, self._args, self._kwargs
        if not (isinstance(name, str) and isinstance(args, list) and isinstance(kwargs, dict)):
            raise self._no_call("the job names no function with a list and a dict of arguments")

    def _no_call(self, reason: str) -> DeserializationError:
        self.retries_left = 0
        self.data = self.data  # what was read of it is not kept
        return DeserializationError(reason)


def find_functions(names: Iterable[str]) -> type[AllowedJob]:
    """Import the user's own functions, and return the class of jobs that may name them too.

    Args:
        names: dotted, from WARMCLIP_JOBS; ``*`` stands for the public functions that a module
            defines, or those in its ``__all__``. They may be callbacks as well.

    Raises:
        SettingsError: there is no such module or function, or the module cannot be imported.
    """
    names = frozenset(names)
    if names:
        # As with `rq worker`, a module beside which it was started; last, so that it hides none.
        sys.path.append(os.getcwd())  # noqa: PTH109 - sys.path holds str
    listed: set[str] = set()
    for name in names:
        module_name, _, function = name.rpartition(".")
        try:
            module = importlib.import_module(module_name)
        except Exception as exc:  # whatever the user's module raises
            raise SettingsError(
                f"WARMCLIP_JOBS: cannot import {module_name}: {exc!r}; it is looked for among "
                f"installed packages, in PYTHONPATH, and in {Path.cwd()}"
            ) from exc
        found = _public_functions(module) if function == "*" else [function]
        if not found:
            raise SettingsError(f"WARMCLIP_JOBS: {module_name} defines no public function")
        for each in found:
            if not callable(getattr(module, each, None)):
                raise SettingsError(f"WARMCLIP_JOBS: {module_name} has no function {each}")
        listed |= {f"{module_name}.{each}" for each in found}
    return type(
        "ListedJob",
        (AllowedJob,),
        {"allowed": FUNCTIONS | listed, "allowed_callbacks": frozenset(listed)},
    )


def _public_functions(module: ModuleType) -> list[str]:
    """What a module offers: not what it has imported from others."""
    names: list[str] | None = getattr(module, "__all__", None)
    if names is not None:
        return [name for name in names if inspect.isroutine(getattr(module, name, None))]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and inspect.isroutine(value)
        and getattr(value, "__module__", None) == module.__name__
    ]
