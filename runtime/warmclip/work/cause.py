"""What a death was due to: one picture, the provider, or something that must be looked at again."""

import signal
from dataclasses import dataclass
from enum import Enum

from warmclip.children import signal_name
from warmclip.work.horse.in_flight import InFlight

# Sent by people and by a system short of memory; the others come out of the process itself.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a horse ended, and what it was at."""

    returncode: int  # as Popen tells it: a signal is negative
    flight: InFlight
    provider: str  # that was at work, else that of its image tower; empty before it had one
    hung_s: float | None = None  # killed by us, after so long a silence
    overran: bool = False  # killed by us, as the job's time was up
    on_command: bool = False  # killed by us, as somebody asked for it
    said: str = ""  # why it left by itself, in its own words

    @property
    def from_outside(self) -> bool:
        """Whether somebody else may have killed it."""
        killed_by_us = self.hung_s is not None or self.overran
        return not killed_by_us and -self.returncode in _FROM_OUTSIDE

    @property
    def suspect(self) -> str | None:
        """The one picture in flight while nothing else was; "" is one without a name."""
        images = self.flight.images
        return images[0] if len(images) == 1 and not self.flight.native else None

    def __str__(self) -> str:
        if self.hung_s is not None:
            how = f"hung: no sign of life for {self.hung_s:.0f} s, so it was killed"
        elif self.said:
            how = f"left: {self.said}"
        elif self.overran:
            how = "ran past the job's time and was killed"
        elif self.on_command:
            how = "was killed on command"
        elif self.returncode < 0:
            number = -self.returncode
            how = f"died by signal {number} ({signal_name(number)})"
            if number == signal.SIGKILL:
                how += ", sent by somebody or by a system short of memory"
        else:
            how = f"left with exit code {self.returncode}"
        return f"the horse {how}; provider {self.provider or 'none yet'}; it was {self.flight}"


class Cause(Enum):
    """Who pays for a death."""

    IMAGE = "the one picture that was in flight"
    UNCLEAR = "it may have been a picture: once more, one at a time"
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
        return Cause.IMAGE if not death.from_outside or strikes >= 2 else Cause.UNCLEAR
    return Cause.UNCLEAR if death.flight.images and not careful else Cause.OTHER
