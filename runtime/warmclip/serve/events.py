"""Training sessions as they change: server-sent events."""

import threading
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from warmclip.errors import QueueUnreachable
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, problem_of_redis
from warmclip.serve.sessions import PREFIX, SessionListResponse, SessionResponse
from warmclip.serve.streams import Streams
from warmclip.serve.threads import run_redis
from warmclip.settings import Settings
from warmclip.work.broker import BROKER_ERRORS
from warmclip.work.sessions.store import SessionStore

_MOST_SESSIONS = 50  # that are over
_INTERVAL_S = 1.0
_HEARTBEAT_S = 15.0  # below the silence after which proxies close a connection
_RETRY_MS = 2_000

_READ_ERRORS: tuple[type[Exception], ...] = (QueueUnreachable, *BROKER_ERRORS)

_EXAMPLE = """\
retry: 2000

event: sessions
data: {"total": 1, "sessions": [{"id": "0f8b6c0e5d3b4a1f9c7e2d1a0b9c8d7e", ...}]}

: still here
"""
_CONTENT = {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}


class SessionFeed:
    """The latest sessions and all that are open, read about once a second for all streams."""

    def __init__(self, sessions: SessionStore) -> None:
        self._sessions = sessions
        self._lock = threading.Lock()
        self._latest: SessionListResponse | None = None
        self._read_at = float("-inf")

    def read(self) -> SessionListResponse:
        """The sessions as they are, or were less than a second ago."""
        with self._lock:
            if self._latest is None or time.monotonic() - self._read_at > 0.9 * _INTERVAL_S:
                latest, total = self._sessions.page(0, _MOST_SESSIONS)
                open_ = (each for each in self._sessions.open_sessions() if not each.is_over)
                found = {each.id: each for each in (*latest, *open_)}
                self._latest = SessionListResponse(
                    total=total,
                    sessions=[SessionResponse.from_session(each) for each in found.values()],
                )
                self._read_at = time.monotonic()
            return self._latest


def make_router(context: AppContext) -> APIRouter:
    """Make the route of events; it must be added before the route of one session."""
    router = APIRouter(prefix=PREFIX, tags=["training"], responses=RESPONSES)
    feed = SessionFeed(context.sessions)

    @router.get(
        "/events",
        response_class=StreamingResponse,
        responses={
            200: {"content": _CONTENT, "description": "Server-sent events, without end."},
        },
    )
    async def stream_session_events() -> StreamingResponse:
        """Follow the sessions: all at once at first, then each that is new or has changed.

        It tells of the latest 50, and of all that are under way.

        Events are named `sessions`, with a page of sessions as `GET` lists them, or `problem`,
        while they cannot be read. At most one comes a second, and a comment where none does for
        15 seconds. The first event tells everything, so `Last-Event-ID` is not needed, and not
        looked at. A stream ends when the server stops; at most 32 are open at once.
        """
        context.streams.check()
        first = await run_redis(feed.read)  # an error is a problem document here, as of every route
        return StreamingResponse(
            send_events(feed, context.streams, context.settings, first),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return router


async def send_events(
    feed: SessionFeed, streams: Streams, settings: Settings, first: SessionListResponse
) -> AsyncIterator[str]:
    """Yield the events of one stream; none if too many streams have begun since the check."""
    if streams.is_full:
        return
    with streams.counted():
        yield f"retry: {_RETRY_MS}\n\n"
        yield _event("sessions", first.model_dump_json())
        sent = {each.id: each for each in first.sessions}
        total, problem = first.total, ""
        sent_at = time.monotonic()
        while await streams.sleep(_INTERVAL_S):
            event = ""
            try:
                latest = await run_redis(feed.read)
            except _READ_ERRORS as exc:
                before = problem
                problem = bytes(problem_of_redis(exc, settings).body).decode("ascii")
                if problem != before:
                    event = _event("problem", problem)
            else:
                changed = [each for each in latest.sessions if sent.get(each.id) != each]
                if changed or latest.total != total or problem:
                    news = SessionListResponse(total=latest.total, sessions=changed)
                    event = _event("sessions", news.model_dump_json())
                sent = {each.id: each for each in latest.sessions}
                total, problem = latest.total, ""
            if not event and time.monotonic() - sent_at >= _HEARTBEAT_S:
                event = ": still here\n\n"
            if event:
                yield event
                sent_at = time.monotonic()


def _event(name: str, data: str) -> str:
    """One event; JSON has no line break, so that its data is one line."""
    return f"event: {name}\ndata: {data}\n\n"
