"""The files of stored pictures as they are, and the folders that they lie in."""

import logging
import mimetypes
import os
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Send

from warmclip.errors import ImageAbsent, ImageUnavailable, ImageUnreadable
from warmclip.indexing.files import locate_descriptor, locate_file
from warmclip.indexing.roots import Roots, require_roots
from warmclip.inference.reading import FileReader, check_readable, open_file
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, as_utf8
from warmclip.serve.search import Collection, PointId
from warmclip.serve.workers import read_answer
from warmclip.settings import Limits

log = logging.getLogger(__name__)

_PIECE_BYTES = 128 * 1024
"""That a request has in memory: twice as much where its client reads slowly."""


class RootsResponse(BaseModel):
    """The folders that pictures may lie in; none: no folder may be named."""

    folders: Annotated[list[str], Field(description="Absolute paths.")]


def make_router(context: AppContext) -> APIRouter:
    """Make the routes of originals and roots."""
    router = APIRouter(prefix="/api/v1", tags=["search"], responses=RESPONSES)
    limits = context.settings.limits
    reader = FileReader(limits)

    def open_original(path: str) -> "_Original":
        roots = require_roots(context.roots)  # the path is what a worker or the store says
        try:
            return reader.read(lambda: _Original(path, roots, limits))
        except ImageUnreadable as exc:
            may_pass = isinstance(exc, ImageUnavailable) and not isinstance(exc, ImageAbsent)
            told = f"{as_utf8(path)} {exc}; this server reads it itself"
            raise Problem(503 if may_pass else 404, told) from exc

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
        original = await to_thread.run_sync(open_original, path)
        name = quote(os.fsencode(os.path.basename(path)))  # noqa: PTH119 - a str, as stored
        return _FileResponse(
            original.pieces(reader),
            media_type=_media_type(path),
            headers={
                "Content-Length": str(original.size_bytes),
                "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
                "Cache-Control": "private, no-cache",
            },
        )

    @router.get("/roots")
    def list_roots() -> RootsResponse:
        """List the folders that pictures may lie in (WARMCLIP_ROOTS)."""
        return RootsResponse(folders=[as_utf8(str(it)) for it in context.roots.folders])

    return router


class _Original:
    """A file that is open, and its first piece: a disk that fails is told before the response."""

    def __init__(self, path: str, roots: Roots, limits: Limits) -> None:
        """Open it.

        Raises:
            ImageUnreadable, ImageUnavailable: as ``read_picture``.
        """
        self._path = path
        self._descriptor = -1
        located = locate_file(path, roots)
        self._descriptor = open_file(located.path)
        try:
            self.size_bytes = locate_descriptor(self._descriptor, located, roots).size_bytes
            check_readable(os.fstat(self._descriptor), limits)
            self._first = self._read(min(_PIECE_BYTES, self.size_bytes))
        except BaseException:
            self._close()
            raise

    def __del__(self) -> None:
        """Close it, also if it was opened too late, or its client left before the first piece."""
        self._close()

    async def pieces(self, reader: FileReader) -> AsyncIterator[bytes]:
        """Its bytes, as many as it had when it was opened.

        Raises:
            ImageUnavailable: they cannot be read, or there are fewer by now.
        """
        piece, self._first = self._first, b""
        left = self.size_bytes - len(piece)
        try:
            yield piece
            while left:
                read = partial(self._read, min(_PIECE_BYTES, left))
                piece = await to_thread.run_sync(reader.read, read)
                left -= len(piece)
                yield piece
        except ImageUnavailable as exc:
            raise ImageUnavailable(f"{as_utf8(self._path)} {exc}") from exc
        finally:
            self._close()

    def _read(self, count: int) -> bytes:
        try:
            piece = os.read(self._descriptor, count)
        except OSError as exc:
            raise ImageUnavailable(f"cannot be read: {exc.strerror}") from exc
        if count and not piece:
            raise ImageUnavailable("became shorter while it was sent")
        return piece

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _FileResponse(StreamingResponse):
    """A response that breaks off if its file cannot be read to its end."""

    async def stream_response(self, send: Send) -> None:
        """Send it; one that does not end has its connection closed by uvicorn."""
        try:
            await super().stream_response(send)
        except ImageUnavailable as exc:
            log.warning("a response was broken off: %s", exc)


def _media_type(path: str) -> str:
    """A file's type by its name, if it is a picture that can run nothing in a browser."""
    kind, _ = mimetypes.guess_type(path)
    is_picture = kind is not None and kind.startswith("image/") and kind != "image/svg+xml"
    return str(kind) if is_picture else "application/octet-stream"


def _read_path(answer: Any) -> str:
    """The path that a worker tells.

    Raises:
        LookupError, TypeError, ValueError: it is no such answer.
    """
    path = answer["path"]
    os.fsencode(path)
    return str(path)
