"""Waits for several queues at once, and takes nothing out of them.

Redis moves from one list at a time, and a pop from several loses the job of a worker that dies.
So each queue is watched on a connection of its own, by a move that changes nothing: from the head
of the list to the head of the same list. Redis answers it as soon as the list has a member.
"""

import select
import time
from collections.abc import Sequence

from redis import Redis
from redis.connection import Connection
from redis.exceptions import ResponseError

from warmclip.work.patience import LOST, is_wrong_type

_ANSWER_S = 5  # after which Redis answers that there was no job


class QueueWatch:
    """The connections on which one worker watches its queues."""

    def __init__(self, redis: Redis, keys: Sequence[str]) -> None:
        self._redis = redis
        self._keys = keys
        self._connections: dict[str, Connection] = {}
        self._asked: set[str] = set()  # keys whose answer was not read yet

    def wait(self, longest_s: float) -> None:
        """Return when a queue has had a job since the last wait, or when the time has passed.

        Whether it still has the job is for the caller to see. When Redis is lost this returns as
        well: the caller's next command has the patience for it.

        Raises:
            RedisError: Redis refuses to watch, and did so for too long.
        """
        deadline = time.monotonic() + longest_s
        keys = list(self._keys)
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                # redis-py has no public way to wait for one of several connections.
                sockets = {self._ask(key)._sock: key for key in keys}
                for socket in select.select(sockets, [], [], left_s)[0]:  # type: ignore[type-var]  # connected
                    key = sockets[socket]
                    try:
                        if self._has_had_job(key):
                            return
                    except ResponseError as exc:
                        if is_wrong_type(exc):
                            keys.remove(key)
                        else:  # asked again with patience, which tells of a refusal and waits
                            self._redis.blmove(key, key, 0.01, "LEFT", "LEFT")  # type: ignore[arg-type]  # as above
        except LOST:
            self.close()

    def close(self) -> None:
        """Give the connections back; the next wait takes new ones."""
        for connection in self._connections.values():
            connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py's
            self._redis.connection_pool.release(connection)
        self._connections.clear()
        self._asked.clear()

    def _ask(self, key: str) -> Connection:
        if key not in self._connections:
            self._connections[key] = self._redis.connection_pool.get_connection()
        if key not in self._asked:
            command = "BLMOVE", key, key, "LEFT", "LEFT", _ANSWER_S
            self._connections[key].send_command(*command)  # type: ignore[no-untyped-call]  # likewise
            self._asked.add(key)
        return self._connections[key]

    def _has_had_job(self, key: str) -> bool:
        self._asked.remove(key)
        return self._connections[key].read_response() is not None
