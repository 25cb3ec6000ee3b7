"""Index jobs: pictures are cut into jobs, queued, and followed until all have ended."""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from redis import Redis
from redis.client import Pipeline
from rq.job import JobStatus, Retry
from rq.queue import EnqueueData, Queue

from warmclip.indexing.report import IndexReport
from warmclip.progress import Progress
from warmclip.settings import Settings
from warmclip.work.allowlist import AllowedJob
from warmclip.work.job_result import FailureReason
from warmclip.work.naming import DEFAULT_CHUNK, absolute, chunk_size, job_name
from warmclip.work.queues import UNDER_WAY, fetch_jobs, open_queue, read_states
from warmclip.work.worker_watch import WorkerWatch

_JOB_TIMEOUT_S = 900
_RESULT_TTL_S = 24 * 3600
_FAILURE_TTL_S = 7 * 24 * 3600
_POLL_S = 0.1
_LOOK_AHEAD = 256  # jobs whose state is read in one round: queues run in order


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRun:
    """The jobs that one call to ``submit_index`` cut its pictures into."""

    collection: str
    chunks: Mapping[str, tuple[str, ...]]  # job id -> the paths that it is to index
    problems: Mapping[str, str]  # path -> why nothing could be found there
    ignored: Mapping[str, int]  # names in the folders that were passed by; see ``IndexReport``
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
    exclude: Sequence[str] = (),
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
        exclude: see ``Exclusion``.

    Raises:
        SettingsError: a pattern to exclude is none.
    """
    from warmclip.indexing.exclusion import Exclusion
    from warmclip.indexing.roots import Roots
    from warmclip.indexing.walk import find_images

    collection = collection or settings.collection
    found = find_images(paths, Exclusion(exclude, Roots(settings.roots)))
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
        collection=settings.collection, chunks=chunks, problems={}, closed={}, ignored={}
    )


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
    chunks = cut_into_jobs(settings, files, collection, chunk)
    queue = open_queue(connection)
    fresh = clear_ended(queue, chunks)
    enqueue_jobs(queue, collection, fresh, retry_unreadable=retry_unreadable)
    return chunks


def cut_into_jobs(
    settings: Settings, files: Iterable[str], collection: str, chunk: int
) -> dict[str, tuple[str, ...]]:
    """Cut files into jobs whose ids follow from them: job id -> its files."""
    paths = list(dict.fromkeys(map(absolute, files)))
    size = chunk_size(settings, chunk)
    parts = [tuple(paths[start : start + size]) for start in range(0, len(paths), size)]
    return {job_id(collection, part): part for part in parts}


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
        ignored=dict(run.ignored),
    )
    stalls = WorkerWatch(connection, queue.name, worker_wait_s)
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
            progress(done, run.images, stalls.start or "indexing")
        if over:
            stalls.reset()
        else:
            stalls.check()
            time.sleep(_POLL_S)
    return replace(report, seconds=time.monotonic() - started)


def clear_ended(queue: Queue, chunks: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The chunks whose jobs are not on their way; what is left of former ones is deleted."""
    listed = {*queue.job_ids, *queue.intermediate_queue.get_job_ids()}
    fresh = dict(chunks)
    for id_, job in fetch_jobs(queue.connection, chunks).items():
        status = job.get_status(refresh=False)
        if status in UNDER_WAY and (status != JobStatus.QUEUED or id_ in listed):
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


def enqueue_jobs(
    queue: Queue,
    collection: str,
    chunks: Mapping[str, tuple[str, ...]],
    pipeline: Pipeline | None = None,
    *,
    retry_unreadable: bool = False,
) -> None:
    """Queue index jobs, in this transaction or now: job id -> its files."""
    jobs = (
        index_job(id_, collection, paths, retry_unreadable=retry_unreadable)
        for id_, paths in chunks.items()
    )
    queue.enqueue_many(jobs, pipeline=pipeline)


def jobs_over(queue: Queue, ids: Sequence[str]) -> list[str]:
    """Those of the jobs that will not run any more."""
    states = read_states(queue, ids)
    return [id_ for id_, state in zip(ids, states, strict=True) if state not in UNDER_WAY]


def report_of(collection: str, paths: Sequence[str], job: AllowedJob | None) -> IndexReport:
    """What became of a job's pictures; those of one that failed, or is gone, count as skipped."""
    result = job.latest_result() if job is not None else None
    if result is not None and result.exc_string is not None:
        reason = str(FailureReason.of(result.exc_string))
    elif result is not None:
        report = _parse_report(collection, paths, result.return_value)
        if report is not None:
            return report
        reason = "its result in Redis is no report of these pictures"
    elif job is not None:
        reason = f"it was {job.get_status(refresh=False).value}, and left no result"
    else:
        reason = "it is gone from Redis"
    skipped = dict.fromkeys(paths, f"its job failed: {reason}")
    return IndexReport(collection=collection, skipped=skipped)


def _parse_report(collection: str, paths: Sequence[str], raw: Any) -> IndexReport | None:
    """A job's report; None for what nobody could have found out about these pictures."""
    if not isinstance(raw, dict):
        return None
    counts = [raw.get(name, 0) for name in ("indexed", "reused", "unchanged")]
    reasons = [raw.get(name, {}) for name in ("skipped", "unreadable")]
    if not all(type(count) is int and count >= 0 for count in counts):
        return None
    for each in reasons:
        if not isinstance(each, dict) or not all(isinstance(it, str) for it in each.values()):
            return None
    if paths and sum(counts) + sum(map(len, reasons)) > len(paths):
        return None
    indexed, reused, unchanged = counts
    return IndexReport(
        collection=collection,
        indexed=indexed,
        reused=reused,
        unchanged=unchanged,
        skipped=reasons[0],
        unreadable=reasons[1],
    )
