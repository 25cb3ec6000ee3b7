"""What follows from a horse's death: for the picture, the provider and the job.

``decide`` is the whole policy, as a pure function. ``CrashPolicy`` keeps what a worker has counted,
and carries the decisions out.
"""

import logging
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rq.exceptions import DeserializationError
from rq.job import Job

from warmclip.children import signal_name
from warmclip.errors import SettingsError
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.work.allowlist import FUNCTIONS
from warmclip.work.horse.in_flight import InFlight
from warmclip.work.naming import job_name
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles

log = logging.getLogger(__name__)

_MOST_DEATHS = 3  # of one attempt, besides those that set a picture aside
_MOST_STRIKES = 2  # kills from outside that hit the same picture; the next one blames it

# Sent by people and by a system short of memory; the others come out of the process itself.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


DEATHS = ("hung", "overran", "hung_up", "on_command", "signal", "exit")
"""Every kind of death."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a horse ended, and what it had in flight."""

    returncode: int  # as Popen tells it: a signal is negative
    in_flight: InFlight
    provider: str  # that computed, else that of its image tower; empty before it had one
    hung_s: float | None = None  # killed by us, after so long a silence
    overran_s: float | None = None  # killed by us, as it ran past a time-out of so long
    has_hung_up: bool = False  # killed by us, as it closed its pipe and lived on
    on_command: bool = False  # killed by us, as somebody asked for it
    said: str = ""  # why it left by itself, in its own words

    @property
    def kind(self) -> str:
        """How it ended, in a word, for monitoring."""
        if self.hung_s is not None:
            return "hung"
        if self.overran:
            return "overran"
        if self.has_hung_up:
            return "hung_up"
        if self.on_command:
            return "on_command"
        return "signal" if self.returncode < 0 else "exit"

    @property
    def overran(self) -> bool:
        """Whether the job's time was up."""
        return self.overran_s is not None

    @property
    def from_outside(self) -> bool:
        """Whether somebody else may have killed it."""
        killed_by_us = self.hung_s is not None or self.overran or self.has_hung_up
        return not killed_by_us and -self.returncode in _FROM_OUTSIDE

    @property
    def suspect(self) -> str | None:
        """The one picture in flight while nothing else was; "" is one without a name."""
        images = self.in_flight.images
        return images[0] if len(images) == 1 and not self.in_flight.native_calls else None

    def __str__(self) -> str:
        if self.hung_s is not None:
            how = (
                f"hung: no sign of life for {self.hung_s:.0f} s, so it was killed "
                "(WARMCLIP_HANG_SECONDS says how long it may be silent)"
            )
        elif self.overran_s is not None:
            how = f"ran past the job's time-out of {self.overran_s:.0f} s and was killed"
        elif self.has_hung_up:
            how = "closed its pipe to the worker, as a job may that closes descriptors"
        elif self.said:
            how = f"left: {self.said}"
        elif self.on_command:
            how = "was killed on command"
        elif self.returncode < 0:
            number = -self.returncode
            how = f"died by signal {number} ({signal_name(number)})"
            if number == signal.SIGKILL:
                how += ", sent by somebody or by a system short of memory"
        else:
            how = f"left with exit code {self.returncode}"
        return f"the horse {how}; provider {self.provider or 'none yet'}; it was {self.in_flight}"


class Cause(Enum):
    """What a death was due to."""

    IMAGE = "the one picture that was in flight"
    UNCLEAR = "it may have been a picture: run again, one at a time, to find out"
    OTHER = "no picture: the provider, or the job"


def diagnose(death: Death, *, careful: bool, strikes: int) -> Cause:
    """Say what a death was due to.

    Args:
        death: its signal, and what was in flight.
        careful: whether pictures were decoded one at a time, with nothing else going on.
        strikes: how often its only suspect has been one before.
    """
    if death.overran:  # it was slow, careful perhaps: no picture's fault
        return Cause.OTHER
    if death.suspect:
        # A kill from outside hits whatever is in flight: it takes three to make a pattern.
        is_pattern = not death.from_outside or strikes >= _MOST_STRIKES
        return Cause.IMAGE if is_pattern else Cause.UNCLEAR
    return Cause.UNCLEAR if death.in_flight.images and not careful else Cause.OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequences:
    """What a worker does after a death."""

    set_aside: str | None = None  # a picture's path: it is not decoded again
    strike: str | None = None  # a picture's path: it was the only suspect once more
    crashed: str | None = None  # the provider that the death counts against
    quarantine: bool = False  # whether the next horse goes without that provider
    careful: bool  # whether pictures are decoded one at a time from now on
    deaths: int  # of this attempt that count
    run_again: bool  # at once; else the job fails, or is retried as RQ was told


