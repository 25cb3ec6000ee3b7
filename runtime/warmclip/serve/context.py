"""What the routes use, made once by whoever starts the server."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from warmclip.errors import WarmclipError
from warmclip.serve.problems import Problem
from warmclip.serve.streams import Streams
from warmclip.settings import Root, Settings
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

    def __init__(self, call: Callable[..., Any], most_waiting: int = _MOST_WAITING) -> None:
        """Make a client, for the event loop.

        Args:
            call: ``warmclip.work.call.call`` with its connection.
            most_waiting: requests that may wait for workers at once.
        """
        self._call = call
        self._most_waiting = most_waiting
        self._waiting = 0

    async def call(
        self,
        function: str,
        *,
        request: Request | None = None,
        timeout_s: float = ANSWER_S,
        **arguments: Any,
    ) -> Mapping[str, Any]:
        """Have a worker run a function, and return its answer.

        Args:
            function: its name.
            request: who waits for the answer. When its client disconnects, the job is taken back
                from the queue, and its place is free for another request.
            timeout_s: how long to wait.
            arguments: of the function.

        Raises:
            Problem: too many requests wait already.
            ClientDisconnect: the client is gone.
            WarmclipError: what the function raised, or that no worker answered.
        """
        if self._waiting >= self._most_waiting:
            raise Problem(
                503,
                f"{self._most_waiting} requests wait for workers already: try again, or start "
                "more workers (`warmclip worker --workers N`)",
            )
        self._waiting += 1
        is_gone = threading.Event()
        watch = asyncio.create_task(_watch_disconnect(request, is_gone)) if request else None
        try:
            answer: Mapping[str, Any] = await to_thread.run_sync(
                partial(
                    self._call, function, arguments, timeout_s=timeout_s, given_up=is_gone.is_set
                )
            )
        except WarmclipError:
            if is_gone.is_set():
                raise ClientDisconnect from None
            raise
        finally:
            self._waiting -= 1
            if watch is not None:
                watch.cancel()
        return answer


async def _watch_disconnect(request: Request, is_gone: threading.Event) -> None:
    """Wait until the client disconnects; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    is_gone.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class AppContext:
    """Settings, and the connections to sessions and workers."""

    settings: Settings
    roots: tuple[Root, ...]  # canonical
    sessions: SessionCommands
    scheduler: SessionScheduler
    workers: WorkerClient
    read_status: Callable[[], QueueStatus]
    read_counters: Callable[[], Mapping[str, int]]
    streams: Streams
    hosts: tuple[str, ...] = ()  # names by which requests may call the server
