"""Training sessions over HTTP: start, list, pause, resume, cancel, retry."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Self

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from warmclip.indexing.exclusion import Exclusion
from warmclip.indexing.patterns import LONGEST_PATTERN
from warmclip.indexing.roots import require_roots
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, as_utf8
from warmclip.serve.threads import redis_route, run_redis
from warmclip.work.naming import chunk_size
from warmclip.work.sessions.session import Session, State

PREFIX = "/api/v1/training/sessions"

_MOST_OPEN = 100
_MOST_EXCLUDED = 100
_FIRST_FAILURES = 20  # that a session is shown with

CollectionName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9](_?[A-Za-z0-9.-])*_?$",
        max_length=100,
        description="Letters, digits, '.', '-' and single '_'.",
        examples=["images"],
    ),
]


def expand_home(folder: str) -> str:
    """A folder that begins with ``~``, by the home folder of the server's user."""
    return os.path.expanduser(folder) if folder == "~" or folder.startswith("~/") else folder  # noqa: PTH111 - what is no path stays as it is


_EXAMPLE: dict[str, Any] = {
    "id": "0f8b6c0e5d3b4a1f9c7e2d1a0b9c8d7e",
    "state": "running",
    "training_directory": "/mnt/photos/2026",
    "collection": "images",
    "exclude": ["raw/"],
    "created_at": "2026-11-25T18:00:00+00:00",
    "images": 500,
    "done": 192,
    "indexed": 180,
    "unchanged": 10,
    "reused": 0,
    "skipped": 2,
    "ignored": {".mov": 12, "hidden": 1},
    "waiting_for_worker": False,
    "images_per_s": 38.5,
    "eta_s": 8.0,
    "failures": [{"path": "/mnt/photos/2026/a.jpg", "reason": "is empty"}],
}


class SessionRequest(BaseModel):
    """The folder to train on."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"training_directory": "/mnt/photos/2026"}]},
    )

    training_directory: Annotated[
        str,
        AfterValidator(expand_home),
        Field(
            min_length=1,
            max_length=4096,
            description="A folder inside the roots: an absolute path. `~` is the home folder of "
            "the server's user.",
            json_schema_extra={"pattern": "^[/~]"},
        ),
    ]
    collection: CollectionName | None = None
    exclude: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN)]],
        Field(
            max_length=_MOST_EXCLUDED,
            description="Names that are passed by, as patterns in the syntax of .gitignore.",
            examples=[["raw/", "*-small.jpg"]],
        ),
    ] = []


class SkippedItem(BaseModel):
    """A picture that was skipped, or a folder that could not be searched."""

    path: str
    reason: str


class SessionResponse(BaseModel):
    """A session, and how far it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    state: State
    training_directory: Annotated[str, Field(description="Its real path.")]
    collection: str
    exclude: list[str]
    created_at: Annotated[str, Field(description="ISO 8601, UTC.")]
    ended_at: str | None
    error: Annotated[str | None, Field(description="Why nothing could be done at all.")]
    images: Annotated[int | None, Field(description="Pictures; null while they are looked for.")]
    done: Annotated[int, Field(description="The sum of the four below.")]
    indexed: Annotated[int, Field(description="Embedded and stored.")]
    unchanged: Annotated[int, Field(description="Stored before: same size, same time.")]
    reused: Annotated[int, Field(description="Stored with the vector of the same content.")]
    skipped: Annotated[int, Field(description="Not stored; each has a reason.")]
    ignored: Annotated[
        dict[str, int],
        Field(description="Names in the folder that were passed by: suffix or reason -> count."),
    ]
    unreadable_folders: int
    waiting_for_worker: Annotated[
        bool, Field(description="It runs, and no worker is there to do its jobs.")
    ]
    images_per_s: Annotated[
        float | None, Field(description="Lately; null where nothing was done lately.")
    ]
    eta_s: Annotated[float | None, Field(description="Seconds that are left at this rate.")]

    @classmethod
    def from_session(cls, session: Session, **more: object) -> Self:
        """Make a response of a session, with the fields that a subclass adds."""
        rate, eta = session.images_per_s, session.eta_s
        return cls.model_validate(
            {
                **{name: getattr(session, name) for name in _COPIED},
                "training_directory": as_utf8(session.directory),
                "exclude": [as_utf8(it) for it in session.exclude],
                "error": None if session.error is None else as_utf8(session.error),
                "images_per_s": None if rate is None else round(rate, 2),
                "eta_s": None if eta is None else round(eta, 1),
                **more,
            }
        )


_COPIED = (
    *("id", "state", "collection", "created_at", "ended_at", "images", "done", "indexed"),
    *("unchanged", "reused", "skipped", "ignored", "unreadable_folders", "waiting_for_worker"),
)


class SessionStartedResponse(SessionResponse):
    """The session that was started, or joined."""

    joined: Annotated[bool, Field(description="Whether a session was at this folder already.")]


