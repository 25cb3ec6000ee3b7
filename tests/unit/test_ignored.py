"""Counting the names in folders that are no pictures."""

import pytest

from warmclip.indexing.ignored import (
    MOST_KINDS,
    OTHER,
    add_ignored,
    count_ignored,
    describe_ignored,
    kind_of_name,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.mov", ".mov"),
        ("A.MOV", ".mov"),
        ("a.tar.gz", ".gz"),
        ("README", "without suffix"),
        ("a.", "without suffix"),
        ("11.24 at the sea", "without suffix"),
        ("a.b\nc", "without suffix"),
        ("a." + "x" * 10, "." + "x" * 10),
        ("a.é", "without suffix"),
        ("a." + "x" * 11, "without suffix"),
        (".mov", "without suffix"),
    ],
)
def test_kind(name: str, kind: str) -> None:
    """It is the suffix, whatever its case; what is too odd for one counts as none."""
    assert kind_of_name(name) == kind


def test_too_many_kinds() -> None:
    """They are counted together: whoever makes up suffixes fills neither Redis nor a page."""
    counts: dict[str, int] = {}
    for number in range(1000):
        count_ignored(counts, f".{number}")
    assert len(counts) == MOST_KINDS + 1 == 51
    assert counts[OTHER] == 1000 - MOST_KINDS
    assert len(add_ignored(counts, {".new": 1, ".0": 1})) == MOST_KINDS + 1


def test_two_counts() -> None:
    """They add up by kind."""
    assert add_ignored({".mov": 1, "hidden": 2}, {".mov": 2}) == {".mov": 3, "hidden": 2}


def test_description() -> None:
    """The most frequent come first, and few are told one by one."""
    assert describe_ignored({".psd": 88, "hidden": 3, ".mov": 1204}) == (
        "1,204 .mov, 88 .psd, 3 hidden"
    )
    assert describe_ignored({".b": 2, ".a": 2, ".c": 1}) == "2 .a, 2 .b, 1 .c"
    many = {f".{number}": 100 - number for number in range(12)}
    assert describe_ignored(many).endswith("91 .9, 179 more")
