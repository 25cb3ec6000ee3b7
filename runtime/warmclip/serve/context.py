"""What the routes use, made once by whoever starts the server."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from warmclip.indexing.roots import Roots
from warmclip.serve.problems import Problem
from warmclip.serve.streams import Streams
from warmclip.settings import Settings
from warmclip.work.sessions.commands import SessionCommands
from warmclip.work.sessions.scheduler import SessionScheduler
from warmclip.work.status import QueueStatus

ANSWER_S = 30.0
"""How long a worker may take to answer one request."""

THREADS = 96
"""Threads that answer requests."""

_MOST_WAITING = 64  # requests that wait for workers; the other threads answer the rest


class WorkerClient:
    """Calls functions of ``warmclip.work.jobs`` in a worker, for a bounded number of requests."""

    def __init__(self, call: Callable[..., Any]) -> None:
        """Make a client.

        Args:
            call: ``warmclip.work.producer.call`` with its connection.
        """
        self._call = call
        self._free = threading.BoundedSemaphore(_MOST_WAITING)

    def call(
        self, function: str, timeout_s: float = ANSWER_S, **arguments: Any
    ) -> Mapping[str, Any]:
        """Have a worker run a function, and return its answer.

        Raises:
            Problem: too many requests wait already.
            WarmclipError: what the function raised, or that no worker answered.
        """
        if not self._free.acquire(blocking=False):
            raise Problem(
                503,
                f"{_MOST_WAITING} requests wait for workers already: try again, or start more "
                "workers (`warmclip worker --workers N`)",
            )
        try:
            answer: Mapping[str, Any] = self._call(function, arguments, timeout_s=timeout_s)
        finally:
            self._free.release()
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class AppContext:
    """Settings, and the connections to sessions and workers."""

    settings: Settings
    roots: Roots
    sessions: SessionCommands
    scheduler: SessionScheduler
    workers: WorkerClient
    read_status: Callable[[], QueueStatus]
    read_counters: Callable[[], Mapping[str, int]]
    streams: Streams
    hosts: tuple[str, ...] = ()  # names by which requests may call the server
