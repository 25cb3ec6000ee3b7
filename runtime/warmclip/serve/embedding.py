"""Vectors over HTTP: of texts, of a picture."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from warmclip.indexing.roots import require_roots
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem
from warmclip.serve.search import in_base64

_MOST_TEXTS = 256

Numbers = Annotated[list[float], Field(description="A unit vector.")]


class Texts(BaseModel):
    """What to embed."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"texts": ["a red bicycle", "a blue car"]}]}
    )

    texts: Annotated[
        list[Annotated[str, Field(max_length=10_000)]],
        Field(min_length=1, max_length=_MOST_TEXTS),
    ]


class Named(BaseModel):
    """A picture that workers can read themselves."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"path": "/mnt/photos/a.jpg"}]}
    )

    path: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4096,
            description="A file inside the roots: an absolute path.",
            json_schema_extra={"pattern": "^/"},
        ),
    ]


_SENT = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "description": "A picture, up to 10 MiB.",
        }
    },
}

_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _SENT},
        "application/json": {"schema": Named.model_json_schema()},
    },
}


class TextVectors(BaseModel):
    """A vector for each text, in their order."""

    fingerprint: Annotated[str, Field(description="Of the embedding space.")]
    dim: int
    vectors: list[Numbers]


class PictureVector(BaseModel):
    """The vector of a picture."""

    fingerprint: Annotated[str, Field(description="Of the embedding space.")]
    dim: int
    width_px: int
    height_px: int
    vector: Numbers


def router(services: AppContext) -> APIRouter:
    """The routes of vectors."""
    routes = APIRouter(prefix="/api/v1/embed", tags=["embed"], responses=RESPONSES)

    @routes.post("/text")
    def texts(order: Texts) -> TextVectors:
        """Embed texts."""
        answer = services.workers.ask("embed_texts", texts=order.texts)
        rows = [answer["vectors"][text] for text in order.texts]
        return TextVectors(fingerprint=answer["fingerprint"], dim=answer["dim"], vectors=rows)

    @routes.post("/image", openapi_extra={"requestBody": _BODY})
    def picture(source: Annotated[UploadFile | Named, Depends(_source)]) -> PictureVector:
        """Embed one picture: one that is sent, as a form's field `file`, or one that is named.

        Nothing of it is kept. What is named must lie inside the roots.
        """
        if isinstance(source, Named):
            require_roots(services.roots).resolve(source.path)
            answer = services.workers.ask("embed_image", path=source.path)
        else:
            answer = services.workers.ask("embed_image", data=in_base64(source))
        return PictureVector.model_validate(answer)

    return routes


async def _source(request: Request) -> UploadFile | Named:
    """What the body is or names, by its type; FastAPI knows routes of one type only.

    Raises:
        RequestValidationError, Problem: neither.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    match kind:
        case "multipart/form-data":
            form = await request.form(max_files=1, max_fields=16)
            file = form.get("file")
            if isinstance(file, UploadFile):
                return file
            raise _unfit(["file"], "a picture is missing")
        case "application/json":
            try:
                return Named.model_validate(json.loads(await request.body()))
            except ValidationError as exc:
                raise RequestValidationError(
                    [{**each, "loc": ("body", *each["loc"])} for each in exc.errors()]
                ) from exc
            except (ValueError, RecursionError) as exc:
                raise _unfit([], f"this is no JSON: {exc}") from exc
    raise Problem(
        415,
        f"{kind[:100]!r} is no type of body that is understood here: send multipart/form-data with "
        'a field "file", or application/json such as {"path": "/mnt/photos/a.jpg"}',
    )


def _unfit(where: list[str], what: str) -> RequestValidationError:
    error: dict[str, Any] = {"type": "value_error", "loc": ("body", *where), "msg": what}
    return RequestValidationError([error])
