"""Training sessions as they change: server-sent events."""

import threading
import time
from collections.abc import AsyncIterator

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, of_error
from warmclip.serve.sessions import PREFIX, SessionPage, SessionView
from warmclip.serve.streams import Streams
from warmclip.settings import Settings
from warmclip.work.broker import BROKER_ERRORS, as_ours
from warmclip.work.sessions.store import SessionStore

_MOST_SESSIONS = 50  # that are over
_EVERY_S = 1.0
_HEARTBEAT_S = 15.0  # below what proxies take for silence
_RETRY_MS = 2_000

_EXAMPLE = """\
retry: 2000

event: sessions
data: {"total": 1, "sessions": [{"id": "0f8b6c0e5d3b4a1f9c7e2d1a0b9c8d7e", ...}]}

: still here
"""
_CONTENT = {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}


class Newest:
    """The youngest sessions and all that are open, read about once a second for all streams."""

    def __init__(self, books: SessionStore) -> None:
        self._books = books
        self._lock = threading.Lock()
        self._page: SessionPage | None = None
        self._read_at = float("-inf")

    def read(self) -> SessionPage:
        """As they are, or were just now."""
        with self._lock:
            if self._page is None or time.monotonic() - self._read_at > 0.9 * _EVERY_S:
                youngest, total = self._books.page(0, _MOST_SESSIONS)
                open_ = (each for each in self._books.open_sessions() if not each.is_over)
                found = {each.id: each for each in (*youngest, *open_)}
                views = [SessionView.of(each) for each in found.values()]
                self._page = SessionPage(total=total, sessions=views)
                self._read_at = time.monotonic()
            return self._page


def router(services: AppContext) -> APIRouter:
    """The route of events; it comes before that of one session."""
    routes = APIRouter(prefix=PREFIX, tags=["training"], responses=RESPONSES)
    newest = Newest(services.ledger)

    @routes.get(
        "/events",
        response_class=StreamingResponse,
        responses={
            200: {"content": _CONTENT, "description": "Server-sent events, without end."},
        },
    )
    def events() -> StreamingResponse:
        """Follow the sessions: what there is at once, then each that is new or has changed.

        It tells of the 50 youngest, and of all that are under way.

        Events are named `sessions`, with a page of sessions as `GET` lists them, or `problem`,
        while they cannot be read. At most one comes a second, and a comment where none does for
        15 seconds. The first event tells everything, so `Last-Event-ID` is not needed, and not
        looked at. A stream ends when the server stops; at most 32 are open at once.
        """
        services.streams.check()
        first = newest.read()  # what is wrong at once is a problem as everywhere
        return StreamingResponse(
            tell(newest, services.streams, services.settings, first),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return routes


async def tell(
    newest: Newest, streams: Streams, settings: Settings, first: SessionPage
) -> AsyncIterator[str]:
    """One stream, from its first event to its end; at once if others have come first."""
    if streams.is_full:  # when it was checked, they had not begun
        return
    with streams.counted():
        yield f"retry: {_RETRY_MS}\n\n"
        yield _event("sessions", first.model_dump_json())
        told = {each.id: each for each in first.sessions}
        total, trouble = first.total, ""
        spoke_at = time.monotonic()
        while await streams.wait(_EVERY_S):
            event = ""
            try:
                page = await to_thread.run_sync(newest.read)
            except BROKER_ERRORS as exc:
                problem = bytes(of_error(as_ours(settings, exc)).body).decode("ascii")
                if problem != trouble:
                    event = _event("problem", problem)
                trouble = problem
            else:
                changed = [each for each in page.sessions if told.get(each.id) != each]
                if changed or page.total != total or trouble:
                    news = SessionPage(total=page.total, sessions=changed)
                    event = _event("sessions", news.model_dump_json())
                told = {each.id: each for each in page.sessions}
                total, trouble = page.total, ""
            if not event and time.monotonic() - spoke_at >= _HEARTBEAT_S:
                event = ": still here\n\n"
            if event:
                yield event
                spoke_at = time.monotonic()


def _event(name: str, data: str) -> str:
    """One event; JSON holds no line break, so that its data is one line."""
    return f"event: {name}\ndata: {data}\n\n"
