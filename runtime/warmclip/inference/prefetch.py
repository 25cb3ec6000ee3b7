"""A function run over a stream of items on threads, a bounded number of them ahead."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

MOST_WAITING_BYTES = 32 * 1024 * 1024
"""Of files that wait for the next step; a file may be larger, and then waits alone."""


def prefetch(
    function: Callable[[V], R],
    items: Iterable[tuple[K, V]],
    *,
    threads: int,
    ahead: int,
    size_of: Callable[[V], int],
    name: str,
    on_close: Callable[[], None],
    in_halves: bool = False,
) -> Generator[list[tuple[K, R]], None, None]:
    """Yield (key, result) of what has become ready, never an empty list.

    A quick item passes a slow one. No item is taken while ``ahead`` items, or more than
    ``MOST_WAITING_BYTES``, were taken and their results were not yielded.

    Args:
        function: called on a thread; it raises nothing.
        items: (key, argument of the function).
        threads: how many.
        ahead: items.
        size_of: how many bytes an item keeps in memory until its result is yielded.
        name: of the threads.
        on_close: called when no more results are wanted; it has the function end soon.
        in_halves: yield half of what is under way at once, rather than each result when it is
            ready: for a consumer that asks another service about each list.
    """
    under_way: dict[Future[R], tuple[K, int]] = {}
    held_bytes = 0
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    try:
        for key, item in items:
            size = size_of(item)
            under_way[pool.submit(function, item)] = key, size
            held_bytes += size
            while len(under_way) >= ahead or held_bytes > MOST_WAITING_BYTES:
                ready, freed_bytes = _take_ready(under_way, in_halves=in_halves)
                held_bytes -= freed_bytes
                yield ready
        while under_way:
            yield _take_ready(under_way, in_halves=in_halves)[0]
    finally:
        on_close()
        pool.shutdown(cancel_futures=True)


def _take_ready(
    under_way: dict[Future[R], tuple[K, int]], *, in_halves: bool
) -> tuple[list[tuple[K, R]], int]:
    """Wait until enough are ready, and take all that are, in the order of their items.

    Returns:
        Their keys and results, and how many bytes they kept.
    """
    least = (len(under_way) + 1) // 2 if in_halves else 1
    running = set(under_way)
    while len(under_way) - len(running) < least:
        running = wait(running, return_when=FIRST_COMPLETED).not_done
    ready = []
    freed_bytes = 0
    for future in [it for it in under_way if it not in running]:
        key, size = under_way.pop(future)
        ready.append((key, future.result()))
        freed_bytes += size
    return ready, freed_bytes
