"""All embedding of the application."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from warmclip import Client, ImagesUnreadable, Settings, ThroughQueue

Picture = str | Path | bytes | Image.Image


class EmbeddingService:
    """Texts and pictures to unit vectors, as lists of numbers."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def embedding_dim(self) -> int:
        return self.client.space().dim

    def embed_text(self, text: str) -> list[float]:
        return self.client.embed_text(text).tolist()

    def embed_image(self, picture: Picture) -> list[float]:
        """A path, the bytes of an upload, or a Pillow image."""
        return self.client.embed_image(picture).tolist()

    def embed_images_batch(self, pictures: Sequence[Picture]) -> list[list[float] | None]:
        """A vector for each picture; None for one that cannot be read."""
        try:
            return self.client.embed_images(pictures).tolist()
        except ImagesUnreadable as exc:
            good = [it for index, it in enumerate(pictures) if index not in exc.reasons]
            vectors = iter(self.client.embed_images(good).tolist())
            every = range(len(pictures))
            return [None if index in exc.reasons else next(vectors) for index in every]


@cache
def embedding_service() -> EmbeddingService:
    """The service of this process, made when it is first needed."""
    return EmbeddingService(Client(ThroughQueue(Settings.from_env(os.environ)), timeout_s=10))
