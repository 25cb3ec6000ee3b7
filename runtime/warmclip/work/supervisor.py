"""Several workers on one machine: exec'd, and watched by a process that does nothing else.

RQ's own worker pool forks, and what is forked may not touch Metal.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from warmclip.errors import WarmclipError

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.1
_LONGEST_PAUSE_S = 30.0
_MOST_DOUBLINGS = 10  # beyond the longest pause; after 1,024 failures, 8.5 hours, 2**n is no float
_GOOD_RUN_S = 60.0  # a worker that lasted so long is started again at once
_BAD_CONFIGURATION = WarmclipError.exit_code


def next_start(failures: int, lasted_s: float) -> tuple[int, float]:
    """How often in a row a worker has failed now, and in how many seconds another one starts.

    Args:
        failures: before this one.
        lasted_s: how long it ran.
    """
    if lasted_s >= _GOOD_RUN_S:
        return 1, 0.0
    return failures + 1, min(_LONGEST_PAUSE_S, 0.5 * 2 ** min(failures, _MOST_DOUBLINGS))


@dataclass(slots=True, kw_only=True)
class _Slot:
    """A slot for one worker: one that leaves unasked is replaced."""

    arguments: Sequence[str]
    process: subprocess.Popen[bytes]
    started: float
    failures: int
    forwarded: int = 0  # how many of the signals it was sent
    again_at: float | None = None  # when to start the next one; None while one runs


class Supervisor:
    """Keeps workers running until it is asked to stop, or they have all finished."""

    def __init__(self, workers: Sequence[Sequence[str]]) -> None:
        """Nothing is started yet.

        Args:
            workers: the arguments of ``warmclip worker`` for each of them.
        """
        self._workers = workers
        self._slots: list[_Slot] = []
        self._signals: list[int] = []  # that this process was sent, for each worker

    def run(self) -> int:
        """Start them, and return the exit code of the whole: the first that is not 0, or 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for arguments in self._workers:
            if not self._is_stopping:
                self._slots.append(self._start(arguments, 0))
        exit_code = 0
        while self._slots:
            self._forward_signals()
            for slot in list(self._slots):
                code = self._check(slot)
                exit_code = exit_code or code
            time.sleep(_CHECK_EVERY_S)
        return exit_code

    def _check(self, slot: _Slot) -> int:
        """Replace a worker that ended; returns its exit code if its slot is given up, else 0."""
        if slot.again_at is not None:
            if self._is_stopping:
                self._slots.remove(slot)
            elif time.monotonic() >= slot.again_at:
                fresh = self._start(slot.arguments, slot.failures)
                self._slots[self._slots.index(slot)] = fresh
            return 0
        code = slot.process.poll()
        if code is None:
            return 0
        if code in (0, _BAD_CONFIGURATION) or self._is_stopping:
            self._slots.remove(slot)
            if code == _BAD_CONFIGURATION:  # the others have it too
                self._signals.append(signal.SIGTERM)
            return max(code, 0)
        now = time.monotonic()
        slot.failures, pause = next_start(slot.failures, now - slot.started)
        slot.again_at = now + pause
        log.warning(
            "worker %d ended with %d; another one starts in %.1f s",
            slot.process.pid,
            code,
            pause,
            extra={"action": "worker_replaced"},
        )
        return 0

    def _start(self, arguments: Sequence[str], failures: int) -> _Slot:
        command = [sys.executable, "-P", "-m", "warmclip.cli", "worker", *arguments]
        command.append(f"--supervisor={os.getpid()}")
        # In a group of its own: a terminal's Ctrl+C comes to it once, from here.
        process = subprocess.Popen(command, process_group=0)  # noqa: S603 - our own command
        return _Slot(
            arguments=arguments, process=process, started=time.monotonic(), failures=failures
        )

    @property
    def _is_stopping(self) -> bool:
        return bool(self._signals)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's
        # Forwarded in the loop: here, a worker that is just being started would be missed.
        self._signals.append(signum)

    def _forward_signals(self) -> None:
        for slot in self._slots:
            for signum in self._signals[slot.forwarded :]:
                slot.forwarded += 1
                if slot.process.poll() is None:
                    slot.process.send_signal(signum)
