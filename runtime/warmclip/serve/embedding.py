"""Vectors over HTTP: of texts, of a picture."""

from typing import Annotated

from fastapi import APIRouter, File, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from warmclip.serve.problems import RESPONSES
from warmclip.serve.search import in_base64
from warmclip.serve.services import Services

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


def router(services: Services) -> APIRouter:
    """The routes of vectors."""
    routes = APIRouter(prefix="/api/v1/embed", tags=["embed"], responses=RESPONSES)

    @routes.post("/text")
    def texts(order: Texts) -> TextVectors:
        """Embed texts."""
        answer = services.workers.ask("embed_texts", texts=order.texts)
        rows = [answer["vectors"][text] for text in order.texts]
        return TextVectors(fingerprint=answer["fingerprint"], dim=answer["dim"], vectors=rows)

    @routes.post("/image")
    def picture(
        file: Annotated[UploadFile, File(description="A picture, up to 10 MiB.")],
    ) -> PictureVector:
        """Embed one picture; nothing of it is kept."""
        return PictureVector.model_validate(
            services.workers.ask("embed_image", data=in_base64(file))
        )

    return routes
