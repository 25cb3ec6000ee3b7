"""What is done to a Redis and to workers, at random: each fault is a block, and so has an end."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from soak.site import Place, Server, send
from standins.refusals import REFUSALS, Refusal

T = TypeVar("T")

HANG_S = 5  # what WARMCLIP_HANG_SECONDS is here
_LONG_S = 95.0  # RQ gives a job up whose worker was silent for 90 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Generic[T]):
    """One kind of fault.

    Attributes:
        begin: makes the block during which it is there.
        weight: how often it comes, beside the others.
        lasts_s: the shortest and the longest time.
        costs_a_job: whether the job that ran meanwhile may die of it.
    """

    begin: Callable[[T, random.Random], AbstractContextManager[None]]
    weight: float = 1.0
    lasts_s: tuple[float, float] = (0.0, 5.0)
    costs_a_job: bool = False


# Redis


@contextmanager
def _redis_killed(server: Server, _: random.Random) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def _redis_stopped(server: Server, _: random.Random) -> Iterator[None]:
    send([server.now.pid], signal.SIGSTOP)
    yield
    send([server.now.pid], signal.SIGCONT)


def _refuses(refusal: Refusal, server: Server, _: random.Random) -> AbstractContextManager[None]:
    return refusal(server.now)


REDIS: dict[str, Fault[Server]] = {
    "Redis is killed, and restarts": Fault(begin=_redis_killed, weight=4),
    "Redis is stopped": Fault(begin=_redis_stopped, weight=4, lasts_s=(1, 8)),
    "Redis is stopped for longer than a command waits": Fault(
        begin=_redis_stopped, weight=0.3, lasts_s=(31, 35)
    ),
    **{
        f"Redis refuses: {name}": Fault(begin=partial(_refuses, refusal), weight=0.7)
        for name, refusal in REFUSALS.items()
    },
}


# Workers and horses


@contextmanager
def _killed(place: Place, _: random.Random, *, with_horse: bool) -> Iterator[None]:
    place.kill(with_horse=with_horse)
    yield


@contextmanager
def _asked_to_stop(place: Place, _: random.Random) -> Iterator[None]:
    place.ask_to_stop()
    yield


@contextmanager
def _horse_killed(place: Place, chance: random.Random) -> Iterator[None]:
    send(place.horses, chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))
    yield


@contextmanager
def _stopped(
    place: Place, _: random.Random, *, who: Callable[[Place], list[int]]
) -> Iterator[None]:
    pids = who(place)
    send(pids, signal.SIGSTOP)
    yield
    send(pids, signal.SIGCONT)


@contextmanager
def _clock_jumps(place: Place, chance: random.Random) -> Iterator[None]:
    seconds = chance.choice([10, 100, 3000]) * chance.choice([1, -1])
    place.clock.write_text(str(seconds))
    yield
    place.clock.write_text("0")


def _worker(place: Place) -> list[int]:
    return [place.process.pid]


def _horse(place: Place) -> list[int]:
    return place.horses


def _both(place: Place) -> list[int]:
    return place.pids


WORKER: dict[str, Fault[Place]] = {
    "a worker is killed": Fault(begin=partial(_killed, with_horse=False), costs_a_job=True),
    "worker and horse are killed": Fault(begin=partial(_killed, with_horse=True), costs_a_job=True),
    "a worker is asked to stop": Fault(begin=_asked_to_stop),
    "a horse is killed": Fault(begin=_horse_killed, weight=4, costs_a_job=True),
    "a horse is stopped": Fault(
        begin=partial(_stopped, who=_horse), lasts_s=(0.5, HANG_S - 2), weight=2
    ),
    "a horse is stopped for too long": Fault(
        begin=partial(_stopped, who=_horse), lasts_s=(HANG_S + 1, HANG_S + 8), costs_a_job=True
    ),
    "a worker is stopped": Fault(begin=partial(_stopped, who=_worker), weight=2, lasts_s=(1, 15)),
    "worker and horse are stopped": Fault(
        begin=partial(_stopped, who=_both), weight=2, lasts_s=(1, 15)
    ),
    "worker and horse are stopped for longer than RQ waits": Fault(
        begin=partial(_stopped, who=_both),
        weight=0.15,
        lasts_s=(_LONG_S, _LONG_S + 10),
        costs_a_job=True,
    ),
    "a clock is set": Fault(begin=_clock_jumps, weight=4, lasts_s=(1, 20)),
}


class FaultInjector(Generic[T]):
    """Does one fault after the other to one thing, with pauses, until it is asked to end.

    Attributes:
        done: fault -> how often it was there.
        harm: the same, for those that may cost a job.
    """

    def __init__(
        self, victim: T, faults: dict[str, Fault[T]], chance: random.Random, pause_s: float
    ) -> None:
        self.done: Counter[str] = Counter()
        self.harm: Counter[str] = Counter()
        self._victim, self._faults, self._chance = victim, faults, chance
        self._pause_s = pause_s
        self._present = ExitStack()
        self.is_there = False
        self._next = time.monotonic() + self._pause_s

    def step(self) -> None:
        """Begin or end a fault, if it is time to."""
        if time.monotonic() < self._next:
            return
        if self.is_there:
            self.end()
            self._next = time.monotonic() + self._chance.uniform(0.2, 2.0) * self._pause_s
            return
        names: Sequence[str] = list(self._faults)
        (name,) = self._chance.choices(names, [it.weight for it in self._faults.values()])
        fault = self._faults[name]
        self.done[name] += 1
        if fault.costs_a_job:
            self.harm[name] += 1
        lasts_s = self._chance.uniform(*fault.lasts_s)
        self._present.enter_context(fault.begin(self._victim, self._chance))
        self.is_there = True
        self._next = time.monotonic() + lasts_s

    def end(self) -> None:
        """End the fault that is there."""
        self._present.close()
        self.is_there = False
