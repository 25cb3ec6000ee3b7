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

from warmclip.errors import SettingsError, WarmclipError
from warmclip.settings import Settings

log = logging.getLogger(__name__)

_LOOK_S = 0.1
_LONGEST_PAUSE_S = 30.0
_GOOD_RUN_S = 60.0  # a worker that lasted so long is started again at once
_BAD_CONFIGURATION = WarmclipError.exit_code


@dataclass(slots=True, kw_only=True)
class _Place:
    """One worker's place: whoever leaves it unasked is replaced."""

    process: subprocess.Popen[bytes]
    started: float
    failures: int = 0
    told: int = 0  # of the signals to pass on, how many it was sent
    again_at: float | None = None  # when to start the next one; None while one runs


class Supervisor:
    """Keeps ``count`` workers running until it is asked to stop, or they have all finished."""

    def __init__(self, count: int, arguments: Sequence[str]) -> None:
        """Nothing is started yet.

        Args:
            count: of workers.
            arguments: of ``warmclip worker``, for each of them.
        """
        self._command = [
            *(sys.executable, "-P", "-m", "warmclip.cli", "worker"),
            *arguments,
            f"--supervisor={os.getpid()}",
        ]
        self._count = count
        self._places: list[_Place] = []
        self._signals: list[int] = []  # that this process was sent, for each worker

    def run(self) -> int:
        """Start them, and return the exit code of the whole: the first that is not 0, or 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        while len(self._places) < self._count and not self._is_stopping:
            self._places.append(self._start(0))
        exit_code = 0
        while self._places:
            self._pass_on()
            for place in list(self._places):
                code = self._look_at(place)
                exit_code = exit_code or code
            time.sleep(_LOOK_S)
        return exit_code

    def _look_at(self, place: _Place) -> int:
        """See to one worker; returns its exit code if its place is given up, else 0."""
        if place.again_at is not None:
            if self._is_stopping:
                self._places.remove(place)
            elif time.monotonic() >= place.again_at:
                fresh = self._start(place.failures)
                self._places[self._places.index(place)] = fresh
            return 0
        code = place.process.poll()
        if code is None:
            return 0
        if code in (0, _BAD_CONFIGURATION) or self._is_stopping:
            self._places.remove(place)
            if code == _BAD_CONFIGURATION:  # the others have it too
                self._signals.append(signal.SIGTERM)
            return max(code, 0)
        lasted = time.monotonic() - place.started >= _GOOD_RUN_S
        place.failures = 1 if lasted else place.failures + 1
        pause = 0.0 if lasted else min(_LONGEST_PAUSE_S, 0.25 * 2**place.failures)
        place.again_at = time.monotonic() + pause
        log.warning(
            "worker %d ended with %d; another one starts in %.1f s",
            place.process.pid,
            code,
            pause,
            extra={"action": "worker_replaced"},
        )
        return 0

    def _start(self, failures: int) -> _Place:
        # In a group of its own: a terminal's Ctrl+C comes to it once, from here.
        process = subprocess.Popen(self._command, process_group=0)  # noqa: S603 - our own command
        return _Place(process=process, started=time.monotonic(), failures=failures)

    @property
    def _is_stopping(self) -> bool:
        return bool(self._signals)

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's
        # Passed on in the loop: here, a worker that is just being started would be missed.
        self._signals.append(signum)

    def _pass_on(self) -> None:
        for place in self._places:
            for signum in self._signals[place.told :]:
                place.told += 1
                if place.process.poll() is None:
                    place.process.send_signal(signum)


def run_workers(count: int, settings: Settings, arguments: Sequence[str]) -> int:
    """Run several workers; returns the exit code.

    Raises:
        SettingsError: they would all want the embedded store, which has one owner.
    """
    if settings.qdrant_url is None:
        raise SettingsError(
            f"--workers {count}: the embedded store has one owner; several workers need a Qdrant "
            "server (`make db-up`) and QDRANT_URL"
        )
    return Supervisor(count, arguments).run()
