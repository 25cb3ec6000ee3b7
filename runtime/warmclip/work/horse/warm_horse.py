"""The stable: keeps one horse, follows it through each job, and replaces it when it dies."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from warmclip.errors import HorseDied, SettingsError, WarmclipError, revive
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.work.cause import Death
from warmclip.work.horse.in_flight import InFlight
from warmclip.work.horse.process import HorseProcess

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # the longest wait for a beat before anything else is looked at
_SHORTEST_SILENCE_S = 5.0  # five pulses, whatever the job's own time
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
        self,
        start: Callable[[], HorseProcess],
        quarantine: Quarantine,
        *,
        hang_s: float,
        max_crashes: int,
    ) -> None:
        """No horse is started yet.

        Args:
            start: makes a horse.
            quarantine: where a provider goes that crashes too often.
            hang_s: how long a horse may usually be silent.
            max_crashes: of one provider in a row.
        """
        self.ready = Ready(provider="", model="", fingerprint="")
        self._start = start
        self._quarantine = quarantine
        self._hang_s = hang_s
        self._max_crashes = max_crashes
        self._horse: HorseProcess | None = None
        self._stands = False  # whether it has loaded the model
        self._condemned: HorseProcess | None = None  # killed on command; may be dying
        self._crashes: Counter[str] = Counter()

    @property
    def pid(self) -> int:
        """The horse's process; 0 without one."""
        return self._horse.pid if self._horse is not None else 0

    def ensure(self, look: Callable[[InFlight], None] = lambda _: None) -> None:
        """See to it that a horse stands ready; none does if it was killed on command meanwhile.

        Args:
            look: called about once a second while one is started.

        Raises:
            HorseDied: none survives its start.
            WarmclipError: what the horse found wrong, of the same class.
        """
        for failures in range(_MOST_STARTS):
            horse = self._horse
            if horse is not None and horse is not self._condemned and horse.is_alive:
                return
            if horse is not None:
                log.warning("the horse %d has ended; a new one starts", horse.pid)
            self._retire()
            self._horse = self._start()
            outcome = self._follow(
                "ready", usual_s=_START_PATIENCE_S, ends_at=float("inf"), look=look
            )
            match outcome:
                case Death(on_command=True):
                    self._retire()
                    return
                case Death() as death:
                    log.error("a new horse did not get ready: %s", death)
                    self.count(death)
                    problem: WarmclipError = HorseDied(f"no horse survives its start: {death}")
                case {"error": str(kind), "message": str(message)}:
                    problem = revive(kind, message)
                    if not problem.may_pass:
                        self._retire()
                        raise problem
                    log.warning("a new horse did not get ready: %s", problem)
                case ready:
                    self.ready = Ready(
                        provider=ready["provider"],
                        model=ready["model"],
                        fingerprint=ready["fingerprint"],
                    )
                    self._stands = True
                    return
            self._retire()
            time.sleep(min(_LONGEST_PAUSE_S, 0.05 * 2**failures))
        raise problem

    def ride(
        self,
        order: Mapping[str, Any],
        *,
        timeout_s: float | None,
        ends_at: float,
        look: Callable[[InFlight], None],
    ) -> Death | None:
        """Have the horse run a job; returns how it died, or None if it did not.

        Args:
            order: what the horse is told.
            timeout_s: the job's own, if it has one.
            ends_at: when the job is over at the latest, by the monotonic clock.
            look: called about once a second with what the horse is at.
        """
        assert self._horse is not None, "ensure() comes first"  # noqa: S101 - ours to keep
        self._horse.run(**order)
        usual_s = self._hang_s
        if timeout_s is not None:
            usual_s = min(usual_s, max(timeout_s / 2, _SHORTEST_SILENCE_S))
        outcome = self._follow("done", usual_s=usual_s, ends_at=ends_at, look=look)
        if isinstance(outcome, Death):
            self._retire()
            return outcome
        self._crashes.clear()
        return None

    def count(self, death: Death) -> None:
        """Hold a death against the provider that was at work, if one was.

        Too many in a row, and the next horse goes without it.
        """
        provider = death.flight.provider
        if provider is None or death.overran:
            return
        self._crashes[provider] += 1
        crashes = self._crashes[provider]
        if crashes >= self._max_crashes:
            try:
                self._quarantine.add(provider, f"{crashes} crashes in a row, the last: {death}")
            except (OSError, SettingsError) as exc:  # a full disk: the next horse tries it again
                log.warning("cannot put %s into quarantine: %s", provider, exc)

    def kill(self) -> None:
        """End the horse now; from any thread."""
        horse = self._horse
        if horse is not None:
            self._condemned = horse
            horse.kill()

    def close(self) -> None:
        """Have the horse leave; one that is still loading is ended."""
        if self._horse is not None and self._stands:
            self._horse.close()
            self._horse = None
        self._retire()

    def _retire(self) -> None:
        if self._horse is not None:
            self._horse.end()
            self._horse.close()
            self._horse = None
        self._stands = False

    def _follow(
        self, last_word: str, *, usual_s: float, ends_at: float, look: Callable[[InFlight], None]
    ) -> dict[str, Any] | Death:
        """Listen until the last word, or a death; before it is ready, an error is a word too."""
        assert self._horse is not None  # noqa: S101 - ours to keep
        flight = InFlight()
        silent_s, before = 0.0, time.monotonic()
        said = ""  # by a horse that leaves by itself
        while True:
            try:
                for beat in self._horse.beats(_LOOK_S):
                    silent_s = 0.0
                    flight.note(beat)
                    if last_word in beat or ("error" in beat and not self._stands):
                        return beat
                    said = beat.get("message", said)
            except EOFError:
                return self._death(flight, said=said)
            now = time.monotonic()
            # What counts is how long we listened: while this process itself was stopped, or waited
            # for Redis, a silence proves nothing.
            silent_s += min(now - before, 2 * _LOOK_S)
            before = now
            if silent_s > flight.patience_s(usual_s):
                return self._death(flight, hung_s=silent_s)
            if now > ends_at:
                return self._death(flight, overran=True)
            look(flight)

    def _death(
        self,
        flight: InFlight,
        *,
        hung_s: float | None = None,
        overran: bool = False,
        said: str = "",
    ) -> Death:
        assert self._horse is not None  # noqa: S101 - ours to keep
        return Death(
            returncode=self._horse.end(),
            flight=flight,
            provider=flight.provider or self.ready.provider,
            hung_s=hung_s,
            overran=overran,
            said=said,
            on_command=self._horse is self._condemned,
        )
