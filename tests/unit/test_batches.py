"""Requests of a size that a store takes, which is found out by its refusals."""

import pytest

from warmclip.errors import RequestTooLarge
from warmclip.store.batches import Batches, batches


class _Store:
    """It takes so many items in one request, and keeps what it was sent."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken: list[list[int]] = []
        self.refused: list[int] = []

    def request(self, batch: list[int]) -> int:
        if len(batch) > self.most:
            self.refused.append(len(batch))
            raise RequestTooLarge("too many")
        self.taken.append(batch)
        return len(batch)


@pytest.mark.parametrize(
    ("items", "size", "cut"),
    [
        (0, 3, []),
        (1, 3, [[0]]),
        (3, 3, [[0, 1, 2]]),
        (7, 3, [[0, 1, 2], [3, 4, 5], [6]]),
    ],
)
def test_cut(items: int, size: int, cut: list[list[int]]) -> None:
    """In order, none of them empty."""
    assert list(batches(iter(range(items)), size)) == cut


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 100])
def test_every_item_is_sent_once(most: int) -> None:
    """In its order, whatever the store takes; what each request returned comes back."""
    store = _Store(most)
    told = list(Batches().send("write", range(21), 8, store.request))
    assert [item for batch in store.taken for item in batch] == list(range(21))
    assert told == [len(batch) for batch in store.taken]
    assert max(told) <= most


def test_size_is_remembered() -> None:
    """For its kind of request: what was refused once is not sent again."""
    store, sender = _Store(3), Batches()
    list(sender.send("write", range(8), 8, store.request))
    assert store.refused == [8, 4]
    list(sender.send("write", range(9), 8, store.request))
    assert store.refused == [8, 4]
    assert [len(batch) for batch in store.taken[-5:]] == [2, 2, 2, 2, 1]
    list(sender.send("read", range(8), 8, store.request))
    assert store.refused == [8, 4, 8, 4]
    list(sender.send("write", range(2), 1, store.request))
    assert [len(batch) for batch in store.taken[-2:]] == [1, 1]


def test_single_item_that_is_too_large() -> None:
    """It is refused, after what came before it was sent."""
    store = _Store(0)
    with pytest.raises(RequestTooLarge):
        list(Batches().send("write", range(3), 2, store.request))
    assert store.refused == [2, 1]


@pytest.mark.parametrize(
    ("items", "most", "refused", "taken"),
    [
        (7, 3, [7, 4], [2, 2, 2, 1]),
        (5, 3, [5], [3, 2]),
        (2, 1, [2], [1, 1]),
        (9, 4, [9, 5], [3, 2, 3, 1]),
    ],
)
def test_halves(items: int, most: int, refused: list[int], taken: list[int]) -> None:
    """What is refused is sent in two halves, the larger one first, which tells what is taken."""
    store = _Store(most)
    list(Batches().send("write", range(items), items, store.request))
    assert store.refused == refused
    assert [len(batch) for batch in store.taken] == taken
