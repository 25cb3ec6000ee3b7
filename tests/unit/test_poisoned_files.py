"""Which files a worker refuses: those that were set aside."""

import os
from pathlib import Path

from warmclip.inference.reading import digest_name
from warmclip.work.poisoned_files import KnownPoisonedFiles, PoisonedFile

# It lies in no file.
SENT = PoisonedFile.describe(digest_name(b"1"), "it kills", job="j", collection=None)


def set_aside(path: Path) -> PoisonedFile:
    """A file as it is now."""
    return PoisonedFile.describe(str(path), "it kills", job="j", collection="images")


def test_who_is_refused(tmp_path: Path) -> None:
    """A file as it was when it was set aside; one that was changed since gets another chance."""
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    os.utime(path, (5, 5))
    known = KnownPoisonedFiles()
    assert known.reason(str(path)) is None
    missing = tmp_path / "missing.png"
    known.replace([set_aside(path).to_dict(), set_aside(missing).to_dict(), SENT.to_dict()])
    link = tmp_path / "link.png"
    link.symlink_to(path)
    for name in (str(path), str(link), str(missing), SENT.path):
        assert "was set aside: it kills" in (known.reason(name) or "")
    assert known.reason(digest_name(b"2")) is None
    assert known.reason(str(tmp_path / "other.png")) is None
    os.utime(path, (6, 6))
    assert known.reason(str(path)) is None
    path.write_bytes(b"abcd")
    os.utime(path, (5, 5))
    assert known.reason(str(path)) is None
    missing.write_bytes(b"")
    assert known.reason(str(missing)) is None
    known.replace([])
    assert known.reason(SENT.path) is None
