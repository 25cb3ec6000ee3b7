"""Pictures decoded on threads, a little ahead of the model."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from PIL import Image

from warmclip.activity import Activity
from warmclip.errors import ImageUnavailable, ImageUnreadable
from warmclip.inference.arrays import Crop
from warmclip.inference.bundle import ImageRecipe
from warmclip.inference.image import Source, keep_decoder_memory, make_crop, open_decoded
from warmclip.inference.machine import usable_cores
from warmclip.inference.prefetch import prefetch
from warmclip.inference.reading import (
    FileReader,
    LazyImage,
    NamedImage,
    digest_name,
    read_image_file,
)
from warmclip.settings import Limits

ImageSource: TypeAlias = str | Path | bytes | Image.Image | NamedImage | LazyImage
"""A file's path, its bytes, a picture, bytes with a name, or such as are read when it is due."""

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
    reader = FileReader(limits)
    decode_one = partial(
        decode_picture, recipe=recipe, limits=limits, activity=activity, reader=reader
    )
    if activity.one_at_a_time:
        for key, source in items:
            yield key, decode_one(source)
        return
    decoding = prefetch(
        decode_one,
        items,
        threads=min(_MOST_THREADS, usable_cores()),
        ahead=ahead,
        size_of=_bytes_of,
        name="warmclip-decode",
        on_close=reader.close,
    )
    with keep_decoder_memory(), closing(decoding):
        for ready in decoding:
            yield from ready


def decode_picture(
    source: ImageSource,
    recipe: ImageRecipe,
    limits: Limits,
    activity: Activity,
    reader: FileReader,
) -> Decoded | ImageUnreadable:
    """Decode and crop one picture; why it cannot be is the answer, not an exception.

    Reading it comes first and is not announced as decoding: a slow disk is no fault of a picture.
    """
    try:
        content = read_source(source, limits, reader)
        with (
            activity.during("decode", _name_of(source)),
            open_decoded(content, recipe, limits) as (picture, size),
        ):
            crop = make_crop(picture, recipe, limits, whole=size)
            return Decoded(crop=crop, width_px=size[0], height_px=size[1])
    except ImageUnreadable as exc:
        if isinstance(exc.__cause__, MemoryError):  # which says nothing of the picture
            return ImageUnavailable(str(exc))
        return exc


def read_source(source: ImageSource, limits: Limits, reader: FileReader) -> Source:
    """What there is to decode: a source's bytes, read if they are still in a file.

    Raises:
        ImageUnreadable, ImageUnavailable: it cannot be read.
    """
    match source:
        case NamedImage():
            return source.data
        case LazyImage():
            return reader.read(source.read)
        case str() | Path():
            return reader.read(partial(read_image_file, source, limits))
        case _:
            return source


def _name_of(source: ImageSource) -> str:
    match source:
        case NamedImage() | LazyImage():
            return source.name
        case str() | Path():
            return os.fspath(source)
        case bytes():
            return digest_name(source)
        case _:
            return ""


def _bytes_of(source: ImageSource) -> int:
    """How much memory a picture takes while it waits for a thread, as far as that is known."""
    match source:
        case NamedImage():
            return len(source.data)
        case bytes():
            return len(source)
        case _:
            return 0
