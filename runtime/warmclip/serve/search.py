"""Searches over HTTP: by text, by a picture that is sent or stored, by several of these."""

import base64
from collections.abc import Mapping
from datetime import date
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, UploadFile
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from starlette import datastructures

from warmclip.indexing.query import MOST_TERMS, MOST_WEIGHT, Term
from warmclip.serve.context import AppContext
from warmclip.serve.model_name import BodyModel, FormModel, Model, choose_model, naming
from warmclip.serve.problems import RESPONSES, Problem, as_utf8
from warmclip.serve.sessions import CollectionName, expand_home
from warmclip.serve.workers import read_answer
from warmclip.store.filter import MOST_HITS, Filter, parse_day

_MOST_LIMIT = 200  # hits of one page
_MOST_OFFSET = MOST_HITS - 1
_MOST_CHARS = 2_000

PointId = Annotated[UUID, Path(description="Of a stored picture, as hits name it.")]
Limit = Annotated[int, Query(ge=1, le=_MOST_LIMIT, description="Hits at most.")]
Offset = Annotated[int, Query(ge=0, le=_MOST_OFFSET, description="Hits to leave out before them.")]
Collection = Annotated[CollectionName | None, Query(description="Where to look.")]
Text = Annotated[
    str,
    Query(
        min_length=1,
        max_length=_MOST_CHARS,
        pattern=r"\S",
        description="What to look for, in words.",
        examples=["a red bicycle"],
    ),
]
Folder = Annotated[
    str,
    AfterValidator(expand_home),
    Field(
        min_length=1,
        max_length=4096,
        description="An absolute path inside the roots: only what lies below it, as it was "
        "indexed. `~` is the home folder of the server's user. The folder itself may be gone.",
        examples=["/mnt/photos/2026"],
        json_schema_extra={"pattern": "^[/~]"},
    ),
]
Since = Annotated[
    date,
    BeforeValidator(parse_day),  # pydantic itself would take seconds since 1970 as well
    Field(
        description="Only pictures that were taken on this day or later, by the camera's clock; "
        "of those that do not tell, files that were last changed on it or later, in UTC.",
        examples=["2026-01-01"],
    ),
]
Until = Annotated[
    date,
    BeforeValidator(parse_day),
    Field(
        description="Only pictures that were taken on this day or earlier.",
        examples=["2026-11-25"],
    ),
]
ByFileDate = Annotated[
    bool, Field(description="Days are those of the files' last changes (UTC), not of the cameras.")
]
MinScore = Annotated[
    float,
    Field(
        ge=-1,
        le=1,
        allow_inf_nan=False,
        description="Only pictures with this cosine similarity or more.",
    ),
]


def _check_utf8(text: str) -> str:
    text.encode()  # half a surrogate pair is refused here, not when the response is written
    return text


_Utf8 = Annotated[str, AfterValidator(_check_utf8)]


class SearchTerm(BaseModel):
    """A text or a stored picture: one of the two."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(min_length=1, max_length=_MOST_CHARS, pattern=r"\S")] | None = None
    like: Annotated[UUID, Field(description="The id of a stored picture.")] | None = None
    weight: Annotated[
        float,
        Field(
            ge=-MOST_WEIGHT,
            le=MOST_WEIGHT,
            allow_inf_nan=False,
            description="Below zero: it is subtracted. Not zero.",
        ),
    ] = 1.0

    def to_term(self) -> Term:
        """The same as a job carries it.

        Raises:
            SearchRefused: not one of the two is given, or the weight is zero.
        """
        like = None if self.like is None else str(self.like)
        return Term(text=self.text, like=like, weight=self.weight)


class SearchRequest(BaseModel):
    """What to look for, and where."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"terms": [{"text": "a red car"}, {"text": "night", "weight": -0.5}]}]
        },
    )

    terms: Annotated[
        list[SearchTerm],
        Field(
            min_length=1,
            max_length=MOST_TERMS,
            description="Their vectors are multiplied by their weights and added up. Stored "
            "pictures that are named are not among the hits.",
        ),
    ]
    collection: CollectionName | None = None
    limit: Annotated[int, Field(ge=1, le=_MOST_LIMIT, strict=True)] = 20
    offset: Annotated[int, Field(ge=0, le=_MOST_OFFSET, strict=True)] = 0
    folder: Folder | None = None
    since: Since | None = None
    until: Until | None = None
    by_file_date: Annotated[ByFileDate, Field(strict=True)] = False
    min_score: MinScore | None = None
    model: BodyModel = None


class SearchHit(BaseModel):
    """One picture that was found."""

    id: _Utf8
    score: Annotated[float, Field(description="Cosine similarity.")]
    probability: Annotated[
        float | None,
        Field(
            description="That the text belongs to the picture, as SigLIP's kind of models was "
            "trained to say; null: the model does not say, or the query is not one text."
        ),
    ]
    path: Annotated[str, Field(description="Bytes of its name that are no UTF-8 are escaped.")]
    width_px: int
    height_px: int
    size_bytes: int
    sha256: Annotated[_Utf8, Field(description="Of the file, as it was indexed.")]
    mtime_ns: Annotated[int, Field(description="When the file was last changed, as indexed.")]
    taken_at: Annotated[
        _Utf8 | None,
        Field(
            description="When the picture was taken, ISO 8601 on the camera's clock, with an "
            "offset from UTC where it told one; null: it does not tell."
        ),
    ]
    indexed_at: Annotated[_Utf8, Field(description="ISO 8601, UTC.")]
    thumbnail: Annotated[str, Field(description="The path of its thumbnail.")]


