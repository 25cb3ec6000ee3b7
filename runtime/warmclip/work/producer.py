"""Sending work to the workers, following it, and taking the answers home."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from redis import Redis
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import JobStatus, Retry
from rq.queue import EnqueueData, Queue
from rq.results import Result

from warmclip.errors import JobFailed, QueueUnreachable, WarmclipError, revive
from warmclip.indexing.report import IndexReport
from warmclip.progress import Progress
from warmclip.settings import Settings
from warmclip.work.allowlist import AllowedJob, job_name
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.queues import FailureReason, fetch_jobs, open_queue, read_states
from warmclip.work.status import listening
from warmclip.work.worker_watch import WorkerWatch

log = logging.getLogger(__name__)

DEFAULT_CHUNK = 32  # images in one job: a second or two of work, which a question waits for

MOST_SENT_BYTES = 10 * 1024 * 1024  # of a picture in a job: in base64 14 MB, of 16 that are read

_JOB_TIMEOUT_S = 900
_RESULT_TTL_S = 24 * 3600
_FAILURE_TTL_S = 7 * 24 * 3600
_POLL_S = 0.1
_SILENCE_S = 2.0  # before whoever waits for an answer is told why
_LOOK_AHEAD = 256  # jobs whose state is read in one round: queues run in order
_WAITING = (JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.DEFERRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRun:
    """The jobs that one call to ``submit_index`` cut its pictures into."""

    collection: str
    chunks: Mapping[str, tuple[str, ...]]  # job id -> the paths that it is to index
    problems: Mapping[str, str]  # path -> why nothing could be found there
    ignored: int  # names in the folders that are hidden or no pictures
    closed: Mapping[str, str] = field(default_factory=dict)  # folder -> why nobody is let in

    @property
    def job_ids(self) -> list[str]:
        """The jobs, in the order in which they were queued."""
        return list(self.chunks)

    @property
    def images(self) -> int:
        """How many pictures were found."""
        return sum(len(paths) for paths in self.chunks.values())


def submit_index(
    connection: Redis,
    settings: Settings,
    paths: Iterable[str | Path],
    *,
    collection: str | None = None,
    chunk: int = DEFAULT_CHUNK,
    retry_unreadable: bool = False,
) -> IndexRun:
    """Find pictures and queue them, in jobs whose ids follow from what they are to do.

    A job that still waits or runs is not queued twice; a finished one is replaced, as its files
    may have changed.

    Args:
        connection: from ``open_broker``.
        settings: the collection, unless it is given, and the most items that a job may have.
        paths: files, folders and patterns, as ``find_images`` takes them.
        collection: where the vectors go.
        chunk: pictures in one job.
        retry_unreadable: see ``Indexer.index``.
    """
    from warmclip.indexing.walk import find_images

    collection = collection or settings.collection
    found = find_images(paths)
    chunks = _submit(
        connection, settings, found.files, collection, chunk, retry_unreadable=retry_unreadable
    )
    return IndexRun(
        collection=collection,
        chunks=chunks,
        problems=found.problems,
        closed=found.closed,
        ignored=found.ignored,
    )


def submit_files(connection: Redis, settings: Settings, files: Iterable[str]) -> IndexRun:
    """Queue these files, as ``submit_index`` does; nothing is searched for."""
    chunks = _submit(connection, settings, files, settings.collection, DEFAULT_CHUNK)
    return IndexRun(
        collection=settings.collection, chunks=chunks, problems={}, closed={}, ignored=0
    )


def requeue_dead(connection: Redis, settings: Settings) -> tuple[list[str], int]:
    """Give the pictures that were set aside another chance.

    Those that were to be indexed are queued again; the others are only no longer refused.

    Returns:
        The jobs, and how many pictures they are about.
    """
    letters = PoisonedFiles(connection)
    paths: dict[str | None, list[str]] = {}
    for letter in letters.all():
        paths.setdefault(letter.collection, []).append(letter.path)
    chunks: dict[str, tuple[str, ...]] = {}
    for collection, some in paths.items():
        letters.remove(some)  # first: a worker that has the job at once must not refuse them
        if collection is not None:
            # As files, whatever they look like: a letter may be forged, and no folder is searched.
            chunks |= _submit(connection, settings, some, collection, DEFAULT_CHUNK)
    return list(chunks), sum(map(len, chunks.values()))


def _submit(
    connection: Redis,
    settings: Settings,
    files: Iterable[str],
    collection: str,
    chunk: int,
    *,
    retry_unreadable: bool = False,
) -> dict[str, tuple[str, ...]]:
    """Queue files, in chunks; returns job id -> its files."""
    paths = list(dict.fromkeys(map(absolute, files)))
    size = chunk_size(settings, chunk)
    parts = [tuple(paths[start : start + size]) for start in range(0, len(paths), size)]
    chunks = {job_id(collection, part): part for part in parts}
    queue = open_queue(connection)
    fresh = _clear(queue, chunks)
    queue.enqueue_many(
        index_job(id_, collection, paths, retry_unreadable=retry_unreadable)
        for id_, paths in fresh.items()
    )
    return chunks


def chunk_size(settings: Settings, wanted: int = DEFAULT_CHUNK) -> int:
    """How many pictures go into one job: no more than workers take."""
    return min(wanted, settings.limits.job_items)


def absolute(path: str) -> str:
    """As a job may name it: without "..", which a worker takes for a way out of its roots."""
    whole = Path(path).absolute()
    return os.path.realpath(whole) if ".." in whole.parts else str(whole)


def job_id(collection: str, paths: Iterable[str]) -> str:
    """The id of the job that indexes these paths: the same work always has the same id."""
    digest = hashlib.sha256(collection.encode())
    for path in sorted(paths):
        digest.update(b"\0" + os.fsencode(path))
    return f"index-{collection.replace('.', '_')}-{digest.hexdigest()[:32]}"


def watch(
    connection: Redis,
    run: IndexRun,
    *,
    progress: Progress | None = None,
    worker_wait_s: float = 60.0,
) -> IndexReport:
    """Wait until all jobs of a run are over, and add their reports up.

    The pictures of a job that failed count as skipped, with the job's error as their reason.

    Raises:
        QueueUnreachable: nothing was done for so long, and no worker is listening.
    """
    started = time.monotonic()
    queue = open_queue(connection)
    report = IndexReport(
        collection=run.collection,
        skipped=dict(run.problems),
        unreadable=dict(run.closed),
        ignored=run.ignored,
    )
    stalls = WorkerWatch(queue, worker_wait_s)
    pending = dict(run.chunks)
    done = 0
    while pending:
        over = jobs_over(queue, list(pending)[:_LOOK_AHEAD])
        jobs = fetch_jobs(connection, over)
        for id_ in over:
            paths = pending.pop(id_)
            report += report_of(run.collection, paths, jobs.get(id_))
            done += len(paths)
        if progress is not None:
            progress(done, run.images, "indexing")
        if over:
            stalls.reset()
        else:
            stalls.check()
            time.sleep(_POLL_S)
    return replace(report, seconds=time.monotonic() - started)


def call(
    connection: Redis,
    function: str,
    arguments: Mapping[str, Any],
    *,
    timeout_s: float = 60.0,
    given_up: Callable[[], bool] = lambda: False,
) -> Any:
    """Have a worker run one of ``warmclip.work.jobs`` now, and return its answer.

    Args:
        connection: from ``open_broker``.
        function: its name in that module, such as ``search``.
        arguments: by name, of JSON's types.
        timeout_s: for waiting and running together.
        given_up: asked at least every two seconds; once it says so, nobody waits any more.

    Raises:
        QueueUnreachable: no worker is listening, or none answered in time.
        WarmclipError: what the function raised, of the same class.
    """
    queue = open_queue(connection, "high")
    if not listening(queue):
        raise QueueUnreachable("no worker is listening on the queue 'high'; run `warmclip worker`")
    whole_s = max(1, round(timeout_s))
    job = queue.enqueue(
        job_name(function),
        kwargs=dict(arguments),
        description=function,
        job_timeout=whole_s,
        ttl=whole_s,
        result_ttl=whole_s,
        failure_ttl=whole_s,  # who asked is told; `warmclip status` need not keep it
    )
    told = False
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0 and not given_up():
        # Short waits, well within the connection's time-out.
        result = job.latest_result(timeout=max(1, min(2, round(left))))
        if result is not None:
            return _answer(result)
        if not told and timeout_s - left >= _SILENCE_S:
            told = True
            log.warning("every worker is busy; waiting for one, up to %d s", whole_s)
    # It leaves the queue in any case. Then RQ raises if its record has ended, as it does by now.
    with suppress(InvalidJobOperation, NoSuchJobError):
        job.delete()
    raise QueueUnreachable(
        f"no worker answered within {whole_s} s; `warmclip status` shows what they are at"
    )


def _clear(queue: Queue, chunks: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The chunks whose jobs are not on their way; what is left of former ones is deleted."""
    listed = {*queue.job_ids, *queue.intermediate_queue.get_job_ids()}
    fresh = dict(chunks)
    for id_, job in fetch_jobs(queue.connection, chunks).items():
        status = job.get_status(refresh=False)
        if status in _WAITING and (status != JobStatus.QUEUED or id_ in listed):
            del fresh[id_]
        else:
            job.delete()
    return fresh


