"""Vectors over HTTP: of texts, of a picture."""

import json
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from warmclip.indexing.roots import require_roots
from warmclip.serve.context import AppContext
from warmclip.serve.model_name import BodyModel, Model, choose_model, naming
from warmclip.serve.problems import RESPONSES, Problem
from warmclip.serve.search import read_base64
from warmclip.serve.unknown_parameters import refuse_repeated
from warmclip.serve.workers import read_answer

_MOST_TEXTS = 256

Vector = Annotated[list[float], Field(description="A unit vector.")]


class EmbedTextsRequest(BaseModel):
    """The texts to embed."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"texts": ["a red bicycle", "a blue car"]}]}
    )

    texts: Annotated[
        list[Annotated[str, Field(max_length=10_000)]],
        Field(min_length=1, max_length=_MOST_TEXTS),
    ]
    model: BodyModel = None


class EmbedImageRequest(BaseModel):
    """The path of a picture, which workers read themselves."""

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
    model: BodyModel = None


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    file: UploadFile
    model: BodyModel = None


_UPLOAD_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "description": "A picture, up to 10 MiB.",
        },
        "model": EmbedImageRequest.model_json_schema()["properties"]["model"],
    },
}

_REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _UPLOAD_SCHEMA},
        "application/json": {"schema": EmbedImageRequest.model_json_schema()},
    },
}


class EmbedTextsResponse(BaseModel):
    """A vector for each text, in their order."""

    fingerprint: Annotated[str, Field(description="Of the embedding space.")]
    dim: int
    vectors: list[Vector]


class EmbedImageResponse(BaseModel):
    """The vector of a picture."""

    fingerprint: Annotated[str, Field(description="Of the embedding space.")]
    dim: int
    width_px: int
    height_px: int
    vector: Vector


def make_router(context: AppContext) -> APIRouter:
    """Make the routes of vectors."""
    router = APIRouter(prefix="/api/v1/embed", tags=["embed"], responses=RESPONSES)

    @router.post("/text")
    async def embed_texts(
        request: Request, body: EmbedTextsRequest, model: Model = None
    ) -> EmbedTextsResponse:
        """Embed texts."""
        answer = await context.workers.call(
            "embed_texts",
            request=request,
            texts=body.texts,
            **naming(choose_model(model, body.model)),
        )
        return read_answer(
            answer,
            lambda found: EmbedTextsResponse(
                fingerprint=found["fingerprint"],
                dim=found["dim"],
                vectors=[found["vectors"][text] for text in body.texts],
            ),
        )

    @router.post("/image", openapi_extra={"requestBody": _REQUEST_BODY})
    async def embed_image(
        request: Request,
        body: Annotated[_Form | EmbedImageRequest, Depends(_read_body)],
        model: Model = None,
    ) -> EmbedImageResponse:
        """Embed one picture: one that is sent, as a form's field `file`, or one that is named.

        Nothing of it is kept. A picture that is named must lie inside the roots.
        """
        named = naming(choose_model(model, body.model))
        if isinstance(body, EmbedImageRequest):
            await to_thread.run_sync(require_roots(context.roots).resolve, body.path)
            source: dict[str, Any] = {"path": body.path}
        else:
            source = {"data": await to_thread.run_sync(read_base64, body.file)}
        answer = await context.workers.call("embed_image", request=request, **source, **named)
        return read_answer(answer, EmbedImageResponse.model_validate)

    return router


async def _read_body(request: Request) -> _Form | EmbedImageRequest:
    """Read the body by its type; FastAPI itself knows routes of one type only.

    Raises:
        RequestValidationError: the body has no picture.
        Problem: the body is of another type, or a field stands twice.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        match content_type:
            case "multipart/form-data":
                form = await request.form(max_files=1, max_fields=16)
                refuse_repeated(name for name, _ in form.multi_items())
                return _Form.model_validate(dict(form))
            case "application/json":
                return EmbedImageRequest.model_validate(json.loads(await request.body()))
    except ValidationError as exc:
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in exc.errors()]
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise _invalid(f"this is no JSON: {exc}") from exc
    raise Problem(
        415,
        f"the type of the body, {content_type[:100]!r}, is not accepted here: send "
        'multipart/form-data with a field "file", or application/json such as '
        '{"path": "/mnt/photos/a.jpg"}',
    )


def _invalid(what: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": ("body",), "msg": what}])
