"""Thumbnails of stored pictures."""

import base64
import hashlib
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

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
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Draw a stored picture small; a worker reads its file."""
        answer = await context.workers.call(
            "thumbnail",
            request=request,
            needs_store=True,
            collection=collection or context.settings.collection,
            id=str(id),
            side_px=side_px,
        )
        jpeg = read_answer(answer, lambda found: base64.b64decode(found["jpeg"], validate=True))
        etag = f'"{hashlib.sha256(jpeg).hexdigest()[:32]}"'
        headers = {"ETag": etag, "Cache-Control": f"private, max-age={_FRESH_S}"}
        if etag in (if_none_match or ""):
            return Response(status_code=304, headers=headers)
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    return router
