"""A backend with a model in this process."""

from collections.abc import Sequence

from warmclip.client.backend import Deadline, Picture
from warmclip.inference.arrays import Vectors
from warmclip.inference.encoder import Encoder
from warmclip.store.protocol import Space


class InProcess:
    """An Encoder as a backend.

    Calls that are made at once are not put together into batches: on a CPU that gains nothing.
    16 texts took ViT-B-32 0.97 of a batch's time on four threads, and 0.95 one after the other.
    """

    concurrency = 4  # pictures are decoded for some calls while the model computes for others

    def __init__(self, encoder: Encoder) -> None:
        """Warm a model, so that the first call does not wait for it.

        Args:
            encoder: such as ``Encoder.from_settings(settings)``.
        """
        self._encoder = encoder
        encoder.warm()

    def space(self, deadline: Deadline) -> Space:  # noqa: ARG002 - the protocol's
        """See ``Backend``."""
        return Space(fingerprint=self._encoder.fingerprint, dim=self._encoder.dim)

    def embed_texts(self, texts: Sequence[str], deadline: Deadline) -> Vectors:  # noqa: ARG002 - the protocol's
        """See ``Backend``; what has begun is computed to its end."""
        return self._encoder.encode_texts(texts)

    def embed_images(self, pictures: Sequence[Picture], deadline: Deadline) -> Vectors:  # noqa: ARG002 - the protocol's
        """See ``Backend``; what has begun is computed to its end."""
        return self._encoder.encode_images(pictures)

    def close(self) -> None:
        """Release nothing: the garbage collector frees the model."""
