"""Which scanners live, and which of them searches a folder.

A scanner lives as long as it beats: a timer increments its count in Redis every few seconds. The
others watch that count by their own monotonic clocks, so that no clock that is set, here or where
Redis runs, ends a lease or prolongs it. A lease is held as long as its holder lives.
"""

import time
import uuid

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError, WatchError

from warmclip.work.patience import is_wrong_type
from warmclip.work.replies import text_of, warn_once
from warmclip.work.sessions.store import read_text, session_key

_SCANNERS = "rq:warmclip:sessions:scanners"  # hash: scanner -> its count of beats

BEAT_EVERY_S = 3.0


class ScanLeases:
    """The leases of one scanner, and what it sees of the others. ``beat`` may be in a thread."""

    def __init__(self, connection: Redis, *, lost_after_s: float = 15.0) -> None:
        """Leases of a new scanner.

        Args:
            connection: to the Redis that the scanners share.
            lost_after_s: without a beat, a scanner counts as dead.
        """
        self.token = uuid.uuid4().hex
        self._connection = connection
        self._lost_after_s = lost_after_s
        self._seen: dict[str, tuple[str, float]] = {}  # scanner -> its count, and since when

    def beat(self) -> None:
        """Show that this scanner lives, and look who else does."""
        try:
            self._connection.hincrby(_SCANNERS, self.token, 1)
        except ResponseError as exc:
            if not is_wrong_type(exc):
                raise
            warn_once(f"{_SCANNERS} in Redis is not warmclip's, and is deleted: {exc}")
            self._connection.delete(_SCANNERS)
            return
        now = time.monotonic()
        seen = {}
        for raw, count in self._connection.hgetall(_SCANNERS).items():
            scanner, last = text_of(raw), text_of(count)
            known, since = self._seen.get(scanner, ("", now))
            seen[scanner] = (last, since if known == last else now)
            if now - seen[scanner][1] > self._lost_after_s and scanner != self.token:
                self._connection.hdel(_SCANNERS, raw)
                del seen[scanner]
        self._seen = seen

    def leave(self) -> None:
        """This scanner ends: its leases are free at once."""
        self._connection.hdel(_SCANNERS, self.token)

    def living(self) -> set[str]:
        """The scanners that live, this one among them."""
        return {*map(text_of, self._connection.hkeys(_SCANNERS)), self.token}

    def acquire(self, session: str) -> bool:
        """Whether this scanner may search a session's folder now."""
        key = session_key(session, "lease")
        with self._connection.pipeline() as pipe:
            pipe.watch(key)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
            holder = read_text(pipe, key)
            if holder != self.token and holder in self.living():
                return False
            pipe.multi()
            pipe.set(key, self.token)
            return _is_executed(pipe)

    def is_held(self, connection: Redis | Pipeline, session: str) -> bool:
        """Whether this scanner holds the lease; another may have taken it for dead."""
        return read_text(connection, session_key(session, "lease")) == self.token

    def release(self, session: str) -> None:
        """Let another scanner search the folder."""
        key = session_key(session, "lease")
        with self._connection.pipeline() as pipe:
            pipe.watch(key)  # type: ignore[no-untyped-call]  # redis-py's is not annotated
            if self.is_held(pipe, session):
                pipe.multi()
                pipe.delete(key)
                _is_executed(pipe)


def _is_executed(pipe: Pipeline) -> bool:
    """Whether a transaction was carried out, and nobody was quicker."""
    try:
        pipe.execute()
    except WatchError:
        return False
    return True
