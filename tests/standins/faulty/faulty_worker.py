"""A worker that is killed at one chosen instant: FAULTY_DIES_AFTER_TAKING=1 once it has a job."""

import os
import signal
from typing import Any

from warmclip.work.recorder import JobRecorder


def enter() -> None:
    """Die with a job that was taken from its queue and is not yet recorded as started."""

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    JobRecorder.start = die  # type: ignore[assignment,method-assign]  # that is the fault
