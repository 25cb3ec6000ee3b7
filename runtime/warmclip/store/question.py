"""Questions: what somebody waits for, so that a server has a few seconds for all of it together.

A question is several requests: which collection a name leads to, which pictures are nearest. They
share one budget of time. It is spent while the store is asked only: a model that computes in
between costs nothing of it. All other work, such as indexing, has the patience of its calls.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

QUESTION_S = 4.0
"""For one question: whoever asks is told of an outage within 5 s."""


class Budget:
    """The time that a question's requests may take together."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._spent_s = 0.0
        self._asking_since: float | None = None

    @property
    def spent_s(self) -> float:
        """How long the store has been asked until now."""
        if self._asking_since is None:
            return self._spent_s
        return self._spent_s + time.monotonic() - self._asking_since

    @property
    def left_s(self) -> float:
        """What is left; not above 0 if nothing is."""
        return self.seconds - self.spent_s

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Ask the store: the time of this block is spent."""
        self._asking_since = time.monotonic()
        try:
            yield
        finally:
            self._spent_s, self._asking_since = self.spent_s, None


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def question(seconds: float = QUESTION_S) -> Iterator[None]:
    """Ask a question: what is left of its budget bounds each wait for a server in this block.

    A question within a question shares the outer budget. Other threads have none.

    Raises:
        StoreUnreachable: in the block, when the server does not answer in time, or has not in what
            is left of the budget.
    """
    if _budget.get() is not None:
        yield
        return
    token = _budget.set(Budget(seconds))
    try:
        yield
    finally:
        _budget.reset(token)


def current_budget() -> Budget | None:
    """The budget of the question that is asked in this thread; None: none is."""
    return _budget.get()
