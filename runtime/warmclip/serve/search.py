"""Searches over HTTP: by words, by a picture, by one that is stored."""

import base64
import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, File, Form, Path, Query, UploadFile
from pydantic import BaseModel, BeforeValidator, Field
from starlette import datastructures

from warmclip.errors import JobRefused
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, shown
from warmclip.serve.sessions import CollectionName
from warmclip.store.filter import Filter

PointId = Annotated[UUID, Path(description="Of a stored picture, as hits name it.")]
Limit = Annotated[int, Query(ge=1, le=200, description="Hits at most.")]
Offset = Annotated[int, Query(ge=0, le=800, description="Hits to leave out before them.")]
Collection = Annotated[CollectionName | None, Query(description="Where to look.")]
Words = Annotated[
    str,
    Query(
        min_length=1,
        max_length=2_000,
        pattern=r"\S",
        description="In words.",
        examples=["a red bicycle"],
    ),
]


def _as_day(text: object) -> object:
    """Only days as people write them: pydantic takes seconds since 1970 as well."""
    if isinstance(text, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise ValueError("write a day as 2026-11-25")
    return text


Below = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4096,
        description="An absolute path inside the roots: only what lies below it, as it was "
        "indexed. The folder itself may be gone.",
        examples=["/mnt/photos/2026"],
        json_schema_extra={"pattern": "^/"},
    ),
]
Since = Annotated[
    date,
    BeforeValidator(_as_day),
    Field(
        description="Only files that were last changed on this day or later, in UTC, as they "
        "were indexed.",
        examples=["2026-01-01"],
    ),
]
Until = Annotated[
    date,
    BeforeValidator(_as_day),
    Field(
        description="Only files that were last changed on this day or earlier.",
        examples=["2026-11-25"],
    ),
]


class HitView(BaseModel):
    """One picture that was found."""

    id: str
    score: Annotated[float, Field(description="Cosine similarity.")]
    path: Annotated[str, Field(description="Bytes of its name that are no UTF-8 are escaped.")]
    width_px: int
    height_px: int
    size_bytes: int
    sha256: Annotated[str, Field(description="Of the file, as it was indexed.")]
    mtime_ns: Annotated[int, Field(description="When the file was last changed, as indexed.")]
    indexed_at: Annotated[str, Field(description="ISO 8601, UTC.")]
    thumbnail: Annotated[str, Field(description="Where to see it.")]


class SearchView(BaseModel):
    """Hits, best first."""

    collection: str
    offset: int
    fingerprint: Annotated[str, Field(description="Of the embedding space.")]
    hits: list[HitView]


def _only(folder: str | None, since: date | None, until: date | None) -> Filter:
    try:
        return Filter(folder=folder, since=since, until=until)
    except JobRefused as exc:
        raise Problem(422, str(exc)) from exc


def _of_query(
    folder: Annotated[Below | None, Query()] = None,
    since: Annotated[Since | None, Query()] = None,
    until: Annotated[Until | None, Query()] = None,
) -> Filter:
    return _only(folder, since, until)


def _of_form(
    folder: Annotated[Below | None, Form()] = None,
    since: Annotated[Since | None, Form()] = None,
    until: Annotated[Until | None, Form()] = None,
) -> Filter:
    return _only(folder, since, until)


OfQuery = Annotated[Filter, Depends(_of_query)]
OfForm = Annotated[Filter, Depends(_of_form)]


def router(services: AppContext) -> APIRouter:
    """The routes of searches."""
    routes = APIRouter(prefix="/api/v1", tags=["search"], responses=RESPONSES)

    def look(collection: str | None, offset: int, only: Filter, **question: Any) -> SearchView:
        name = collection or services.settings.collection
        if only.folder is not None:  # workers may have other roots, and check it by theirs
            services.roots.resolve(only.folder)
        question |= only.to_dict()
        answer = services.workers.ask("search", collection=name, offset=offset, **question)
        hits = [_hit(hit, name) for hit in answer["hits"]]
        return SearchView(
            collection=name, offset=offset, fingerprint=answer["fingerprint"], hits=hits
        )

    @routes.get("/search")
    def by_words(
        q: Words,
        only: OfQuery,
        collection: Collection = None,
        limit: Limit = 20,
        offset: Offset = 0,
    ) -> SearchView:
        """The pictures that are nearest to words."""
        return look(collection, offset, only, text=q, limit=limit)

    @routes.post("/search/image")
    def by_picture(
        file: Annotated[UploadFile, File(description="A picture, up to 10 MiB.")],
        only: OfForm,
        collection: Annotated[CollectionName | None, Form()] = None,
        limit: Annotated[int, Form(ge=1, le=200)] = 20,
        offset: Annotated[int, Form(ge=0, le=800)] = 0,
    ) -> SearchView:
        """The pictures that are nearest to one that is sent."""
        return look(collection, offset, only, data=in_base64(file), limit=limit)

    @routes.get("/points/{id}/similar")
    def by_stored(
        id: PointId,
        only: OfQuery,
        collection: Collection = None,
        limit: Limit = 20,
        offset: Offset = 0,
    ) -> SearchView:
        """The pictures that are nearest to a stored one, without itself."""
        return look(collection, offset, only, like=str(id), limit=limit)

    return routes


def in_base64(file: datastructures.UploadFile) -> str:
    """A picture as a job carries it.

    Raises:
        Problem: it is empty.
    """
    data = file.file.read()
    if not data:
        raise Problem(422, "the picture that was sent is empty")
    return base64.b64encode(data).decode("ascii")


def _hit(raw: Mapping[str, Any], collection: str) -> HitView:
    same = ("id", "width_px", "height_px", "size_bytes", "sha256", "mtime_ns", "indexed_at")
    return HitView(
        path=shown(raw["path"]),
        score=min(raw["score"], 1.0),  # rounding may leave it a little above
        thumbnail=f"/api/v1/points/{raw['id']}/thumbnail?collection={collection}",
        **{name: raw[name] for name in same},
    )
