"""Pictures forgotten over HTTP: a worker deletes what is stored at or below some paths."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from warmclip.indexing.forgetting import ForgetReport
from warmclip.indexing.roots import require_roots
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES
from warmclip.serve.sessions import CollectionName
from warmclip.serve.workers import read_answer

_MOST_PATHS = 100


class ForgetRequest(BaseModel):
    """What to forget."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"paths": ["/mnt/photos/2019"], "dry_run": True}]},
    )

    paths: Annotated[
        list[
            Annotated[
                str, Field(min_length=1, max_length=4096, json_schema_extra={"pattern": "^/"})
            ]
        ],
        Field(
            min_length=1,
            max_length=_MOST_PATHS,
            description="Folders or files inside the roots: absolute paths, as hits have them. "
            "They need not be there, and no link in them is followed.",
        ),
    ]
    collection: CollectionName | None = None
    dry_run: Annotated[bool, Field(strict=True, description="Delete nothing, and count.")] = False


class ForgetResponse(BaseModel):
    """What was forgotten, or would be."""

    collection: str
    pictures: Annotated[int, Field(description="That searches found.")]
    kept: Annotated[int, Field(description="The same, in vectors that `migrate` left.")]
    refused: Annotated[int, Field(description="Files whose refusal is not remembered any more.")]
    complete: Annotated[
        bool, Field(description="False: there are more; send the same request again.")
    ]


def make_router(context: AppContext) -> APIRouter:
    """Make the route."""
    router = APIRouter(prefix="/api/v1", tags=["training"], responses=RESPONSES)

    @router.post("/forget")
    async def forget(request: Request, body: ForgetRequest) -> ForgetResponse:
        """Delete what is stored at or below some paths; the files are not touched.

        Vectors that `migrate` left are cleared as well. One request deletes 20,000 pictures at
        most. It may be repeated.
        """
        roots = require_roots(context.roots)
        for path in body.paths:  # workers may have other roots, and check it by theirs
            roots.stored_path(path)
        answer = await context.workers.call(
            "forget_images",
            request=request,
            needs_store=True,
            paths=body.paths,
            collection=body.collection or context.settings.collection,
            dry_run=body.dry_run,
        )
        report = read_answer(answer, ForgetReport.from_dict)
        return ForgetResponse(**report.to_dict())

    return router
