"""The files of stored pictures as they are, and the folders that they lie in."""

import mimetypes
import os
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from warmclip.errors import ImageUnreadable
from warmclip.indexing.files import locate_file, read_picture
from warmclip.indexing.roots import require_roots
from warmclip.inference.reading import FileReader
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, as_utf8
from warmclip.serve.search import Collection, PointId
from warmclip.serve.workers import read_answer


class RootsResponse(BaseModel):
    """The folders that pictures may lie in; none: no folder may be named."""

    folders: Annotated[list[str], Field(description="Absolute paths.")]


def make_router(context: AppContext) -> APIRouter:
    """Make the routes of originals and roots."""
    router = APIRouter(prefix="/api/v1", tags=["search"], responses=RESPONSES)
    limits = context.settings.limits
    reader = FileReader(limits)

    def read(path: str) -> bytes:
        roots = require_roots(context.roots)  # the path is what a worker or the store says
        try:
            return reader.read(lambda: read_picture(locate_file(path, roots), roots, limits))[1]
        except ImageUnreadable as exc:
            raise Problem(404, f"{as_utf8(path)} {exc}; this server reads it itself") from exc

    @router.get(
        "/points/{id}/original",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}, "description": "The file, byte by byte."}},
    )
    async def get_original(
        request: Request, id: PointId, collection: Collection = None
    ) -> Response:
        """Send a stored picture's file; this server reads it, inside its roots."""
        answer = await context.workers.call(
            "find_image",
            request=request,
            needs_store=True,
            collection=collection or context.settings.collection,
            id=str(id),
        )
        path = read_answer(answer, _read_path)
        data = await to_thread.run_sync(partial(read, path))
        kind, _ = mimetypes.guess_type(path)
        name = quote(os.fsencode(os.path.basename(path)))  # noqa: PTH119 - a str, as stored
        return Response(
            data,
            media_type=kind if kind and kind.startswith("image/") else "application/octet-stream",
            headers={
                "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
                "Cache-Control": "private, no-cache",
            },
        )

    @router.get("/roots")
    def list_roots() -> RootsResponse:
        """List the folders that pictures may lie in (WARMCLIP_ROOTS)."""
        return RootsResponse(folders=[as_utf8(str(it)) for it in context.roots.folders])

    return router


def _read_path(answer: Any) -> str:
    """The path that a worker tells.

    Raises:
        LookupError, TypeError, ValueError: it is no such answer.
    """
    path = answer["path"]
    os.fsencode(path)
    return str(path)