def decide(
    death: Death,
    *,
    careful: bool,
    strikes: int,
    deaths: int,
    crashes: int,
    max_crashes: int,
    is_ours: bool,
) -> Consequences:
    """Say what follows from a death under a job.

    Only our own functions are run again, as they may run twice without harm, and what the horse
    had not begun with. For others RQ's rule holds: retried if the job says so, else failed. So it
    does for all when somebody had the horse killed: neither picture nor provider is to blame.

    Args:
        death: how the horse ended.
        careful: whether pictures were decoded one at a time.
        strikes: how often the death's only suspect has been one before.
        deaths: of this attempt that count so far.
        crashes: in a row that count against the provider that computed.
        max_crashes: of one provider in a row; so many quarantine it.
        is_ours: whether the job names a function of warmclip's own.
    """
    if death.on_command:
        return Consequences(careful=careful, deaths=deaths, run_again=False)
    cause = diagnose(death, careful=careful, strikes=strikes)
    counted = deaths if cause is Cause.IMAGE else deaths + 1
    crashed = _crashed_provider(death) if cause is Cause.OTHER else None
    return Consequences(
        set_aside=death.suspect if cause is Cause.IMAGE else None,
        strike=(death.suspect or None) if cause is Cause.UNCLEAR else None,
        crashed=crashed,
        quarantine=crashed is not None and crashes + 1 >= max_crashes,
        careful=careful or cause is not Cause.OTHER,
        deaths=counted,
        run_again=(is_ours or not death.in_flight.begun) and counted <= _MOST_DEATHS,
    )


def _crashed_provider(death: Death) -> str | None:
    """The provider that was loading or computing, unless the job's time was up."""
    return None if death.overran else death.in_flight.provider


class CrashPolicy:
    """Counts, for one worker, what deaths have taught, and carries decisions out."""

    def __init__(
        self, poisoned_files: PoisonedFiles, quarantine: Quarantine, *, max_crashes: int
    ) -> None:
        """Nothing has died yet.

        Args:
            poisoned_files: where pictures go that kill whoever decodes them.
            quarantine: where providers go that crash too often.
            max_crashes: of one provider in a row.
        """
        self._poisoned_files = poisoned_files
        self._quarantine = quarantine
        self._max_crashes = max_crashes
        self._strikes: Counter[str] = Counter()
        self._crashes: Counter[str] = Counter()

    def begin(self, job: Job) -> "Attempt":
        """One attempt at one job."""
        return Attempt(self, job)

    def on_success(self) -> None:
        """A horse has answered: crashes before that are not in a row with later ones."""
        self._crashes.clear()

    def on_failed_start(self, death: Death) -> None:
        """A horse died before it was ready: that counts against the provider it was loading."""
        crashed = _crashed_provider(death)
        if crashed is not None:
            self._count(crashed, death, self._crashes[crashed] + 1 >= self._max_crashes)

    def decide(self, death: Death, *, careful: bool, deaths: int, is_ours: bool) -> Consequences:
        """``decide``, with what was counted so far."""
        return decide(
            death,
            careful=careful,
            strikes=self._strikes[death.suspect or ""],
            deaths=deaths,
            crashes=self._crashes[death.in_flight.provider or ""],
            max_crashes=self._max_crashes,
            is_ours=is_ours,
        )

    def apply(self, consequences: Consequences, death: Death, job: Job) -> bool:
        """Carry out what concerns pictures and providers; returns whether all could be done."""
        if consequences.strike is not None:
            self._strikes[consequences.strike] += 1
        if consequences.crashed is not None:
            self._count(consequences.crashed, death, consequences.quarantine)
        if consequences.set_aside is not None:
            return self._set_aside(consequences.set_aside, death, job)
        return True

    def _count(self, provider: str, death: Death, quarantine: bool) -> None:
        self._crashes[provider] += 1
        if not quarantine:
            return
        reason = f"{self._crashes[provider]} crashes in a row, the last: {death}"
        try:
            self._quarantine.add(provider, reason)
        except (OSError, SettingsError) as exc:  # a full disk: the next horse tries it again
            log.warning("cannot put %s into quarantine: %s", provider, exc)

    def _set_aside(self, path: str, death: Death, job: Job) -> bool:
        del self._strikes[path]
        file = PoisonedFile.describe(path, str(death), job=job.id, collection=_collection_of(job))
        if not self._poisoned_files.add(file):
            log.error("too many pictures are set aside already; see `warmclip status --dead`")
            return False
        log.error("%r is set aside: %s", path, death)
        return True


class Attempt:
    """What is known of one attempt at a job.

    Attributes:
        careful: whether pictures are decoded one at a time, with nothing else going on.
    """

    def __init__(self, policy: CrashPolicy, job: Job) -> None:
        self.careful = False
        self._policy = policy
        self._attempted = job
        self._deaths = 0

    def on_crash(self, death: Death) -> bool:
        """Decide what follows, and do it; returns whether to run the job again at once."""
        consequences = self._policy.decide(
            death, careful=self.careful, deaths=self._deaths, is_ours=is_ours(self._attempted)
        )
        self.careful = consequences.careful
        self._deaths = consequences.deaths
        return self._policy.apply(consequences, death, self._attempted) and consequences.run_again


def is_ours(job: Job) -> bool:
    """Whether a job names a function of warmclip's own."""
    try:
        return job.func_name in FUNCTIONS
    except DeserializationError:
        return False


def _collection_of(job: Job) -> str | None:
    """The collection that a job indexes into."""
    if not is_ours(job) or job.func_name != job_name("index_images"):
        return None
    arguments: Mapping[str, Any] = {
        **dict(zip(("paths", "collection"), job.args, strict=False)),
        **job.kwargs,
    }
    collection = arguments.get("collection")
    return collection if isinstance(collection, str) else None
