"""What finders enter: the pictures of a session, whole or not at all."""

import json
from collections.abc import Sequence
from typing import Any

from redis.client import Pipeline

from warmclip.work.queues import text_of
from warmclip.work.sessions.session import now
from warmclip.work.sessions.store import SessionStore, chunk_of, close, key_of, read

_ATTEMPT_S = 3600  # that a list of found pictures is kept after its finder's last sign of life
_LEASE_S = 15


class ScanResults(SessionStore):
    """The books, with what was found entered."""

    def lease(self, id_: str, token: str) -> bool:
        """Whether this finder may search the folder now; to be asked again every few seconds."""
        key = key_of(id_, "lease")
        if self.connection.set(key, token, nx=True, ex=_LEASE_S):
            return True
        if text_of(self.connection.get(key) or b"") != token:
            return False
        return bool(self.connection.expire(key, _LEASE_S))

    def release(self, id_: str, token: str) -> None:
        """Let another finder search the folder at once."""
        if text_of(self.connection.get(key_of(id_, "lease")) or b"") == token:
            self.connection.delete(key_of(id_, "lease"))

    def note_found(self, id_: str, token: str, number: int, paths: Sequence[str]) -> None:
        """Keep one chunk of what this finder finds; it counts once all were found."""
        key = key_of(id_, f"found:{token}")
        with self.connection.pipeline() as pipe:
            pipe.hset(key, str(number), chunk_of(paths))
            pipe.expire(key, _ATTEMPT_S)
            pipe.execute()

    def note_all_found(
        self,
        id_: str,
        token: str,
        *,
        chunks: int,
        images: int,
        ignored: int,
        unreadable: Sequence[tuple[str, str]],
    ) -> None:
        """Let what this finder found be what the session is about, unless it was told already."""
        found, key = key_of(id_, f"found:{token}"), key_of(id_)

        def write(pipe: Pipeline) -> None:
            session = read(pipe, id_)
            is_there = chunks == 0 or pipe.hlen(found) == chunks
            pipe.multi()
            if session is None or session.is_over or session.images is not None:
                pipe.delete(found)
                return
            if not is_there:
                return  # Redis lost some of it: it is looked for again
            fields: dict[Any, Any] = {
                "images": images,
                "ignored": ignored,
                "unreadable_folders": len(unreadable),
                "chunks": chunks,
            }
            if session.state == "finding":
                fields["state"] = "running"
            pipe.hset(key, mapping=fields)
            if chunks:
                pipe.rename(found, key_of(id_, "chunks"))
                pipe.persist(key_of(id_, "chunks"))
                pipe.zadd(key_of(id_, "pending"), {str(n): n for n in range(chunks)})
            if unreadable:
                pipe.delete(key_of(id_, "folders"))
                pipe.rpush(key_of(id_, "folders"), *map(json.dumps, unreadable))

        self.transact(write, key, found)

    def note_failure(self, id_: str, error: str) -> None:
        """End a session of which nothing can come."""

        def write(pipe: Pipeline) -> None:
            session = read(pipe, id_)
            pipe.multi()
            if session is not None and not session.is_over:
                fields: dict[Any, Any] = {
                    "state": "failed",
                    "error": json.dumps(error),
                    "ended_at": now(),
                }
                pipe.hset(key_of(id_), mapping=fields)
                close(pipe, session)

        self.transact(write, key_of(id_))
