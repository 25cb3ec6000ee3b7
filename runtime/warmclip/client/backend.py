"""Where a client's vectors come from, and how long it waits for them."""

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
"""A file's path, its bytes, or a picture that is open."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """Somebody waits for an answer: until when, and whether still."""

    deadline: float  # of time.monotonic()
    _given_up: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, seconds: float) -> "Deadline":
        """So long, from now on."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left; negative once they are over."""
        return self.deadline - time.monotonic()

    def give_up(self) -> None:
        """Nobody waits any more; from any thread."""
        self._given_up.set()

    def is_given_up(self) -> bool:
        """Whether nobody waits any more."""
        return self._given_up.is_set()


class Backend(Protocol):
    """What makes vectors; used from many threads at once."""

    at_once: int
    """Questions that it is worth asking at once."""

    def space(self, wait: Deadline) -> Space:
        """The embedding space of its vectors."""
        ...

    def embed_texts(self, texts: Sequence[str], wait: Deadline) -> Vectors:
        """Unit vectors, shape (n, dim), float32."""
        ...

    def embed_images(self, pictures: Sequence[Picture], wait: Deadline) -> Vectors:
        """Unit vectors, shape (n, dim), float32.

        Raises:
            ImagesUnreadable: one or more could not be read.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...
