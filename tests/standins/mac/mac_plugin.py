"""For pytest, in a rehearsal of macOS: what only a Mac can do is skipped, and names are compared.

APFS takes "A.png" and "a.png" for one file, which Linux cannot be made to do.
"""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

# The file system, the processes and the frameworks of this machine stay those of Linux.
_ONLY_ON_A_MAC = {
    "test_file_renamed_in_case_only": "this file system tells case apart",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot pass here, by name and with the reason."""
    for item in items:
        if reason := _ONLY_ON_A_MAC.get(getattr(item, "originalname", item.name)):
            item.add_marker(pytest.mark.skip(reason=f"rehearsal: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fail a test that makes two files which are one on a Mac."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if folder is not None:
        collisions = list(_collisions(folder))
        assert not collisions, f"one file on APFS: {collisions}"
    return (yield)


def _collisions(top: Path) -> Iterator[tuple[str, str]]:
    for folder, below, files in os.walk(top):
        seen: dict[str, str] = {}
        for name in (*below, *files):
            folded = unicodedata.normalize("NFD", name).casefold()
            if folded in seen:
                yield f"{folder}/{seen[folded]}", name
            seen[folded] = name