class SearchResponse(BaseModel):
    """Hits, best first."""

    collection: str
    offset: int
    fingerprint: Annotated[_Utf8, Field(description="Of the embedding space.")]
    cut: Annotated[
        bool, Field(description="Whether a text is too long for the model, which read its start.")
    ]
    hits: list[SearchHit]


async def _filter_of_query(
    folder: Annotated[Folder | None, Query()] = None,
    since: Annotated[Since | None, Query()] = None,
    until: Annotated[Until | None, Query()] = None,
    by_file_date: Annotated[ByFileDate, Query()] = False,
) -> Filter:
    return Filter(folder=folder, since=since, until=until, by_file_date=by_file_date)


async def _filter_of_form(
    folder: Annotated[Folder | None, Form()] = None,
    since: Annotated[Since | None, Form()] = None,
    until: Annotated[Until | None, Form()] = None,
    by_file_date: Annotated[ByFileDate, Form()] = False,
) -> Filter:
    return Filter(folder=folder, since=since, until=until, by_file_date=by_file_date)


QueryFilter = Annotated[Filter, Depends(_filter_of_query)]
FormFilter = Annotated[Filter, Depends(_filter_of_form)]


def make_router(context: AppContext) -> APIRouter:
    """Make the routes of searches."""
    router = APIRouter(prefix="/api/v1", tags=["search"], responses=RESPONSES)

    async def search(
        request: Request,
        collection: str | None,
        offset: int,
        only: Filter,
        min_score: float | None,
        model: str | None,
        **question: Any,
    ) -> SearchResponse:
        name = collection or context.settings.collection
        if only.folder is not None:  # workers may have other roots, and check it by theirs
            await to_thread.run_sync(context.roots.resolve, only.folder)
        question |= only.to_dict()
        if min_score is not None:  # which workers of a former version do not know
            question["min_score"] = min_score
        question |= {"collection": name, "offset": offset, **naming(model)}
        if "text" in question:
            answer = await context.workers.search(request, **question)
        else:
            answer = await context.workers.call(
                "search", request=request, needs_store=True, **question
            )
        return read_answer(answer, partial(_response, collection=name, offset=offset))

    @router.get("/search")
    async def search_by_text(
        request: Request,
        q: Text,
        only: QueryFilter,
        collection: Collection = None,
        limit: Limit = 20,
        offset: Offset = 0,
        min_score: Annotated[MinScore | None, Query()] = None,
        model: Model = None,
    ) -> SearchResponse:
        """Find the pictures that are nearest to a text."""
        return await search(
            request, collection, offset, only, min_score, model, text=q, limit=limit
        )

    @router.post("/search")
    async def search_by_terms(
        request: Request, body: SearchRequest, model: Model = None
    ) -> SearchResponse:
        """Find the pictures that are nearest to some texts and pictures, and far from others."""
        only = Filter(
            folder=body.folder, since=body.since, until=body.until, by_file_date=body.by_file_date
        )
        return await search(
            request,
            body.collection,
            body.offset,
            only,
            body.min_score,
            choose_model(model, body.model),
            terms=[term.to_term().to_dict() for term in body.terms],
            limit=body.limit,
        )

    @router.post("/search/image")
    async def search_by_image(
        request: Request,
        file: Annotated[UploadFile, File(description="A picture, up to 10 MiB.")],
        only: FormFilter,
        collection: Annotated[CollectionName | None, Form()] = None,
        limit: Annotated[int, Form(ge=1, le=_MOST_LIMIT)] = 20,
        offset: Annotated[int, Form(ge=0, le=_MOST_OFFSET)] = 0,
        min_score: Annotated[MinScore | None, Form()] = None,
        model: Model = None,
        in_form: FormModel = None,
    ) -> SearchResponse:
        """Find the pictures that are nearest to one that is sent."""
        model = choose_model(model, in_form)
        data = await to_thread.run_sync(read_base64, file)
        return await search(
            request, collection, offset, only, min_score, model, data=data, limit=limit
        )

    @router.get("/points/{id}/similar")
    async def search_by_point(
        request: Request,
        id: PointId,
        only: QueryFilter,
        collection: Collection = None,
        limit: Limit = 20,
        offset: Offset = 0,
        min_score: Annotated[MinScore | None, Query()] = None,
        model: Model = None,
    ) -> SearchResponse:
        """Find the pictures that are nearest to a stored one, without itself."""
        return await search(
            request, collection, offset, only, min_score, model, like=str(id), limit=limit
        )

    return router


def read_base64(file: datastructures.UploadFile) -> str:
    """Read a picture that was sent, as a job carries it.

    Raises:
        Problem: it is empty.
    """
    data = file.file.read()
    if not data:
        raise Problem(422, "the picture that was sent is empty")
    return base64.b64encode(data).decode("ascii")


def _response(answer: Mapping[str, Any], *, collection: str, offset: int) -> SearchResponse:
    return SearchResponse(
        collection=collection,
        offset=offset,
        fingerprint=answer["fingerprint"],
        cut=bool(answer.get("cut")),
        hits=[_hit(hit, collection) for hit in answer["hits"]],
    )


def _hit(raw: Mapping[str, Any], collection: str) -> SearchHit:
    same = ("id", "width_px", "height_px", "size_bytes", "sha256", "mtime_ns", "indexed_at")
    return SearchHit(
        path=as_utf8(raw["path"]),
        score=min(raw["score"], 1.0),  # rounding may leave it a little above
        probability=raw.get("probability"),
        thumbnail=f"/api/v1/points/{raw['id']}/thumbnail?collection={collection}",
        taken_at=raw.get("taken_at") or None,
        **{name: raw[name] for name in same},
    )
