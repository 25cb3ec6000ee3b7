"""What a worker's record says of it, and which horses are left over."""

import pytest

from warmclip.process_table import Process
from warmclip.work.liveness import describe_stage, is_leftover, this_machine, worker_fields

HORSE = "-m warmclip.work.horse 3 4"


def test_fields_of_a_worker() -> None:
    """What a worker's record has of ours."""
    fields = worker_fields(7, ["a", "b"], "no bundle")
    assert fields == {
        "machine": this_machine(),
        "horse": 7,
        "models": "a,b",
        "trouble": "no bundle",
    }
    assert describe_stage((0, 4, "loading")) == "loading, 1 of 4"


@pytest.mark.parametrize(
    ("parent", "command", "is_left"),
    [
        (1, f"python -P {HORSE} --worker=7", True),
        (1, f"python -P {HORSE} --worker=17", True),
        (7, f"python -P {HORSE} --worker=7", False),
        (1, f"python -P {HORSE} --worker=1", False),  # a container with one worker
        (1, f"python -P {HORSE}", False),
        (1, "warmclip worker --worker=7", False),
        (1, "", False),
    ],
)
def test_what_is_left(parent: int, command: str, is_left: bool) -> None:
    """A horse whose parent is not the worker that started it, whoever the parent is."""
    assert is_leftover(Process(parent=parent, state="S", command=command)) is is_left
    assert not is_leftover(None)
