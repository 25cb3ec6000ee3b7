"""Pictures that kill whoever decodes them: the comment of a JPEG says how.

FAULTY_MARK=file   is made when a slow one begins

Pillow's own decoders have no such fault that we know of, so it is put where they end: in
``ImageFile.load``, on a decode thread of the horse.
"""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from PIL import ImageFile

POISON = b"poison: "


def enter() -> None:
    """Let pictures with such a comment do what it says."""
    load = ImageFile.ImageFile.load

    def deadly(self: ImageFile.ImageFile) -> Any:
        match self.info.get("comment", b"").removeprefix(POISON):
            case b"segv":
                ctypes.string_at(0)
            case b"abort":
                os.abort()
            case b"kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"slow":  # no poison: something to be in flight beside one
                if "FAULTY_MARK" in os.environ:
                    Path(os.environ["FAULTY_MARK"]).touch()
                time.sleep(1)
            case b"hang":
                ctypes.PyDLL(None).pause()
        return load(self)

    ImageFile.ImageFile.load = deadly  # type: ignore[method-assign]  # that is the fault
