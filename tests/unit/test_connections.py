"""Which connection makes room for a new one: by a table of those that are open."""

from dataclasses import dataclass

import pytest

from warmclip.serve.connections import ConnectionTable, TooManyConnections, choose_evicted


@dataclass(eq=False)
class Open:
    """A connection of a client, and since when it has been idle."""

    peer: str
    idle_since: float | None = None
    was_used: bool = True
    closed: bool = False

    def close_idle(self) -> None:
        """Note it."""
        self.closed = True


def opened(text: str) -> list[Open]:
    """Of "a1 b- c2n": one of a that is idle since 1, one of b that is busy, a new one of c."""
    return [
        Open(it[0], None if it[1] == "-" else float(it[1]), not it.endswith("n"))
        for it in text.split()
    ]


@pytest.mark.parametrize(
    ("connections", "peer", "evicted"),
    [
        ("", "a", None),
        ("a1 a2", "b", None),
        ("a1 a2", "a", None),
        ("a3 a1 a2", "a", 1),  # of its own, the one that is idle for longest
        ("a3 a- a2 b1", "a", 2),  # not another client's
        ("a- a- a2", "a", 2),
        ("a1 a2n a3n", "a", 1),  # rather one that was never used
        ("a1 a2 b3n b4 c5n", "d", 2),
        ("a- a- a-", "a", "full"),
        ("a- a- a- b1", "a", "full"),
        ("a2 a3 b1 b4 c5", "d", 2),  # at the whole bound, of all
        ("a- a- b- b4 c5", "d", 3),
        ("a- a- b- b- c-", "d", "full"),
    ],
)
def test_room_for_one_more(connections: str, peer: str, evicted: int | str | None) -> None:
    """With at most 5 in all, and 3 of one client."""
    there = opened(connections)
    if evicted == "full":
        with pytest.raises(TooManyConnections):
            choose_evicted(there, peer, most=5, most_of_one=3)
        return
    found = choose_evicted(there, peer, most=5, most_of_one=3)
    assert found is (there[evicted] if isinstance(evicted, int) else None)


def test_table() -> None:
    """An idle connection is closed when its place is taken, a busy one never; what has ended is
    forgotten.
    """
    table = ConnectionTable(most=3, most_of_one=2)
    first, second, third = Open("a", 1), Open("a"), Open("a", 2)
    for each in (first, second, third):
        table.add(each)
    assert (first.closed, second.closed, third.closed) == (True, False, False)
    assert len(table) == 2
    third.idle_since = None
    with pytest.raises(TooManyConnections):
        table.add(Open("a"))
    table.remove(first)
    table.remove(second)
    table.add(Open("a"))
    table.add(Open("b"))
    with pytest.raises(TooManyConnections):
        table.add(Open("b"))