class SessionDetailResponse(SessionResponse):
    """A session with the first of its failures."""

    failures: list[SkippedItem]


class SessionListResponse(BaseModel):
    """Some sessions, the latest first."""

    total: int
    sessions: list[SessionResponse]


class SessionFailuresResponse(BaseModel):
    """Some of the pictures and folders that a session skipped."""

    skipped_total: int
    skipped: list[SkippedItem]
    folders_total: int
    folders: list[SkippedItem]


SessionId = Annotated[
    str, Path(pattern=r"^[0-9a-f]{32}$", examples=[_EXAMPLE["id"]], description="Of a session.")
]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="How many to leave out.")]
Limit = Annotated[int, Query(ge=1, le=500, description="How many at most.")]


def make_router(context: AppContext) -> APIRouter:
    """Make the routes of sessions."""
    router = APIRouter(prefix=PREFIX, tags=["training"], responses=RESPONSES)
    commands = context.sessions

    def find(id_: str) -> Session:
        session = commands.get(id_)
        if session is None:
            raise Problem(404, f"there is no session {id_}, or it ended over a week ago")
        return session

    def start(folder: str, collection: str, exclude: Sequence[str]) -> tuple[Session, bool]:
        if len(commands.open_sessions()) >= _MOST_OPEN:
            raise Problem(
                429, f"{_MOST_OPEN} sessions are open already: wait for one, or cancel one"
            )
        return commands.start(folder, collection, exclude)

    def run_command(id_: str, command: Callable[[str], Session]) -> SessionResponse:
        find(id_)
        session = command(id_)
        context.scheduler.wake()
        return SessionResponse.from_session(session)

    @router.post("", status_code=202)
    async def start_session(request: SessionRequest, response: Response) -> SessionStartedResponse:
        """Start to bring a folder into a collection: find its pictures and queue them.

        The answer comes at once; `Location` is the path of the session. While a session is at
        this folder, posting the folder again joins that session, unless other patterns are given.
        """
        folder = await to_thread.run_sync(
            require_roots(context.roots).resolve_folder, request.training_directory
        )
        Exclusion(request.exclude)  # refuses what is no pattern
        collection = request.collection or context.settings.collection
        session, joined = await run_redis(start, folder, collection, request.exclude)
        response.headers["Location"] = f"{PREFIX}/{session.id}"
        return SessionStartedResponse.from_session(session, joined=joined)

    @router.get("")
    @redis_route
    def list_sessions(offset: Offset = 0, limit: Limit = 50) -> SessionListResponse:
        """List all sessions, the latest first, until a week after their end."""
        sessions, total = commands.page(offset, limit)
        return SessionListResponse(
            total=total, sessions=[SessionResponse.from_session(each) for each in sessions]
        )

    @router.get("/{id}")
    @redis_route
    def get_session(id: SessionId) -> SessionDetailResponse:
        """Get one session, with the first of its failures."""
        session = find(id)
        return SessionDetailResponse.from_session(
            session, failures=_failures(commands.skipped(id, 0, _FIRST_FAILURES))
        )

    @router.get("/{id}/failures")
    @redis_route
    def list_failures(
        id: SessionId, offset: Offset = 0, limit: Limit = 100
    ) -> SessionFailuresResponse:
        """List what was skipped and why."""
        session = find(id)
        return SessionFailuresResponse(
            skipped_total=session.skipped,
            skipped=_failures(commands.skipped(id, offset, limit)),
            folders_total=session.unreadable_folders,
            folders=_failures(commands.unreadable_folders(id, offset, limit)),
        )

    @router.post("/{id}/pause")
    @redis_route
    def pause_session(id: SessionId) -> SessionResponse:
        """Take the waiting jobs out of the queue; jobs that run are finished. May be repeated."""
        return run_command(id, commands.pause)

    @router.post("/{id}/resume")
    @redis_route
    def resume_session(id: SessionId) -> SessionResponse:
        """Go on after a pause. May be repeated."""
        return run_command(id, commands.resume)

    @router.post("/{id}/cancel")
    @redis_route
    def cancel_session(id: SessionId) -> SessionResponse:
        """Give the waiting jobs up; jobs that run are finished, and what was stored stays."""
        return run_command(id, commands.cancel)

    @router.post("/{id}/retry")
    @redis_route
    def retry_session(id: SessionId) -> SessionResponse:
        """Queue the skipped pictures again, also those that were set aside.

        Folders that could not be searched are searched when they are posted again.
        """
        return run_command(id, partial(commands.retry, size=chunk_size(context.settings)))

    return router


def _failures(pairs: list[tuple[str, str]]) -> list[SkippedItem]:
    return [SkippedItem(path=as_utf8(path), reason=as_utf8(reason)) for path, reason in pairs]
