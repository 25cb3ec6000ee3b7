"""What a client gets vectors from, and how long it waits for them."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from warmclip.inference.arrays import Vectors
from warmclip.store.protocol import Space

if TYPE_CHECKING:  # Pillow, which only pictures in memory need
    from PIL import Image

Picture: TypeAlias = "str | Path | bytes | Image.Image"
"""A file's path, its bytes (of an upload, for example), or a picture that is open."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a call must have answered; it may be cancelled before."""

    ends_at: float  # of time.monotonic()
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """A deadline that ends in so many seconds."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left; negative after the end."""
        return self.ends_at - time.monotonic()

    def cancel(self) -> None:
        """Say that nobody waits for the answer any more; from any thread."""
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._cancelled.is_set()


class Backend(Protocol):
    """What makes vectors; many threads use it at once."""

    concurrency: int
    """Calls that are worth making at the same time."""

    def space(self, deadline: Deadline) -> Space:
        """The embedding space of its vectors."""
        ...

    def embed_texts(self, texts: Sequence[str], deadline: Deadline) -> Vectors:
        """Embed texts as unit vectors, shape (n, dim), float32."""
        ...

    def embed_images(self, pictures: Sequence[Picture], deadline: Deadline) -> Vectors:
        """Embed pictures as unit vectors, shape (n, dim), float32.

        Raises:
            ImagesUnreadable: one or more could not be read.
        """
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...
