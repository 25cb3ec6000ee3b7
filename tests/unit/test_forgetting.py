"""Reports of what was forgotten: several make one, and none is read that says something else."""

import itertools
from typing import Any

import pytest

from warmclip.indexing.forgetting import ForgetReport, find_outermost


def test_several_reports_are_one() -> None:
    """People see what all jobs forgot together, and whether the last one left anything."""
    first = ForgetReport(collection="c", pictures=5, kept=7, refused=3, complete=False)
    last = ForgetReport(collection="c", pictures=2, kept=4, refused=6, complete=True)
    assert first + last == ForgetReport(
        collection="c", pictures=7, kept=11, refused=9, complete=True
    )
    assert not (last + first).complete
    assert ForgetReport.from_dict(first.to_dict()) == first


@pytest.mark.parametrize(
    "changed",
    [{"pictures": True}, {"kept": 1.0}, {"refused": None}, {"complete": 1}, {"collection": 1}],
)
def test_answer_of_another_program(changed: dict[str, Any]) -> None:
    """It is no report, though it has all the fields."""
    raw = ForgetReport(collection="c").to_dict()
    with pytest.raises(TypeError, match=next(iter(changed))):
        ForgetReport.from_dict(raw | changed)
    with pytest.raises(KeyError):
        ForgetReport.from_dict({"collection": "c"})


def test_outermost_paths() -> None:
    """What lies below another path is not named twice, in whatever order they come."""
    for paths in itertools.permutations(["/a/b", "/a", "/a/b/c.jpg", "/ab", "/a"]):
        assert sorted(find_outermost(paths)) == ["/a", "/ab"]
