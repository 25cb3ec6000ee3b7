"""What is read of a session's keys, in which anybody may have written."""

import pytest

from warmclip.work.sessions.store import folder_key, parse_chunk, parse_numbers, parse_pair


@pytest.mark.parametrize(
    ("members", "numbers", "strays"),
    [
        ([], [], []),
        ([b"10", b"9", "2"], [2, 9, 10], []),
        ([b"9" * 12, b"9" * 13], [10**12 - 1], [b"9" * 13]),
        ([b"-1", b"x", b"", b"\xff", "\u0663"], [], [b"-1", b"x", b"", b"\xff", "\u0663"]),
    ],
)
def test_numbers(members: list[bytes | str], numbers: list[int], strays: list[object]) -> None:
    """In order; what somebody else wrote there is told apart."""
    assert parse_numbers(members) == (numbers, strays)


@pytest.mark.parametrize(
    ("entry", "paths"),
    [
        (b'["/a", "/b"]', ("/a", "/b")),
        (b'["\\udcff"]', ("\udcff",)),
        (b"", ()), (None, ()), (b"x", ()), (b"{}", ()), (b'["/a", 1]', ()), (b"[" * 9999, ()),
        (b'{"/a": 1}', ()),
    ],
)  # fmt: skip
def test_chunk(entry: bytes | None, paths: tuple[str, ...]) -> None:
    """A list of names; nothing else is one."""
    assert parse_chunk(entry) == paths


@pytest.mark.parametrize("entry", [b"x", b"1", b"[1]", b"[1, 2, 3]", b"[" * 9999])
def test_pair_that_is_none(entry: bytes) -> None:
    """It is passed by."""
    assert parse_pair(entry) is None


def test_key_of_a_folder() -> None:
    """One for each folder, collection, and list of what is excluded."""
    keys = {
        folder_key("/a", "b"),
        folder_key("/a", "b", ["c"]),
        folder_key("/a", "b", ["c", "d"]),
        folder_key("/a", "b", ["d", "c"]),
        folder_key("/b", "a"),
        folder_key("/a\udcff", "b"),
    }
    assert len(keys) == 6
    assert folder_key("/a", "b", []) == folder_key("/a", "b")
