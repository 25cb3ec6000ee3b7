"""The warm horse: kept ready, followed through each job, and replaced when it dies."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warmclip.activity import Stage
from warmclip.errors import HorseDied, WarmclipError, revive
from warmclip.work.crash_policy import CrashPolicy, Death
from warmclip.work.horse.in_flight import InFlight
from warmclip.work.horse.models import ModelChoice
from warmclip.work.horse.process import LOST_ITS_PIPE, HorseProcess
from warmclip.work.horse.report import JobReport
from warmclip.work.poisoned_files import PoisonedFile

log = logging.getLogger(__name__)

_TICK_S = 1.0  # the longest wait for a message before anything else is looked at
_SHORTEST_SILENCE_S = 5.0  # five heartbeats, whatever the job's own time
_START_PATIENCE_S = 120.0  # for the imports; loading a model announces itself
_MOST_STARTS = 10  # that fail in a row
_LONGEST_PAUSE_S = 5.0
_GRACE_S = 5.0  # beyond a time-out, which the horse should have noticed by itself

OnTick = Callable[[InFlight], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a horse says of itself when it has loaded the model."""

    provider: str = ""
    model: str = ""
    models: tuple[str, ...] = ()  # the fingerprints of all that it has; the first is ``model``
    callbacks: frozenset[str] = frozenset()  # that it may call


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One execution of a job, as the horse is told of it."""

    execution: str
    job: str
    record: Mapping[str, str]  # the job's fields in Redis: bytes in base64
    is_ours: bool  # whether it names a function of warmclip's own
    timeout_s: float | None
    may_wait: bool = True  # for a model that is not loaded: it is queued again
    began: float = field(default_factory=time.monotonic)

    @property
    def ends_at(self) -> float:
        """When it is over at the latest, by the monotonic clock."""
        return float("inf") if self.timeout_s is None else self.began + self.timeout_s + _GRACE_S

    def silence_s(self, hang_s: float) -> float:
        """How long a horse may usually be silent in it."""
        if self.timeout_s is None:
            return hang_s
        return min(hang_s, max(self.timeout_s / 2, _SHORTEST_SILENCE_S))


class WarmHorse:
    """Owns the horse of one worker.

    Attributes:
        ready: what the present horse said of itself.
        choice: the models that it was told to load.
    """

    def __init__(
        self,
        start: Callable[[ModelChoice], HorseProcess],
        policy: CrashPolicy,
        *,
        hang_s: float,
        observe: Callable[[Stage, float], None] = lambda _, __: None,
    ) -> None:
        """No horse is started yet.

        Args:
            start: makes a horse with these models.
            policy: told of horses that die before they are ready.
            hang_s: how long a horse may usually be silent.
            observe: told how long each piece of native work took, in seconds.
        """
        self.ready = Ready()
        self.choice = ModelChoice()
        self._start = start
        self._policy = policy
        self._hang_s = hang_s
        self._observe = observe
        self._process: HorseProcess | None = None
        self._left_behind: HorseProcess | None = None  # the last one; it may not have ended
        self._is_ready = False  # whether it has loaded the model
        self._tainted = ""  # why it is not to run another job
        self._killed: HorseProcess | None = None  # on command; it may still be dying
        self._told: Sequence[PoisonedFile] | None = None  # what it knows of poisoned files

    @property
    def pid(self) -> int:
        """The horse's process; 0 without one."""
        return self._process.pid if self._process is not None else 0

    def choose(self, choice: ModelChoice) -> None:
        """Have the next horse load these models; the present one takes no further job."""
        self.choice = choice
        self._tainted = self._tainted or "another model is to be loaded"

    def ensure_ready(self, on_tick: OnTick = lambda _: None) -> None:
        """Start a horse unless one is ready; none is if it was killed on command meanwhile.

        Args:
            on_tick: called about once a second while one is started.

        Raises:
            HorseDied: none survives its start, or the last one does not end.
            WarmclipError: what the horse found wrong, of the same class.
        """
        for failures in range(_MOST_STARTS):
            if self._can_run:
                return
            self._replace()
            order = Order(execution="", job="", record={}, is_ours=True, timeout_s=None)
            match self._follow("ready", order, usual_s=_START_PATIENCE_S, on_tick=on_tick):
                case Death(on_command=True):
                    self._end()
                    return
                case Death() as death:
                    log.error("a new horse did not get ready: %s", death)
                    self._policy.on_failed_start(death)
                    problem: WarmclipError = HorseDied(f"no horse survives its start: {death}")
                case {"error": str(kind), "message": str(message)}, _:
                    problem = revive(kind, message)
                    if not problem.may_pass:
                        self._end()
                        raise problem
                    log.warning("a new horse did not get ready: %s", problem)
                case ready, _:
                    self.ready = Ready(
                        provider=ready["provider"],
                        model=ready["model"],
                        models=tuple(ready["models"]),
                        callbacks=frozenset(ready["callbacks"]),
                    )
                    self._is_ready = True
                    return
            self._end()
            time.sleep(min(_LONGEST_PAUSE_S, 0.05 * 2**failures))
        raise problem

    def run_job(
        self,
        order: Order,
        *,
        careful: bool,
        poisoned: Sequence[PoisonedFile],
        on_tick: OnTick,
    ) -> JobReport | Death:
        """Have the horse run a job; returns what became of it, or how the horse died.

        Args:
            order: the job.
            careful: whether pictures are decoded one at a time.
            poisoned: the pictures that are not to be decoded.
            on_tick: called about once a second with what the horse has in flight.
        """
        self._send(order, careful=careful, poisoned=poisoned, may_wait=order.may_wait)
        outcome = self._follow(
            "done", order, usual_s=order.silence_s(self._hang_s), on_tick=on_tick
        )
        if isinstance(outcome, Death):
            self._end()
            return outcome
        message, text = outcome
        report = JobReport.read(message, text)
        self._tainted = report.tainted
        return report

    def tell_of_death(self, order: Order, reason: str, *, on_tick: OnTick) -> Death | None:
        """Have the horse call the failure callback of a job whose process died.

        Args:
            order: that job, and how long the callback may take.
            reason: how the process died.
            on_tick: called about once a second with what the horse has in flight.
        """
        self._send(order, died=reason)
        outcome = self._follow(
            "done", order, usual_s=order.silence_s(self._hang_s), on_tick=on_tick
        )
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

    def stop_loading(self) -> None:
        """End a horse that is not ready yet: nobody needs it any more; from a signal's handler."""
        if not self._is_ready:
            self.kill()

    def close(self) -> None:
        """Have the horse leave; one that is still loading is killed."""
        if self._process is not None and self._is_ready:
            self._process.leave()
        self._end()

    @property
    def _can_run(self) -> bool:
        process = self._process
        return (
            process is not None
            and process is not self._killed
            and not self._tainted
            and process.is_alive
        )

    def _replace(self) -> None:
        """Start another horse, when the former one is gone: it may hold the store."""
        if self._process is not None and self._tainted:
            log.info("the horse %d is replaced, as %s", self._process.pid, self._tainted)
            self._process.leave()
        elif self._process is not None:
            log.warning("the horse %d has ended; a new one starts", self._process.pid)
        self._end()
        if self._left_behind is not None and self._left_behind.is_alive:
            raise HorseDied(
                f"the horse {self._left_behind.pid} was killed and does not end, as it waits for a "
                "device or a debugger holds it; it may hold the store, so start the worker again "
                "when it has ended"
            )
        self._process = self._start(self.choice)

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process.close()
            self._left_behind = self._process
            self._process = None
        self._is_ready = False
        self._tainted = ""
        self._told = None

    def _send(
        self, order: Order, poisoned: Sequence[PoisonedFile] | None = None, **more: Any
    ) -> None:
        assert self._process is not None, "ensure_ready() comes first"  # noqa: S101 - ours to keep
        message: dict[str, Any] = {
            "execution": order.execution,
            "job": order.job,
            "record": dict(order.record),
        }
        if poisoned is not None and poisoned is not self._told:
            message |= {"poisoned": [file.to_dict() for file in poisoned]}
            self._told = poisoned
        self._process.run(**(message | more))

    def _follow(
        self, last: str, order: Order, *, usual_s: float, on_tick: OnTick
    ) -> tuple[dict[str, Any], str] | Death:
        """Listen until the last message, which is returned with the text before it, or a death.

        Before the horse is ready, an error is the last message too.
        """
        assert self._process is not None  # noqa: S101 - ours to keep
        in_flight = InFlight(order.execution, self._observe)
        ends_at, timeout_s = order.ends_at, order.timeout_s
        silent_s, before = 0.0, time.monotonic()
        said = ""  # by a horse that leaves by itself
        while True:
            try:
                for message in self._process.messages(_TICK_S):
                    silent_s = 0.0
                    in_flight.update(message)
                    if _is_last(message, last, order, is_ready=self._is_ready):
                        return message, in_flight.text
                    if "message" in message:
                        said = str(message["message"])
            except EOFError:
                return self._death(in_flight, said=said)
            now = time.monotonic()
            if in_flight.extends_s is not None:  # a callback has begun
                ends_at, timeout_s = now + in_flight.extends_s + _GRACE_S, in_flight.extends_s
                in_flight.extends_s = None
            # What counts is how long we listened: while this process itself was stopped, or waited
            # for Redis, a silence proves nothing.
            silent_s += min(now - before, 2 * _TICK_S)
            before = now
            if silent_s > in_flight.allowed_silence_s(usual_s, is_ours=order.is_ours):
                return self._death(in_flight, hung_s=silent_s)
            if now > ends_at:
                return self._death(in_flight, overran_s=timeout_s)
            on_tick(in_flight)

    def _death(
        self,
        in_flight: InFlight,
        *,
        hung_s: float | None = None,
        overran_s: float | None = None,
        said: str = "",
    ) -> Death:
        assert self._process is not None  # noqa: S101 - ours to keep
        is_killed_by_us = hung_s is not None or overran_s is not None
        lives_on = not is_killed_by_us and not self._process.has_left()
        code = self._process.end()
        return Death(
            returncode=code,
            in_flight=in_flight,
            provider=in_flight.provider or self.ready.provider,
            hung_s=hung_s,
            overran_s=overran_s,
            has_hung_up=lives_on or code == LOST_ITS_PIPE,
            said=said,
            on_command=self._process is self._killed,
        )


def _is_last(message: Mapping[str, Any], last: str, order: Order, *, is_ready: bool) -> bool:
    """Whether this is what is waited for; an answer of another job is not."""
    if not is_ready:
        return last in message or "error" in message
    return message.get(last) == order.execution
