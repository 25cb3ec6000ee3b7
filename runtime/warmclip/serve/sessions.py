"""Training sessions over HTTP: begin, follow, pause, resume, cancel, retry."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from warmclip.indexing.folders import find_folder
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, shown
from warmclip.work.producer import chunk_size
from warmclip.work.sessions.session import Session, State

PREFIX = "/api/v1/training/sessions"

_MOST_OPEN = 100
_TOLD_AT_ONCE = 20

CollectionName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9](_?[A-Za-z0-9.-])*_?$",
        max_length=100,
        description="Letters, digits, '.', '-' and single '_'.",
        examples=["images"],
    ),
]

_EXAMPLE: dict[str, Any] = {
    "id": "0f8b6c0e5d3b4a1f9c7e2d1a0b9c8d7e",
    "state": "running",
    "training_directory": "/mnt/photos/2026",
    "collection": "images",
    "created_at": "2026-11-25T18:00:00+00:00",
    "images": 500,
    "done": 192,
    "indexed": 180,
    "unchanged": 10,
    "reused": 0,
    "skipped": 2,
    "waiting_for_worker": False,
    "images_per_s": 38.5,
    "eta_s": 8.0,
    "failures": [{"path": "/mnt/photos/2026/a.jpg", "reason": "is empty"}],
}


class SessionRequest(BaseModel):
    """What to train on."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"training_directory": "/mnt/photos/2026"}]},
    )

    training_directory: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4096,
            description="A folder inside the roots: an absolute path.",
            json_schema_extra={"pattern": "^/"},
        ),
    ]
    collection: CollectionName | None = None


class SkippedPicture(BaseModel):
    """A picture that was skipped, or a folder that could not be searched."""

    path: str
    reason: str


class SessionView(BaseModel):
    """How far a session is."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    state: State
    training_directory: Annotated[str, Field(description="Its real path.")]
    collection: str
    created_at: Annotated[str, Field(description="ISO 8601, UTC.")]
    ended_at: str | None
    error: Annotated[str | None, Field(description="Why nothing could be done at all.")]
    images: Annotated[int | None, Field(description="Pictures; null while they are looked for.")]
    done: Annotated[int, Field(description="The sum of the four below.")]
    indexed: Annotated[int, Field(description="Embedded and stored.")]
    unchanged: Annotated[int, Field(description="Stored before: same size, same time.")]
    reused: Annotated[int, Field(description="Stored with the vector of the same content.")]
    skipped: Annotated[int, Field(description="Not stored; each has a reason.")]
    ignored: Annotated[int, Field(description="Names that are hidden, or no pictures.")]
    unreadable_folders: int
    waiting_for_worker: Annotated[
        bool, Field(description="It runs, and no worker is there to do its jobs.")
    ]
    images_per_s: Annotated[
        float | None, Field(description="Lately; null where nothing was done lately.")
    ]
    eta_s: Annotated[float | None, Field(description="Seconds that are left at this rate.")]

    @classmethod
    def of(cls, session: Session, **more: object) -> Self:
        """As the world sees it."""
        rate, eta = session.images_per_s, session.eta_s
        return cls.model_validate(
            {
                **{name: getattr(session, name) for name in _SAME},
                "training_directory": shown(session.directory),
                "error": None if session.error is None else shown(session.error),
                "images_per_s": None if rate is None else round(rate, 2),
                "eta_s": None if eta is None else round(eta, 1),
                **more,
            }
        )


_SAME = (
    *("id", "state", "collection", "created_at", "ended_at", "images", "done", "indexed"),
    *("unchanged", "reused", "skipped", "ignored", "unreadable_folders", "waiting_for_worker"),
)


class SessionCreated(SessionView):
    """A session that was asked for."""

    joined: Annotated[bool, Field(description="Whether it was at this folder already.")]


class SessionDetail(SessionView):
    """A session with the first of its failures."""

    failures: list[SkippedPicture]


class SessionPage(BaseModel):
    """Some sessions, the youngest first."""

    total: int
    sessions: list[SessionView]


class SkippedPage(BaseModel):
    """Some of a session's failures."""

    skipped_total: int
    skipped: list[SkippedPicture]
    folders_total: int
    folders: list[SkippedPicture]


