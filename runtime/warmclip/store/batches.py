"""Many items in requests of a size that the store takes."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from warmclip.errors import RequestTooLarge

T = TypeVar("T")
R = TypeVar("R")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut items into lists of at most ``size``, as itertools.batched does from Python 3.12 on."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch


class Batches:
    """Sends requests, and halves those that the store refuses as too large.

    A server's strict mode may limit the points in a request, the conditions in a filter and the
    values in a condition. What it takes is remembered for each kind of request.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    def send(
        self, kind: str, items: Iterable[T], size: int, request: Callable[[list[T]], R]
    ) -> Iterator[R]:
        """Yield what each request returns.

        Args:
            kind: of the request, for which a size is remembered.
            items: of all requests.
            size: items in one request, unless that is known to be too many.
            request: sends some items.

        Raises:
            RequestTooLarge: a request with a single item is refused.
        """
        for batch in batches(items, min(size, self._sizes.get(kind, size))):
            try:
                result = request(batch)
            except RequestTooLarge:
                if len(batch) == 1:
                    raise
                half = (len(batch) + 1) // 2
                yield from self.send(kind, batch[:half], half, request)
                self._sizes[kind] = min(half, self._sizes.get(kind, half))
                yield from self.send(kind, batch[half:], half, request)
            else:
                yield result
