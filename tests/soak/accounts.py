"""What was sent, what became of it, and what that breaks of what was promised."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

DIED = ("warmclip.errors.HorseDied", "rq.exceptions.AbandonedJobError")
"""How the reason of a job begins whose process was killed or hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One job as it was sent.

    Attributes:
        id: of the job.
        kind: what it is called in the summary.
        fails_with: how the reasons begin that it may fail with although nobody did it harm; empty
            for a job that succeeds.
        must_fail: whether it cannot succeed.
        retries: how often RQ may run it again.
        leaves_a_line: whether each of its runs leaves a line behind.
        pictures: that it indexes.
    """

    id: str
    kind: str
    fails_with: tuple[str, ...] = ()
    must_fail: bool = False
    retries: int = 0
    leaves_a_line: bool = True
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: RQ's; None without a record.
        results: how many outcomes RQ has of it.
        reason: why it failed, its last line.
        runs: the lines that it left.
    """

    status: str | None
    results: int = 0
    reason: str = ""
    runs: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in ("finished", "failed") and self.results > 0

    @property
    def died(self) -> bool:
        """Whether its process was killed, and it failed by that."""
        return self.status == "failed" and self.reason.startswith(DIED)


def broken_promises(sent: Sent, outcome: Outcome) -> Iterator[str]:
    """What a job's outcome breaks, in words; nothing if it is accounted for exactly once."""
    if outcome.status is None:
        yield "it is lost: there is no record of it"
        return
    if not outcome.is_over:
        yield f"it has not ended: it is {outcome.status}, with {outcome.results} outcomes"
        return
    if outcome.results != 1:
        yield f"it has {outcome.results} outcomes"
    if sent.leaves_a_line:
        least = 0 if outcome.died else 1
        if not least <= outcome.runs <= 1 + sent.retries:
            yield f"it is {outcome.status} and has run {outcome.runs} times"
    if outcome.status == "finished":
        if sent.must_fail:
            yield "it has succeeded and cannot"
    elif not outcome.reason:
        yield "it failed without a reason"
    elif not outcome.reason.startswith((*DIED, *sent.fails_with)):
        yield f"it failed by itself: {outcome.reason}"


def unexplained_deaths(
    jobs: Iterable[tuple[Sent, Outcome]], harm: Mapping[str, int]
) -> Iterator[str]:
    """Say it if more jobs died with their process than can have: each harm costs one at most.

    Args:
        jobs: with their outcomes.
        harm: fault -> how often it killed a process, or held one for long enough to be given up.
    """
    died, harmed = sum(outcome.died for _, outcome in jobs), sum(harm.values())
    if died > harmed:
        yield f"{died} jobs died with their process, and only {harmed} times one was harmed"
