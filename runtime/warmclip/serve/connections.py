"""The open connections: bounded in all and for each client; idle ones make room for new ones."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

MOST_CONNECTIONS = 512
MOST_OF_ONE_CLIENT = 256


class Connection(Protocol):
    """One connection, as far as the bounds are concerned."""

    @property
    def peer(self) -> str:
        """The client at its other end: an address, or an IPv6 network."""
        ...

    @property
    def was_used(self) -> bool:
        """Whether a request was answered on it."""
        ...

    @property
    def idle_since(self) -> float | None:
        """Since when it has been without a whole request, s; None while a request is answered."""
        ...

    def close_idle(self) -> None:
        """Close it, to make room for another one."""
        ...


C = TypeVar("C", bound=Connection)


class TooManyConnections(Exception):
    """The bound is reached, and none of the connections is idle."""


def choose_evicted(connections: Iterable[C], peer: str, *, most: int, most_of_one: int) -> C | None:
    """Which connection has to go so that one more of this client can be open; None if none has.

    Connections that were opened and never used, that are late with a request, or that are kept
    for the next one, must lock nobody out. So one that was never used goes, else the one that has
    been idle for longest: at the client's own bound, of that client's; at the whole bound, of all.

    Raises:
        TooManyConnections: the bound is reached, and none is idle.
    """
    everyone = list(connections)
    own = [each for each in everyone if each.peer == peer]
    if len(own) >= most_of_one:
        crowd = own
    elif len(everyone) >= most:
        crowd = everyone
    else:
        return None
    idle = [each for each in crowd if each.idle_since is not None]
    if not idle:
        raise TooManyConnections
    return min(idle, key=lambda each: (each.was_used, each.idle_since))


class ConnectionTable:
    """All open connections of one server, for the event loop."""

    def __init__(self, most: int = MOST_CONNECTIONS, most_of_one: int = MOST_OF_ONE_CLIENT) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._connections: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        """Add a connection; if need be, an idle one is closed.

        Raises:
            TooManyConnections: the bound is reached, and none is idle.
        """
        evicted = choose_evicted(
            self._connections, connection.peer, most=self._most, most_of_one=self._most_of_one
        )
        if evicted is not None:
            self.remove(evicted)
            evicted.close_idle()
        self._connections[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection; twice is no error."""
        self._connections.pop(connection, None)

    def __len__(self) -> int:
        return len(self._connections)
