"""The HTTP API. Its routes are ordinary functions, which FastAPI runs in threads."""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, UploadFile
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse
from redis.exceptions import RedisError
from sqlalchemy import select

from photoservice import vectors
from photoservice.database import Picture, Task, transaction
from photoservice.embedding import EmbeddingService, embedding_service
from photoservice.jobs import thumbnail
from photoservice.tasks import submit
from warmclip import WarmclipError
from warmclip.errors import ImageUnreadable, TextRefused

Service = Annotated[EmbeddingService, Depends(embedding_service)]
Name = Annotated[str, PathParameter(pattern=r"^[a-z0-9_]{1,40}$")]
Limit = Annotated[int, Query(ge=1, le=100)]
_MOST_BYTES = 10 * 1024 * 1024  # what a client sends to a worker

app = FastAPI(title="photoservice")


@app.exception_handler(WarmclipError)
def answer_warmclip(_request: Request, exc: WarmclipError) -> JSONResponse:
    """Tell whose fault it is: that of the picture or text, or of nobody who asked."""
    is_theirs = isinstance(exc, ImageUnreadable | TextRefused)
    return JSONResponse({"detail": str(exc)}, status_code=422 if is_theirs else 503)


@app.exception_handler(RedisError)
def answer_redis(_request: Request, _exc: RedisError) -> JSONResponse:
    """Say that the request may be repeated: tasks are queued once."""
    return JSONResponse({"detail": "the queue does not answer"}, status_code=503)


@app.get("/search")
def search(q: str, service: Service, limit: Limit = 10) -> list[dict[str, Any]]:
    """Find pictures by words."""
    return vectors.nearest(service.embed_text(q), limit)


@app.post("/search/image")
def search_by_image(file: UploadFile, service: Service, limit: Limit = 10) -> list[dict[str, Any]]:
    """Find pictures that are like one that is sent."""
    return vectors.nearest(service.embed_image(_content(file)), limit)


@app.put("/albums/{name}", status_code=202)
def add_album(name: Name, folder: str) -> None:
    """Have a folder below PHOTOS_ROOT indexed; to be repeated if it is answered with 503."""
    path = Path(os.environ["PHOTOS_ROOT"], folder).resolve()
    if not path.is_relative_to(os.environ["PHOTOS_ROOT"]) or not path.is_dir():
        raise HTTPException(404, f"there is no folder {folder!r}")
    submit("train", name, name, str(path), queue="training")


@app.post("/albums/{name}/pictures", status_code=202)
def upload(name: Name, file: UploadFile) -> dict[str, int]:
    """Keep a picture that is sent, and have it indexed."""
    content = _content(file)
    digest = hashlib.sha256(content).hexdigest()
    path = Path(os.environ["PHOTOS_DATA"], "uploads", name, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.urandom(4).hex()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
    with transaction() as session:
        picture = session.scalar(select(Picture).where(Picture.path == str(path)))
        if picture is None:
            picture = Picture(album=name, path=str(path))
            session.add(picture)
            session.flush()
        id_ = picture.id
    submit("train_batch", f"{name}-{digest[:16]}", name, [str(path)])
    return {"id": id_}


@app.get("/albums/{name}")
def album(name: Name) -> dict[str, int]:
    """Count the pictures of an album by status."""
    with transaction() as session:
        return Counter(session.scalars(select(Picture.status).where(Picture.album == name)))


@app.get("/tasks")
def tasks() -> dict[str, int]:
    """Count all tasks by status."""
    with transaction() as session:
        return Counter(session.scalars(select(Task.status)))


@app.get("/pictures/{id_}/thumbnail")
def get_thumbnail(id_: int) -> FileResponse:
    """A small copy of a picture, once it was made."""
    if not (path := thumbnail(id_)).exists():
        raise HTTPException(404, f"there is no thumbnail of picture {id_} yet")
    return FileResponse(path, media_type="image/jpeg")


def _content(file: UploadFile) -> bytes:
    content = file.file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise HTTPException(413, f"the picture has more than {_MOST_BYTES:,} bytes")
    return content
