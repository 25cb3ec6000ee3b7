"""The names of RQ's keys in Redis, for what speaks to Redis without RQ.

tests/contract/test_rq_names.py compares them with RQ's own.
"""

QUEUES = "rq:queues"
"""The set of all queues, by their keys."""

WORKERS = "rq:workers"
"""The set of all workers, by their keys."""

WORKER_PREFIX = "rq:worker:"
"""Before a worker's name, in the key of its record."""


def queue_key(queue: str) -> str:
    """The list of a queue's jobs."""
    return f"rq:queue:{queue}"


def job_key(id_: str) -> str:
    """The record of a job."""
    return f"rq:job:{id_}"


def results_key(id_: str) -> str:
    """The stream of a job's outcomes."""
    return f"rq:results:{id_}"


def workers_key(queue: str) -> str:
    """The set of the workers that listen to a queue, by their keys."""
    return f"rq:workers:{queue}"


def executions_key(worker: str) -> str:
    """The set of what a worker runs: a job's id, a colon, and the id of its execution."""
    return f"rq:worker:{worker}:executions"


def execution_key(job: str, execution: str) -> str:
    """The record of a job that runs; it expires when its heartbeats cease."""
    return f"rq:execution:{job}:{execution}"
