"""On the PYTHONPATH of a process, this has it tell, on SIGUSR1, what it has imported."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def _tell(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal calls with
    folder = Path(os.environ["IMPORTED_FOLDER"])
    partial = folder / f"{os.getpid()}.partial"
    partial.write_text("\n".join(sys.modules))
    partial.rename(folder / str(os.getpid()))


if "MAC_REHEARSAL" in os.environ:
    import pretended_mac  # type: ignore[import-not-found]  # its folder is on PYTHONPATH only there

    pretended_mac.enter()
signal.signal(signal.SIGUSR1, _tell)
