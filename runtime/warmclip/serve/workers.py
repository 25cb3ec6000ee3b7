"""Calls of workers, for requests whose clients may leave."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from anyio import to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from warmclip.errors import JobFailed, StoreUnreachable
from warmclip.serve.problems import Problem
from warmclip.serve.search_groups import SearchGroups
from warmclip.serve.threads import REDIS_S, run_redis

ANSWER_S = 30.0
"""How long a worker may take to answer one request."""

_MOST_WAITING = 64
_PACKED_PER_S = 1_000_000  # bytes of a picture that RQ compresses, on a busy machine
_OUTAGE_AFTER_S = 2.5  # without an answer, the store is asked whether it is there


T = TypeVar("T")


class SentCall(Protocol):
    """See ``warmclip.work.call.SentCall``."""

    @property
    def workers(self) -> int:
        """How many listened when it was sent."""
        ...

    def wait(self, is_cancelled: Callable[[], bool]) -> Any:
        """Wait for the answer."""
        ...


def read_answer(answer: Any, read: Callable[[Any], T]) -> T:
    """Read a worker's answer, which passed through a Redis that others may write to.

    Raises:
        JobFailed: it is not what was asked for.
    """
    try:
        return read(answer)
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise JobFailed(
            "a worker answered with something else than it was asked for: are server and workers "
            "of one warmclip?"
        ) from exc


class WorkerClient:
    """Calls functions of ``warmclip.work.jobs`` in a worker, for a bounded number of requests.

    It belongs to the event loop.
    """

    def __init__(
        self,
        send: Callable[..., SentCall],
        find_outage: Callable[[], str | None],
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        """Make a client.

        Args:
            send: ``warmclip.work.call.send_call`` with its connection.
            find_outage: why the store cannot be reached, in a sentence; None if it can.
            most_waiting: requests that may wait for workers at once.
        """
        self._send = send
        self._find_outage = find_outage
        self._most_waiting = most_waiting
        self._waiting = 0
        self._workers = 1
        self._searches = SearchGroups(self._ask, lambda: self._workers)

    async def call(
        self,
        function: str,
        *,
        request: Request | None = None,
        needs_store: bool = False,
        timeout_s: float = ANSWER_S,
        **arguments: Any,
    ) -> Any:
        """Have a worker run a function, and return its answer, for ``read_answer``.

        Args:
            function: its name.
            request: what waits for the answer. Once its client disconnects, its place is free for
                another request, and the job is taken back from the queue.
            needs_store: whether there can be no answer while the store is away.
            timeout_s: how long to wait.
            arguments: of the function.

        Raises:
            Problem: too many requests wait already.
            ClientDisconnect: the client is gone.
            StoreUnreachable: the store is needed, and away.
            WarmclipError: what the function raised, or that no worker answered.
        """
        gone = threading.Event()
        try:
            answer = self._ask(function, arguments, gone.is_set, timeout_s=timeout_s)
            return await self._wait(answer, request, needs_store=needs_store)
        finally:
            gone.set()

    async def search(self, request: Request, **arguments: Any) -> Any:
        """Have a worker search by a text: ``call``, for those that come together one job."""
        answer = self._searches.search(arguments, ANSWER_S)
        return await self._wait(answer, request, needs_store=True)

    async def _ask(
        self,
        function: str,
        arguments: Mapping[str, Any],
        is_unwanted: Callable[[], bool],
        *,
        timeout_s: float = ANSWER_S,
    ) -> Any:
        """Send a call and wait for its answer; see ``SentCall.wait``."""
        size = sum(len(each) for each in arguments.values() if isinstance(each, str))
        sent = await run_redis(
            partial(self._send, function, arguments, timeout_s=timeout_s),
            within_s=REDIS_S + size / _PACKED_PER_S,
        )
        self._workers = sent.workers
        return await to_thread.run_sync(sent.wait, is_unwanted, abandon_on_cancel=True)

    async def _wait(
        self, asked: Coroutine[Any, Any, Any], request: Request | None, *, needs_store: bool
    ) -> Any:
        """Wait in a place for the answer, or for what makes it useless."""
        if self._waiting >= self._most_waiting:
            asked.close()
            raise Problem(
                503,
                f"{self._most_waiting} requests wait for workers already: try again, or start "
                "more workers (`warmclip worker --workers N`)",
            )
        self._waiting += 1
        answer = asyncio.ensure_future(asked)
        waits: set[asyncio.Future[Any]] = {answer}
        if request is not None:
            waits.add(asyncio.ensure_future(_wait_for_disconnect(request)))
        if needs_store:
            waits.add(asyncio.ensure_future(self._wait_for_outage()))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if answer not in done:
                raise done.pop().result()
            return answer.result()
        finally:
            self._waiting -= 1
            for each in waits:
                each.cancel()

    async def _wait_for_outage(self) -> StoreUnreachable:
        """Wait until the store is found to be away, and return the error."""
        while True:
            await asyncio.sleep(_OUTAGE_AFTER_S)
            outage = await to_thread.run_sync(self._find_outage, abandon_on_cancel=True)
            if outage is not None:
                return StoreUnreachable(outage)


async def _wait_for_disconnect(request: Request) -> ClientDisconnect:
    """Wait until the client disconnects, and return the error; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return ClientDisconnect()
