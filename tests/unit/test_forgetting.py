"""What is forgotten in one call, and reports of it: several make one."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from standins.points import OTHER, SPACE, point
from warmclip.indexing.forgetting import ForgetReport, find_outermost, forget_pictures
from warmclip.store.qdrant import QdrantStore


def test_several_reports_are_one() -> None:
    """People see what all jobs forgot together, and whether the last one left anything."""
    first = ForgetReport(collection="c", pictures=3, kept=7, refused=3, complete=False)
    last = ForgetReport(collection="c", pictures=2, kept=4, refused=6, complete=True)
    assert first + last == ForgetReport(
        collection="c", pictures=5, kept=11, refused=9, complete=True
    )
    assert not (last + first).complete
    assert ForgetReport(collection="c") + last == last
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


def test_some_of_former_vectors_at_once(tmp_path: Path) -> None:
    """A call deletes so many of all vectors together, those of the former model first."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        store.ensure_collection("images", SPACE)
        store.upsert("images", [point(number) for number in range(9)])
        staged = store.create_collection("images", OTHER)
        store.upsert(staged, [point(number, OTHER) for number in range(9)])
        reports = [forget_pictures(store, "images", ["/photos"], most=most) for most in (12, 12)]
    assert [(it.kept, it.pictures) for it in reports] == [(9, 3), (0, 6)]
    assert [it.complete for it in reports] == [False, True]


def test_outermost_paths() -> None:
    """What lies below another path is not named twice, in whatever order they come."""
    for paths in itertools.permutations(["/a/b", "/a", "/a/b/c.jpg", "/ab", "/a"]):
        assert sorted(find_outermost(paths)) == ["/a", "/ab"]
