"""A job as one writes it for plain `rq worker`: the model is loaded when first needed."""

import os

from warmclip import Encoder

_encoder: Encoder | None = None


def embed(text: str) -> list[float]:
    """Embed a text with a model that is loaded once a process."""
    global _encoder  # noqa: PLW0603 - how such code is written
    if _encoder is None:
        _encoder = Encoder.open(
            os.environ["WARMCLIP_BUNDLE"], provider=os.environ["WARMCLIP_PROVIDER"]
        )
    vector: list[float] = _encoder.encode_texts([text])[0].tolist()
    return vector
