"""The budget of a question, by a clock that the test moves."""

from contextlib import suppress

import pytest

from warmclip.store.question import QUESTION_S, Budget, current_budget, question


class Clock:
    """Seconds since some moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("warmclip.store.question.time.monotonic", lambda: self.now_s)


def test_time_is_spent_only_while_the_store_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed in between costs nothing, and a request that fails costs its time."""
    clock = Clock(monkeypatch)
    budget = Budget(10.0)
    clock.now_s += 100
    assert (budget.seconds, budget.spent_s, budget.left_s) == (10, 0, 10)
    with budget.spend():
        clock.now_s += 2
        assert (budget.spent_s, budget.left_s) == (2, 8)
    clock.now_s += 100
    with suppress(TimeoutError), budget.spend():
        clock.now_s += 5
        assert budget.spent_s == 7
        raise TimeoutError
    clock.now_s += 100
    assert (budget.spent_s, budget.left_s) == (7, 3)
    with budget.spend():
        clock.now_s += 4
    assert (budget.spent_s, budget.left_s) == (11, -1)


def test_question_in_a_question() -> None:
    """It has the outer one's budget; after the outer one there is none."""
    assert current_budget() is None
    with question():
        outer = current_budget()
        assert outer is not None
        assert outer.seconds == QUESTION_S < 5  # whoever asks is told of an outage within 5 s
        with question(60.0):
            assert current_budget() is outer
        assert current_budget() is outer
    assert current_budget() is None
    with pytest.raises(ValueError, match="down"), question(2.0):
        raise ValueError("down")
    assert current_budget() is None
