"""Time-outs of less than a second, which RQ does not know: a million seconds, and so many ticks."""

import signal

from rq.timeouts import UnixSignalDeathPenalty

MILLION = 1_000_000
TICKS = 100_000  # of a second


def enter() -> None:
    """Let a job's time-out of more than a million seconds be the ticks beyond that."""
    set_up = UnixSignalDeathPenalty.setup_death_penalty

    def set_up_in_ticks(self: UnixSignalDeathPenalty) -> None:
        set_up(self)  # type: ignore[no-untyped-call]  # rq's is not annotated
        if self._timeout > MILLION:
            signal.setitimer(signal.ITIMER_REAL, (self._timeout - MILLION) / TICKS)

    UnixSignalDeathPenalty.setup_death_penalty = set_up_in_ticks  # type: ignore[method-assign]
