"""Blocking work of routes: in threads, each piece within a deadline."""

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from anyio import fail_after, to_thread

from warmclip.errors import QueueUnreachable

THREADS = 160
"""Threads that answer requests: most of them wait for Redis."""

REDIS_S = 4.5
"""How long a route's questions to Redis may take all together."""

P = ParamSpec("P")
T = TypeVar("T")


async def run_redis(function: Callable[..., T], *arguments: object, within_s: float = REDIS_S) -> T:
    """Run a function that asks Redis in a thread, and return what it returns.

    Args:
        function: what to run.
        arguments: of the function.
        within_s: how long it may take.

    Raises:
        QueueUnreachable: Redis is too slow. The thread ends by itself, and its result is dropped.
        Exception: what the function raises.
    """
    try:
        with fail_after(within_s):
            return await to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
    except TimeoutError:
        raise QueueUnreachable(
            f"Redis answers too slowly: not within {within_s:.0f} s; look at its load and its disk "
            "(`redis-cli --latency`, SLOWLOG GET), then try again"
        ) from None


def redis_route(endpoint: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Make a blocking endpoint, which only asks Redis, one that ``run_redis`` runs."""

    @functools.wraps(endpoint)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await run_redis(functools.partial(endpoint, *args, **kwargs))

    return run
