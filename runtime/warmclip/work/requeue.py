"""Another chance: for pictures that were set aside, and for jobs that failed for good."""

from redis import Redis
from redis.exceptions import WatchError
from rq.exceptions import DeserializationError
from rq.job import JobStatus
from rq.queue import Queue
from rq.utils import now, utcformat

from warmclip.settings import Settings
from warmclip.work.allowlist import AllowedJob
from warmclip.work.naming import DEFAULT_CHUNK, job_name
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.producer import clear_ended, cut_into_jobs, enqueue_jobs
from warmclip.work.queues import all_queues, fetch_jobs, open_queue
from warmclip.work.status import failed_ids

_MOST_TRIES = 100  # while other jobs of the queue fail


def requeue_poisoned(connection: Redis, settings: Settings) -> tuple[list[str], int]:
    """Give the pictures that were set aside another chance.

    Those that were to be indexed are queued again; the others are only no longer refused. Both
    happens in one transaction: a picture is set aside or queued, whatever ends this process.

    Returns:
        The jobs, and how many pictures they are about.
    """
    poisoned = PoisonedFiles(connection)
    paths: dict[str | None, list[str]] = {}
    for file in poisoned.all():
        paths.setdefault(file.collection, []).append(file.path)
    queue = open_queue(connection)
    chunks: dict[str, tuple[str, ...]] = {}
    with connection.pipeline() as pipe:
        for collection, some in paths.items():
            poisoned.remove(some, pipe)
            if collection is not None:
                # As files, whatever they look like: a record may be forged, and no folder is
                # searched.
                parts = cut_into_jobs(settings, some, collection, DEFAULT_CHUNK)
                enqueue_jobs(queue, collection, clear_ended(queue, parts), pipe)
                chunks |= parts
        pipe.execute()
    return list(chunks), sum(map(len, chunks.values()))


def requeue_failed(connection: Redis) -> tuple[list[str], int]:
    """Queue the jobs again that failed for good, each in the queue that it came from.

    Returns:
        The jobs, by queue, the latest first, and how many pictures they were to index.
    """
    queued: dict[str, AllowedJob] = {}
    for queue in all_queues(connection):
        jobs = fetch_jobs(connection, failed_ids(queue))
        queued |= {id_: job for id_, job in jobs.items() if _requeue_job(queue, job)}
    return list(queued), sum(map(_count_images, queued.values()))


def _count_images(job: AllowedJob) -> int:
    try:
        if job.func_name == job_name("index_images") and isinstance(job.args[0], list):
            return len(job.args[0])
    except (DeserializationError, LookupError):  # whatever it is, it is queued again
        pass
    return 0


def _requeue_job(queue: Queue, job: AllowedJob) -> bool:
    """Queue one job that failed, in one step; False if it is not among those any more."""
    key = queue.failed_job_registry.key
    with queue.connection.pipeline() as pipe:
        for _ in range(_MOST_TRIES):
            pipe.watch(key)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
            if pipe.zscore(key, job.id) is None:
                return False
            pipe.multi()
            pipe.zrem(key, job.id)
            job.set_status(JobStatus.QUEUED, pipeline=pipe)
            pipe.hset(job.key, "enqueued_at", utcformat(now()))
            pipe.hdel(job.key, "started_at", "ended_at")
            pipe.persist(job.key)  # it would be forgotten a week after its failure
            queue.push_job_id(job.id, pipeline=pipe)
            try:
                pipe.execute()
            except WatchError:
                continue
            return True
    return False
