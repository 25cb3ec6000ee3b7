"""Pictures decoded on threads, a little ahead of the model."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from PIL import Image

from warmclip.errors import ImageUnreadable
from warmclip.inference import image as pictures
from warmclip.inference.arrays import Crop
from warmclip.inference.bundle import ImageRecipe
from warmclip.settings import Limits

ImageSource: TypeAlias = str | Path | bytes | Image.Image | Callable[[], bytes]
"""A file's path, its bytes, a picture, or a function that reads the bytes when they are needed."""

K = TypeVar("K")

_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One picture's crop, and the picture's own size."""

    crop: Crop
    width_px: int
    height_px: int


def decode_each(
    items: Iterable[tuple[K, ImageSource]], recipe: ImageRecipe, limits: Limits, *, ahead: int
) -> Iterator[tuple[K, Decoded | ImageUnreadable]]:
    """Decode a stream of pictures, yielding (key, result) in the order of the items.

    At most ``ahead`` items are taken before their result is.
    """
    decode_one = partial(decode, recipe=recipe, limits=limits)
    waiting: deque[tuple[K, Future[Decoded | ImageUnreadable]]] = deque()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="warmclip-decode")
    try:
        for key, source in items:
            waiting.append((key, pool.submit(decode_one, source)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def decode(source: ImageSource, recipe: ImageRecipe, limits: Limits) -> Decoded | ImageUnreadable:
    """Decode and crop one picture; why it cannot be is the answer, not an exception."""
    try:
        with pictures.decoded(source() if callable(source) else source, limits) as picture:
            crop = pictures.crop(picture, recipe, limits)
            return Decoded(crop=crop, width_px=picture.width, height_px=picture.height)
    except ImageUnreadable as exc:
        return exc