SessionId = Annotated[
    str, Path(pattern=r"^[0-9a-f]{32}$", examples=[_EXAMPLE["id"]], description="Of a session.")
]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="To leave out.")]
Limit = Annotated[int, Query(ge=1, le=500, description="At most.")]


def router(services: AppContext) -> APIRouter:
    """The routes of sessions."""
    routes = APIRouter(prefix=PREFIX, tags=["training"], responses=RESPONSES)
    ledger = services.ledger

    def find(id_: str) -> Session:
        session = ledger.get(id_)
        if session is None:
            raise Problem(404, f"there is no session {id_}, or it ended over a week ago")
        return session

    def change(id_: str, turn: Callable[[str], Session]) -> SessionView:
        find(id_)
        session = turn(id_)
        services.foreman.wake()
        return SessionView.of(session)

    @routes.post("", status_code=202)
    def begin(order: SessionRequest, response: Response) -> SessionCreated:
        """Bring a folder into a collection: find its pictures, queue them, follow them.

        The answer comes at once; `Location` is where to follow the session. While a session is at
        this folder, posting it again joins that one.
        """
        folder = find_folder(order.training_directory, services.settings, services.roots)
        if len(ledger.open_sessions()) >= _MOST_OPEN:
            raise Problem(
                429, f"{_MOST_OPEN} sessions are open already: wait for one, or cancel one"
            )
        session, joined = ledger.start(folder, order.collection or services.settings.collection)
        response.headers["Location"] = f"{PREFIX}/{session.id}"
        return SessionCreated.of(session, joined=joined)

    @routes.get("")
    def listed(offset: Offset = 0, limit: Limit = 50) -> SessionPage:
        """All sessions, the youngest first, until a week after their end."""
        sessions, total = ledger.page(offset, limit)
        return SessionPage(total=total, sessions=[SessionView.of(each) for each in sessions])

    @routes.get("/{id}")
    def one(id: SessionId) -> SessionDetail:
        """How far one session is, with the first of its failures."""
        session = find(id)
        return SessionDetail.of(session, failures=_failures(ledger.skipped(id, 0, _TOLD_AT_ONCE)))

    @routes.get("/{id}/failures")
    def failures(id: SessionId, offset: Offset = 0, limit: Limit = 100) -> SkippedPage:
        """What was skipped and why, page by page."""
        session = find(id)
        return SkippedPage(
            skipped_total=session.skipped,
            skipped=_failures(ledger.skipped(id, offset, limit)),
            folders_total=session.unreadable_folders,
            folders=_failures(ledger.unreadable_folders(id, offset, limit)),
        )

    @routes.post("/{id}/pause")
    def pause(id: SessionId) -> SessionView:
        """Take back what waits; the jobs that run are finished. Pausing twice is no error."""
        return change(id, ledger.pause)

    @routes.post("/{id}/resume")
    def resume(id: SessionId) -> SessionView:
        """Go on after a pause. Resuming twice is no error."""
        return change(id, ledger.resume)

    @routes.post("/{id}/cancel")
    def cancel(id: SessionId) -> SessionView:
        """Give the rest up; the jobs that run are finished, and what was stored stays."""
        return change(id, ledger.cancel)

    @routes.post("/{id}/retry")
    def retry(id: SessionId) -> SessionView:
        """Queue the skipped pictures again, also those that were set aside as they killed a worker.

        Folders that could not be searched are searched again when they are posted again.
        """
        return change(id, partial(ledger.retry, size=chunk_size(services.settings)))

    return routes


def _failures(pairs: list[tuple[str, str]]) -> list[SkippedPicture]:
    return [SkippedPicture(path=shown(path), reason=shown(reason)) for path, reason in pairs]
