"""What a step of a session does, as far as that is planned without Redis."""

import pytest

from warmclip.work.sessions.progress import StepPlan


@pytest.mark.parametrize("half", [StepPlan(take_back=(1, 2)), StepPlan(relist=(1, 2))])
@pytest.mark.parametrize("count", [3, 4])
def test_step_that_is_disturbed(half: StepPlan, count: int) -> None:
    """Its plan has half as many jobs, and one in the end; what ended and the room are left."""
    jobs = tuple(range(1, count + 1))
    whole = StepPlan(
        ended=(7, 8, 9),
        take_back=jobs if half.take_back else (),
        relist=jobs if half.relist else (),
        room=5,
    )
    once = whole.halved()
    assert (once.take_back, once.relist) == (half.take_back, half.relist)
    assert (once.ended, once.room) == (whole.ended, whole.room)
    last = once.halved().halved()
    assert last.take_back + last.relist == (1,)


def test_step_of_nothing() -> None:
    """There is nothing to be done, whole or halved."""
    assert StepPlan().is_empty
    assert StepPlan().halved().is_empty
    for plan in (StepPlan(ended=(0,)), StepPlan(take_back=(0,)), StepPlan(relist=(0,))):
        assert not plan.is_empty
    assert not StepPlan(room=1).is_empty
