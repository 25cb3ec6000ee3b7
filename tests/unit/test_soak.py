"""What the long run of `make soak` takes for a broken promise: a run that sees none proves little
if it could not see one.
"""

from collections import Counter

import pytest

from soak.accounts import Outcome, Sent, broken_promises, unexplained_deaths

COUNTS = Sent(id="a", kind="counts")
FAILS = Sent(id="b", kind="fails", fails_with=("ValueError: ",), must_fail=True)
RETRIED = Sent(id="c", kind="may be retried", retries=2)
EMBEDS = Sent(id="d", kind="embeds", leaves_a_line=False)

DONE = Outcome(status="finished", results=1, runs=1)
FAILED = Outcome(status="failed", results=1, runs=1, reason="ValueError: 5")
KILLED = Outcome(status="failed", results=1, reason="warmclip.errors.HorseDied: the horse died")


@pytest.mark.parametrize(
    ("sent", "outcome", "expected"),
    [
        (COUNTS, DONE, ""),
        (COUNTS, KILLED, ""),
        (COUNTS, Outcome(status="failed", results=1, runs=1, reason=KILLED.reason), ""),
        (COUNTS, Outcome(status=None), "lost"),
        (COUNTS, Outcome(status="queued"), "not ended"),
        (COUNTS, Outcome(status="started"), "not ended"),
        (COUNTS, Outcome(status="finished", runs=1), "not ended"),
        (COUNTS, Outcome(status="finished", results=2, runs=1), "2 outcomes"),
        (COUNTS, Outcome(status="finished", results=1, runs=2), "run 2 times"),
        (COUNTS, Outcome(status="finished", results=1, runs=0), "run 0 times"),
        (COUNTS, Outcome(status="failed", results=1, runs=2, reason=KILLED.reason), "run 2"),
        (COUNTS, FAILED, "failed by itself"),
        (COUNTS, Outcome(status="failed", results=1, runs=1), "without a reason"),
        (FAILS, FAILED, ""),
        (FAILS, KILLED, ""),
        (FAILS, DONE, "cannot"),
        (FAILS, Outcome(status="failed", results=1, runs=0, reason="ValueError: 5"), "run 0"),
        (RETRIED, Outcome(status="finished", results=1, runs=3), ""),
        (RETRIED, Outcome(status="finished", results=1, runs=4), "run 4 times"),
        (EMBEDS, Outcome(status="finished", results=1), ""),
    ],
)
def test_broken_promises(sent: Sent, outcome: Outcome, expected: str) -> None:
    """A job has ended once, has run as often as it may, and fails for a reason only."""
    found = list(broken_promises(sent, outcome))
    assert len(found) == bool(expected)
    assert expected in " ".join(found)


@pytest.mark.parametrize(("harmed", "told"), [(1, True), (2, False), (3, False)])
def test_more_deaths_than_harm(harmed: int, told: bool) -> None:
    """Jobs whose process died although nobody harmed it."""
    jobs = [(COUNTS, KILLED), (FAILS, KILLED), (FAILS, FAILED), (COUNTS, DONE)]
    assert bool(list(unexplained_deaths(jobs, Counter(kills=harmed)))) is told
