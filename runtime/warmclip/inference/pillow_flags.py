"""Pillow's flags as our own decoding needs them, whatever an application has set.

They are attributes of Pillow's modules, one value for all threads of a process. A user's job may
set them when it is imported: with ``LOAD_TRUNCATED_IMAGES`` half a picture would get a vector where
a bundle refuses it, with another ``LOADING_STRATEGY`` a GIF another one, and ``MAX_IMAGE_PIXELS``
refuses what ``WARMCLIP_MAX_IMAGE_PIXELS`` allows; pillow-heif's ``DISABLE_SECURITY_LIMITS`` takes
away bounds that ours build on. So they are exchanged while a picture is decoded here, on however
many threads, and what was there comes back when the last of them is done.

``LOAD_TRUNCATED_IMAGES`` differs between bundles, and two of them may be at work in one process. So
that one is a value whose truth is another one in each thread.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from PIL import GifImagePlugin, Image, ImageFile, PngImagePlugin, TiffImagePlugin

_OURS: tuple[tuple[ModuleType, str, Any], ...] = (
    (Image, "MAX_IMAGE_PIXELS", None),  # there are bounds of our own
    (GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_AFTER_FIRST),
    (PngImagePlugin, "MAX_TEXT_CHUNK", 1024 * 1024),
    (PngImagePlugin, "MAX_TEXT_MEMORY", 64 * 1024 * 1024),
    (TiffImagePlugin, "READ_LIBTIFF", False),  # only where Pillow cannot read it itself
)

_load_truncated: ContextVar[bool | None] = ContextVar("load_truncated", default=None)
_lock = threading.Lock()
_users = 0
_theirs: list[tuple[ModuleType, str, Any, Any]] = []


class _TruthOfThread:
    """Whether pictures that were cut off are loaded: as a decoding thread wants, else as before.

    Pillow asks of its flag only whether it is true.
    """

    def __init__(self, others: object) -> None:
        self._others = bool(others)

    def __bool__(self) -> bool:
        wanted = _load_truncated.get()
        return self._others if wanted is None else wanted


@contextmanager
def own_flags(*, load_truncated: bool = False) -> Iterator[None]:
    """Decode with our values; inside, other threads see them as well, but for truncated pictures.

    Who sets a flag meanwhile keeps it.

    Args:
        load_truncated: decode what is left of a picture that was cut off, instead of refusing it.
    """
    global _users, _theirs  # noqa: PLW0603  # as Pillow's flags, one for the process
    with _lock:
        if _users == 0:
            truth = _TruthOfThread(ImageFile.LOAD_TRUNCATED_IMAGES)
            flags = (*_OURS, (ImageFile, "LOAD_TRUNCATED_IMAGES", truth))
            if options := sys.modules.get("pillow_heif.options"):  # who set it has loaded it
                flags = (*flags, (options, "DISABLE_SECURITY_LIMITS", False))
            _theirs = [(*flag, getattr(*flag)) for flag in flags]
            for module, name, ours, _ in _theirs:
                setattr(module, name, ours)
        _users += 1
    token = _load_truncated.set(load_truncated)
    try:
        yield
    finally:
        _load_truncated.reset(token)
        with _lock:
            _users -= 1
            if _users == 0:
                for module, name, ours, value in _theirs:
                    if getattr(module, name) == ours:
                        setattr(module, name, value)
