"""What the API stands on, made once by whoever starts it."""

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
"""How long a worker may take for one request."""

THREADS = 96
"""That answer requests."""

_MOST_WAITING = 64  # of them, for workers: the others answer what needs none


class WorkerClient:
    """Asks workers for what they can do, for a bounded number of requests at once."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        """Workers.

        Args:
            ask: a function, its arguments by name, ``timeout_s`` -> its answer; see ``call``.
        """
        self._ask = ask
        self._free = threading.BoundedSemaphore(_MOST_WAITING)

    def ask(
        self, function: str, timeout_s: float = ANSWER_S, **arguments: Any
    ) -> Mapping[str, Any]:
        """Have a worker run one of its functions, and wait for the answer.

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
            answer: Mapping[str, Any] = self._ask(function, arguments, timeout_s=timeout_s)
        finally:
            self._free.release()
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class AppContext:
    """All of it."""

    settings: Settings
    roots: Roots
    ledger: SessionCommands
    foreman: SessionScheduler
    workers: WorkerClient
    status: Callable[[], QueueStatus]
    totals: Callable[[], Mapping[str, int]]
    streams: Streams
    hosts: tuple[str, ...] = ()  # names by which the server may be called
