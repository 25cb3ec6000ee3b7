"""A function run ahead on threads: order, bounds, and an early end."""

import threading
from collections.abc import Iterator

import pytest

from warmclip.inference import prefetch as module
from warmclip.inference.prefetch import prefetch


def nothing() -> None:
    """What is done at the end by those that have nothing to do."""


@pytest.mark.parametrize(("size", "ahead", "most"), [(1, 4, 4), (40, 100, 3), (1000, 100, 1)])
def test_bounds(monkeypatch: pytest.MonkeyPatch, size: int, ahead: int, most: int) -> None:
    """Items are taken as far as their number and their bytes may be; one is taken in any case."""
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 100)
    taken = 0

    def items() -> Iterator[tuple[int, int]]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield number, number

    yielded = 0
    results = prefetch(
        lambda it: -it,
        items(),
        threads=2,
        ahead=ahead,
        size_of=lambda _: size,
        name="test",
        on_close=nothing,
    )
    for ready in results:
        assert 0 < taken - yielded <= most
        assert all(result == -key for key, result in ready)
        yielded += len(ready)
    assert yielded == 20


def test_quick_item_passes_a_slow_one() -> None:
    """What is ready comes first, each with its own key."""
    second_came = threading.Event()

    def run(item: str) -> str:
        if item == "slow":
            assert second_came.wait(30)
        return item.upper()

    items = [("a", "slow"), ("b", "quick")]
    results = prefetch(run, items, threads=2, ahead=4, size_of=len, name="test", on_close=nothing)
    assert next(results) == [("b", "QUICK")]
    second_came.set()
    assert list(results) == [[("a", "SLOW")]]


def test_halves() -> None:
    """Results come in few lists, and never are more than half of those under way waited for."""
    go_on = threading.Event()

    def run(item: int) -> int:
        if item >= 4:
            assert go_on.wait(30)
        return item

    items = [(number, number) for number in range(8)]
    results = prefetch(
        run,
        items,
        threads=8,
        ahead=8,
        size_of=lambda _: 0,
        name="test",
        on_close=nothing,
        in_halves=True,
    )
    assert sorted(next(results)) == [(number, number) for number in range(4)]
    go_on.set()
    assert sorted(it for ready in results for it in ready) == items[4:]


def test_early_end() -> None:
    """What waits is told to end, what was not begun is not begun, and no thread is left."""
    begun: list[int] = []
    ended = threading.Event()

    def run(item: int) -> None:
        begun.append(item)
        if item:
            assert ended.wait(30)

    results = prefetch(
        run,
        ((number, number) for number in range(1000)),
        threads=2,
        ahead=10,
        size_of=lambda _: 0,
        name="test-early-end",
        on_close=ended.set,
    )
    next(results)
    results.close()
    assert len(begun) <= 3
    assert not [it for it in threading.enumerate() if it.name.startswith("test-early-end")]
