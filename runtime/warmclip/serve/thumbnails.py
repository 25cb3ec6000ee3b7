"""Thumbnails of stored pictures."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from warmclip.indexing.thumbnail_cache import is_version
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES
from warmclip.serve.search import Collection, PointId
from warmclip.serve.workers import read_answer

_FRESH_S = 300  # then a browser asks whether it has changed

Side = Annotated[int, Query(ge=16, le=1024, description="The longer side at most, pixels.")]


def make_router(context: AppContext) -> APIRouter:
    """Make the route of thumbnails."""
    router = APIRouter(prefix="/api/v1", tags=["search"], responses=RESPONSES)

    @router.get(
        "/points/{id}/thumbnail",
        response_class=Response,
        responses={
            200: {"content": {"image/jpeg": {}}, "description": "A JPEG."},
            304: {"description": "It has not changed."},
        },
    )
    async def get_thumbnail(
        request: Request,
        id: PointId,
        collection: Collection = None,
        side_px: Side = 256,
        if_none_match: Annotated[str | None, Header(max_length=1000)] = None,
    ) -> Response:
        """Draw a stored picture small; a worker reads its file."""
        answer = await context.workers.call(
            "thumbnail",
            request=request,
            needs_store=True,
            collection=collection or context.settings.collection,
            id=str(id),
            side_px=side_px,
            known=if_none_match,
        )
        version, jpeg = read_answer(answer, _read_drawing)
        headers = {"ETag": f'"{version}"', "Cache-Control": f"private, max-age={_FRESH_S}"}
        if jpeg is None:
            return Response(status_code=304, headers=headers)
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    return router


def _read_drawing(answer: Any) -> tuple[str, bytes | None]:
    """A drawing's version, and the JPEG unless the client has it.

    Raises:
        LookupError, TypeError, ValueError: it is no such answer.
    """
    version, jpeg = answer["version"], answer["jpeg"]
    if not is_version(version):
        raise ValueError(version)
    return version, None if jpeg is None else base64.b64decode(jpeg, validate=True)
