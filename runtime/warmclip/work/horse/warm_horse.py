"""The warm horse: kept ready, followed through each job, and replaced when it dies."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from warmclip.errors import HorseDied, WarmclipError, revive
from warmclip.work.crash_policy import CrashPolicy, Death
from warmclip.work.horse.in_flight import InFlight
from warmclip.work.horse.process import HorseProcess

log = logging.getLogger(__name__)

_TICK_S = 1.0  # the longest wait for a message before anything else is looked at
_SHORTEST_SILENCE_S = 5.0  # five heartbeats, whatever the job's own time
_START_PATIENCE_S = 120.0  # for the imports; loading a model announces itself
_MOST_STARTS = 10  # that fail in a row
_LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a horse says of itself when it has loaded the model."""

    provider: str
    model: str
    fingerprint: str


class WarmHorse:
    """Owns the horse of one worker.

    Attributes:
        ready: what the present horse said of itself.
    """

    def __init__(
        self, start: Callable[[], HorseProcess], policy: CrashPolicy, *, hang_s: float
    ) -> None:
        """No horse is started yet.

        Args:
            start: makes a horse.
            policy: told of horses that die before they are ready.
            hang_s: how long a horse may usually be silent.
        """
        self.ready = Ready(provider="", model="", fingerprint="")
        self._start = start
        self._policy = policy
        self._hang_s = hang_s
        self._process: HorseProcess | None = None
        self._is_ready = False  # whether it has loaded the model
        self._killed: HorseProcess | None = None  # on command; it may still be dying

    @property
    def pid(self) -> int:
        """The horse's process; 0 without one."""
        return self._process.pid if self._process is not None else 0

    def ensure_ready(self, on_tick: Callable[[InFlight], None] = lambda _: None) -> None:
        """Start a horse unless one is ready; none is if it was killed on command meanwhile.

        Args:
            on_tick: called about once a second while one is started.

        Raises:
            HorseDied: none survives its start.
            WarmclipError: what the horse found wrong, of the same class.
        """
        for failures in range(_MOST_STARTS):
            process = self._process
            if process is not None and process is not self._killed and process.is_alive:
                return
            if process is not None:
                log.warning("the horse %d has ended; a new one starts", process.pid)
            self._end()
            self._process = self._start()
            outcome = self._follow(
                "ready", usual_s=_START_PATIENCE_S, ends_at=float("inf"), on_tick=on_tick
            )
            match outcome:
                case Death(on_command=True):
                    self._end()
                    return
                case Death() as death:
                    log.error("a new horse did not get ready: %s", death)
                    self._policy.on_failed_start(death)
                    problem: WarmclipError = HorseDied(f"no horse survives its start: {death}")
                case {"error": str(kind), "message": str(message)}:
                    problem = revive(kind, message)
                    if not problem.may_pass:
                        self._end()
                        raise problem
                    log.warning("a new horse did not get ready: %s", problem)
                case ready:
                    self.ready = Ready(
                        provider=ready["provider"],
                        model=ready["model"],
                        fingerprint=ready["fingerprint"],
                    )
                    self._is_ready = True
                    return
            self._end()
            time.sleep(min(_LONGEST_PAUSE_S, 0.05 * 2**failures))
        raise problem

    def run_job(
        self,
        order: Mapping[str, Any],
        *,
        timeout_s: float | None,
        ends_at: float,
        on_tick: Callable[[InFlight], None],
    ) -> Death | None:
        """Have the horse run a job; returns how it died, or None if it did not.

        Args:
            order: what the horse is told.
            timeout_s: the job's own, if it has one.
            ends_at: when the job is over at the latest, by the monotonic clock.
            on_tick: called about once a second with what the horse has in flight.
        """
        assert self._process is not None, "ensure_ready() comes first"  # noqa: S101 - ours to keep
        self._process.run(**order)
        usual_s = self._hang_s
        if timeout_s is not None:
            usual_s = min(usual_s, max(timeout_s / 2, _SHORTEST_SILENCE_S))
        outcome = self._follow("done", usual_s=usual_s, ends_at=ends_at, on_tick=on_tick)
        if isinstance(outcome, Death):
            self._end()
            return outcome
        return None

    def kill(self) -> None:
        """End the horse now; from any thread."""
        process = self._process
        if process is not None:
            self._killed = process
            process.kill()

    def close(self) -> None:
        """Have the horse leave; one that is still loading is killed."""
        if self._process is not None and self._is_ready:
            self._process.close()
            self._process = None
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process.close()
            self._process = None
        self._is_ready = False

    def _follow(
        self, last: str, *, usual_s: float, ends_at: float, on_tick: Callable[[InFlight], None]
    ) -> dict[str, Any] | Death:
        """Listen until the last message, or a death; before it is ready, an error is the last."""
        assert self._process is not None  # noqa: S101 - ours to keep
        in_flight = InFlight()
        silent_s, before = 0.0, time.monotonic()
        said = ""  # by a horse that leaves by itself
        while True:
            try:
                for message in self._process.beats(_TICK_S):
                    silent_s = 0.0
                    in_flight.update(message)
                    if last in message or ("error" in message and not self._is_ready):
                        return message
                    said = message.get("message", said)
            except EOFError:
                return self._death(in_flight, said=said)
            now = time.monotonic()
            # What counts is how long we listened: while this process itself was stopped, or waited
            # for Redis, a silence proves nothing.
            silent_s += min(now - before, 2 * _TICK_S)
            before = now
            if silent_s > in_flight.allowed_silence_s(usual_s):
                return self._death(in_flight, hung_s=silent_s)
            if now > ends_at:
                return self._death(in_flight, overran=True)
            on_tick(in_flight)

    def _death(
        self,
        in_flight: InFlight,
        *,
        hung_s: float | None = None,
        overran: bool = False,
        said: str = "",
    ) -> Death:
        assert self._process is not None  # noqa: S101 - ours to keep
        return Death(
            returncode=self._process.end(),
            in_flight=in_flight,
            provider=in_flight.provider or self.ready.provider,
            hung_s=hung_s,
            overran=overran,
            said=said,
            on_command=self._process is self._killed,
        )