def index_job(
    id_: str,
    collection: str,
    paths: Sequence[str],
    *,
    retry_unreadable: bool = False,
    result_ttl_s: int = _RESULT_TTL_S,
) -> EnqueueData:
    """A job that indexes these files, for ``Queue.enqueue_many``."""
    return Queue.prepare_data(
        job_name("index_images"),
        args=(list(paths), collection),
        kwargs={"retry_unreadable": True} if retry_unreadable else {},
        job_id=id_,
        description=f"index {len(paths)} images into {collection}",
        timeout=_JOB_TIMEOUT_S,
        result_ttl=result_ttl_s,
        failure_ttl=_FAILURE_TTL_S,
        retry=Retry(max=2),
    )


def jobs_over(queue: Queue, ids: Sequence[str]) -> list[str]:
    """Those of the jobs that will not run any more."""
    waiting = {status.value.encode() for status in _WAITING}
    states = read_states(queue, ids)
    return [id_ for id_, state in zip(ids, states, strict=True) if state not in waiting]


def report_of(collection: str, paths: Sequence[str], job: AllowedJob | None) -> IndexReport:
    """What became of a job's pictures; those of one that failed, or is gone, count as skipped."""
    result = job.latest_result() if job is not None else None
    if result is not None and isinstance(result.return_value, dict):
        return IndexReport.from_dict(result.return_value)
    gone = "it is gone from Redis"
    reason = gone if result is None else str(FailureReason.of(result.exc_string))
    skipped = dict.fromkeys(paths, f"its job failed: {reason}")
    return IndexReport(collection=collection, skipped=skipped)


def _answer(result: Result) -> Any:
    if result.type == Result.Type.SUCCESSFUL:
        return result.return_value
    reason = FailureReason.of(result.exc_string)
    module, _, kind = reason.kind.rpartition(".")
    if module == WarmclipError.__module__:
        raise revive(kind, reason.message)
    raise JobFailed(f"the worker could not do it: {reason}")
