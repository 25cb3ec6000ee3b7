"""Pictures decoded on threads, a little ahead of the model."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from PIL import Image

from warmclip.activity import Activity
from warmclip.errors import ImageUnreadable
from warmclip.inference.arrays import Crop
from warmclip.inference.bundle import ImageRecipe
from warmclip.inference.image import keep_decoder_memory, make_crop, open_decoded
from warmclip.inference.machine import usable_cores
from warmclip.inference.reading import LazyImage
from warmclip.settings import Limits

ImageSource: TypeAlias = str | Path | bytes | Image.Image | LazyImage
"""A file's path, its bytes, a picture, or one whose bytes are read when they are needed."""

K = TypeVar("K")

_MOST_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One picture's crop, and the picture's own size."""

    crop: Crop
    width_px: int
    height_px: int


def decode_each(
    items: Iterable[tuple[K, ImageSource]],
    recipe: ImageRecipe,
    limits: Limits,
    *,
    ahead: int,
    activity: Activity,
) -> Iterator[tuple[K, Decoded | ImageUnreadable]]:
    """Decode a stream of pictures, yielding (key, result) as they become ready.

    Small pictures pass a large one, which may take a hundred times as long. At most ``ahead``
    items are taken before their result is; none, if the activity wants one thing at a time.
    """
    decode_one = partial(decode_picture, recipe=recipe, limits=limits, activity=activity)
    if activity.one_at_a_time:
        for key, source in items:
            yield key, decode_one(source)
        return
    under_way: dict[Future[Decoded | ImageUnreadable], K] = {}
    pool = ThreadPoolExecutor(
        min(_MOST_THREADS, usable_cores()), thread_name_prefix="warmclip-decode"
    )
    try:
        with keep_decoder_memory():
            for key, source in items:
                under_way[pool.submit(decode_one, source)] = key
                if len(under_way) >= ahead:
                    yield from _take_ready(under_way)
            while under_way:
                yield from _take_ready(under_way)
    finally:
        pool.shutdown(cancel_futures=True)


def _take_ready(
    under_way: "dict[Future[Decoded | ImageUnreadable], K]",
) -> Iterator[tuple[K, Decoded | ImageUnreadable]]:
    """Wait for one at least, and yield all that are ready, in the order of their items."""
    wait(under_way, return_when=FIRST_COMPLETED)
    for future in [it for it in under_way if it.done()]:
        yield under_way.pop(future), future.result()


def decode_picture(
    source: ImageSource, recipe: ImageRecipe, limits: Limits, activity: Activity
) -> Decoded | ImageUnreadable:
    """Decode and crop one picture; why it cannot be is the answer, not an exception."""
    try:
        with (
            activity.during("decode", _name(source)),
            open_decoded(
                source.read() if isinstance(source, LazyImage) else source, recipe, limits
            ) as (picture, size),
        ):
            crop = make_crop(picture, recipe, limits, whole=size)
            return Decoded(crop=crop, width_px=size[0], height_px=size[1])
    except ImageUnreadable as exc:
        return exc


def _name(source: ImageSource) -> str:
    match source:
        case LazyImage():
            return source.name
        case str() | Path():
            return os.fspath(source)
        case _:
            return ""
