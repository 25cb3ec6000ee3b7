"""An export looks for room on the disk of the bundle before it begins."""

import os
import tempfile
from pathlib import Path

import pytest

from small_disk import small_disk
from standins.disk import free_blocks
from warmclip_export.errors import ExportRefused
from warmclip_export.writer import check_target_room


def test_leftovers_are_no_room_that_is_missing(tmp_path: Path) -> None:
    """They are swept before room is looked for, on whatever disk the temporary folder is."""
    leftover = tmp_path / ".tmp-m-999999999"
    leftover.mkdir()
    check_target_room(tmp_path / "m", 1, 1)
    assert not leftover.exists()
    with pytest.raises(ExportRefused, match=rf"{tmp_path} has .* takes about 1000000000\.00 GB"):
        check_target_room(tmp_path / "x" / "m", 10**18, 0)


@pytest.mark.parametrize("other", [True, False])
def test_temporary_folder_on_the_disk_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    """What is written there counts only if it is the same disk."""
    with small_disk(tmp_path / "disk", 8) as disk:
        target = (disk.folder if other else tmp_path) / "m"
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(os, "statvfs", free_blocks(10, block_bytes=1))
        check_target_room(target, 10, 10 if other else 0)
        with pytest.raises(ExportRefused, match="same disk" if not other else "there: make room"):
            check_target_room(target, 11 if other else 10, 1)
