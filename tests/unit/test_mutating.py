"""What `make mutants` says of a module."""

from typing import Any

import pytest

from mutating import _report


def result(line: int, outcome: str, output: str = "1 failed", change: str = "") -> dict[str, Any]:
    """What became of the mutant of a line."""
    return {
        "mutation": {"start_pos": [line, 0]},
        "test_outcome": outcome,
        "output": output,
        "diff": f"--- a\n+++ b\n-old\n+{change}\n",
    }


def test_module(capsys: pytest.CaptureFixture[str]) -> None:
    """What lives on without a reason is shown; what only ran out of time is told apart."""
    results = [
        result(7, "killed"),
        result(9, "killed", "timeout"),
        result(3, "killed", "timeout"),
        result(5, "survived", "1 passed", "    same =  1"),
        result(6, "survived", "1 passed", "    worse = 2"),
    ]
    left = {"equivalent": {"it is the same": ["same = 1", "gone = 1"]}}
    _report("m.py", results, left, is_sample=True)
    shown, _, said = capsys.readouterr().out.rstrip().rpartition("\n")
    assert shown.startswith("m.py:6 survived\n")
    assert "same" not in shown
    assert said == (
        "m.py: 3 of 5 mutants were noticed, of which 2 ran out of time (lines 3, 9); "
        "equivalent are 1, accepted 0, unexplained 1"
    )
    _report("m.py", results[:1], left, is_sample=False)
    assert capsys.readouterr().out.splitlines() == [
        "m.py: 1 of 1 mutants were noticed; equivalent are 0, accepted 0, unexplained 0",
        "m.py: not left any more: gone = 1",
        "m.py: not left any more: same = 1",
    ]
