"""What the worker asks of its horse, read by a thread that also sees when the worker is gone."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import IO, Any

_POLL_S = 0.2
_UNWINDING_S = 5.0  # for the step that runs, and for closing the store


class Orders:
    """The orders, one at a time; they end when the worker hangs up."""

    def __init__(self, lines: IO[str], on_orphaned: Callable[[], None]) -> None:
        """Begin to read.

        Args:
            lines: of JSON, from the worker.
            on_orphaned: called, from another thread, when the worker has died.
        """
        self._lines = lines
        self._on_orphaned = on_orphaned
        self._parent = os.getppid()
        self._read: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        threading.Thread(target=self._read_all, name="warmclip-orders", daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (order := self._read.get()) is not None:
            yield order

    def _read_all(self) -> None:
        try:
            for line in self._lines:
                self._read.put(json.loads(line))
        except (OSError, ValueError):  # a job has closed the descriptor, or written into it
            pass
        self._read.put(None)
        while os.getppid() == self._parent:  # it has hung up, and waits for this process
            time.sleep(_POLL_S)
        self._on_orphaned()
        time.sleep(_UNWINDING_S)
        # Nobody could record what becomes of the job that runs, and the store is held meanwhile.
        os.killpg(0, signal.SIGKILL)
