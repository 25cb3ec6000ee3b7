"""Pillow's flags as our own decoding needs them, whatever an application has set.

They are attributes of Pillow's modules, one value for all threads of a process. A user's job may
set them when it is imported: with ``LOAD_TRUNCATED_IMAGES`` half a picture would get a vector where
a bundle refuses it, with another ``LOADING_STRATEGY`` a GIF another one, and ``MAX_IMAGE_PIXELS``
refuses what ``WARMCLIP_MAX_IMAGE_PIXELS`` allows; pillow-heif's ``DISABLE_SECURITY_LIMITS`` takes
away bounds that ours build on. So they are exchanged while a picture is decoded here, on however
many threads, and what was there comes back when the last of them is done.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

_changed = threading.Condition()
_users = 0
_are_loading_truncated = False  # those users
_theirs: list[tuple[ModuleType, str, Any, Any]] = []


@contextmanager
def own_flags(*, load_truncated: bool = False) -> Iterator[None]:
    """Decode with our values; inside, other threads see them as well.

    Who sets a flag meanwhile keeps it. Who wants the other way with truncated pictures waits until
    nobody decodes; whoever comes meanwhile and wants the present way passes them.

    Args:
        load_truncated: decode what is left of a picture that was cut off, instead of refusing it.
    """
    global _users, _theirs, _are_loading_truncated  # noqa: PLW0603  # as Pillow's flags, one for the process
    with _changed:
        _changed.wait_for(lambda: _users == 0 or _are_loading_truncated == load_truncated)
        if _users == 0:
            _are_loading_truncated = load_truncated
            flags = (*_OURS, (ImageFile, "LOAD_TRUNCATED_IMAGES", load_truncated))
            if options := sys.modules.get("pillow_heif.options"):  # who set it has loaded it
                flags = (*flags, (options, "DISABLE_SECURITY_LIMITS", False))
            _theirs = [(*flag, getattr(*flag)) for flag in flags]
            for module, name, ours, _ in _theirs:
                setattr(module, name, ours)
        _users += 1
    try:
        yield
    finally:
        with _changed:
            _users -= 1
            if _users == 0:
                for module, name, ours, value in _theirs:
                    if getattr(module, name) == ours:
                        setattr(module, name, value)
                _changed.notify_all()
