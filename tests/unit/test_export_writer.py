"""A bundle's folder is whole or absent, whatever happens while it is written."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from warmclip_export.errors import ExportRefused
from warmclip_export.writer import file_sha256, staged_bundle, write_file

FULL_DISK = """
import resource, sys
from pathlib import Path
from warmclip_export.errors import ExportRefused
from warmclip_export.writer import staged_bundle, write_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    with staged_bundle(Path(sys.argv[1]), force=True) as folder:
        write_file(folder / "small", b"x")
        write_file(folder / "large", b"x" * 2_000_000)
        write_file(folder / "manifest.json", b"new")
except ExportRefused as exc:
    print(exc)
"""


def _bundle(target: Path, content: bytes, *, force: bool = False) -> None:
    with staged_bundle(target, force=force) as folder:
        write_file(folder / "manifest.json", content)


def _fail(target: Path, failure: type[BaseException]) -> None:
    with staged_bundle(target, force=True) as folder:
        write_file(folder / "manifest.json", b"new")
        raise failure


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_finished_bundle_is_all_that_remains(tmp_path: Path) -> None:
    """The folder appears under its name, and nothing hidden stays beside it."""
    models = tmp_path / "my" / "models"
    _bundle(models / "m", b"new")

    assert _names(models) == ["m"]
    assert (models / "m" / "manifest.json").read_bytes() == b"new"


def test_target_is_absent_while_it_is_written(tmp_path: Path) -> None:
    """A reader never sees half a bundle."""
    with staged_bundle(tmp_path / "m", force=False) as folder:
        write_file(folder / "manifest.json", b"new")
        assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing(failure: type[BaseException], tmp_path: Path) -> None:
    """An error or Ctrl-C removes what was written so far."""
    with pytest.raises(failure):
        _fail(tmp_path / "m", failure)

    assert _names(tmp_path) == []


def test_failure_while_replacing_leaves_the_old_bundle(tmp_path: Path) -> None:
    """With --force, the old bundle is whole until the new one is."""
    _bundle(tmp_path / "m", b"old")

    with pytest.raises(RuntimeError):
        _fail(tmp_path / "m", RuntimeError)

    assert _names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "manifest.json").read_bytes() == b"old"


def test_force_replaces_a_bundle(tmp_path: Path) -> None:
    """The new bundle takes the name, the old one is gone."""
    _bundle(tmp_path / "m", b"old")
    _bundle(tmp_path / "m", b"new", force=True)

    assert _names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "manifest.json").read_bytes() == b"new"


def test_bundle_is_not_replaced_unasked(tmp_path: Path) -> None:
    """Without --force an existing bundle is refused, naming both ways on."""
    _bundle(tmp_path / "m", b"old")

    with pytest.raises(ExportRefused, match="--force"):
        _bundle(tmp_path / "m", b"new")


def test_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    """--force deletes bundles, not somebody's pictures."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "holiday.jpg").write_bytes(b"irreplaceable")

    with pytest.raises(ExportRefused, match="is no bundle"):
        _bundle(tmp_path / "m", b"new", force=True)

    assert _names(tmp_path / "m") == ["holiday.jpg"]


def _fail_to_put_in_place(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Let the last rename fail, as on a disk that went away; returns what was whole just then."""
    real, whole = os.rename, []

    def rename(source: str | Path, target: str | Path) -> None:
        if Path(source).name.startswith(".tmp-"):
            bundles = Path(source).parent.glob("*/manifest.json")
            whole.extend(sorted(path.read_bytes() for path in bundles))
            raise OSError(errno.EIO, "the disk is gone")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    return whole


def test_old_bundle_is_whole_until_the_new_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment of the exchange both are on the disk; if it fails, the old one is back."""
    _bundle(tmp_path / "m", b"old")
    whole = _fail_to_put_in_place(monkeypatch)

    with pytest.raises(ExportRefused, match=r"cannot put the bundle at .*m: the disk is gone"):
        _bundle(tmp_path / "m", b"new", force=True)

    assert whole == [b"new", b"old"]
    assert _names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "manifest.json").read_bytes() == b"old"


def test_failure_without_an_old_bundle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to go back to, and nothing hidden stays."""
    _fail_to_put_in_place(monkeypatch)

    with pytest.raises(ExportRefused, match="the disk is gone"):
        _bundle(tmp_path / "m", b"new")

    assert _names(tmp_path) == []


def _bundle_meanwhile(target: Path, name: str, content: bytes, *, force: bool) -> None:
    """Write a bundle, while somebody else puts a file in its place."""
    with staged_bundle(target, force=force) as folder:
        write_file(folder / "manifest.json", b"new")
        target.mkdir()
        (target / name).write_bytes(content)


@pytest.mark.parametrize("force", [True, False])
def test_target_that_became_a_folder_meanwhile_is_kept(tmp_path: Path, *, force: bool) -> None:
    """The target is looked at again when the new bundle is whole: pictures that were put there
    since are not replaced, with --force either.
    """
    with pytest.raises(ExportRefused, match="is no bundle"):
        _bundle_meanwhile(tmp_path / "m", "holiday.jpg", b"irreplaceable", force=force)

    assert _names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "holiday.jpg").read_bytes() == b"irreplaceable"


def test_bundle_that_another_exporter_made_meanwhile_is_kept(tmp_path: Path) -> None:
    """Two exporters of one name: the first to end keeps it, and the second says so."""
    with pytest.raises(ExportRefused, match="--force"):
        _bundle_meanwhile(tmp_path / "m", "manifest.json", b"first", force=False)

    assert _names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "manifest.json").read_bytes() == b"first"


def test_target_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """What may not be replaced is known before the work begins."""
    (tmp_path / "m").symlink_to(tmp_path / "nowhere")

    with pytest.raises(ExportRefused, match="is no bundle"):
        _fail(tmp_path / "m", RuntimeError)

    assert _names(tmp_path) == ["m"]


def test_record_is_of_what_was_written(tmp_path: Path) -> None:
    """Name, length and digest are those of the file on the disk."""
    with staged_bundle(tmp_path / "m", force=False) as folder:
        record = write_file(folder / "manifest.json", b"content")

    content = (tmp_path / "m" / record.file).read_bytes()
    assert (record.size_bytes, record.sha256) == (7, hashlib.sha256(content).hexdigest())
    assert file_sha256(tmp_path / "m" / record.file) == record.sha256


def test_full_disk_leaves_the_old_bundle_and_one_sentence(tmp_path: Path) -> None:
    """A write that the system cuts short names the file, and nothing half-written stays."""
    _bundle(tmp_path / "m", b"old")

    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "m")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "cannot write large (2 MB)" in child.stdout
    assert _names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "manifest.json").read_bytes() == b"old"


def test_folder_without_permission_is_refused(unprivileged: Path) -> None:
    """The folder that cannot be written to is named."""
    unprivileged.chmod(0o500)

    with pytest.raises(ExportRefused, match=rf"{unprivileged}: Permission denied"):
        _bundle(unprivileged / "m", b"new")


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A file where the models' folder should be is named."""
    (tmp_path / "models").write_bytes(b"")

    with pytest.raises(ExportRefused, match="models"):
        _bundle(tmp_path / "models" / "m", b"new")


def _dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_leftovers_of_killed_exporters_are_swept(tmp_path: Path) -> None:
    """What a killed exporter left goes; what a living one writes stays."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        dead = f".tmp-m-{_dead_pid()}"
        others = [f".tmp-m-{pid}" for pid in (child.pid, os.getppid(), 10**20, f"{child.pid}x")]
        others += [".tmp-n-1", f".old-m-{child.pid}", f".old-n-{_dead_pid()}"]
        for name in (dead, *others):
            (tmp_path / name).mkdir()

        _bundle(tmp_path / "m", b"new")

        assert _names(tmp_path) == sorted([*others, "m"])
        child.communicate(b"\n")
    assert child.returncode == 0  # nothing was done to whoever writes there


def test_file_with_the_name_of_a_leftover(tmp_path: Path) -> None:
    """It is no exporter's: it stays, and costs no export."""
    name = f".tmp-m-{_dead_pid()}"
    (tmp_path / name).write_bytes(b"somebody's")

    _bundle(tmp_path / "m", b"new")

    assert _names(tmp_path) == [name, "m"]


def test_leftover_of_an_earlier_process_of_this_number(tmp_path: Path) -> None:
    """It is no exporter's that lives."""
    (tmp_path / f".tmp-m-{os.getpid()}").mkdir()

    _bundle(tmp_path / "m", b"new")

    assert _names(tmp_path) == ["m"]


def test_old_bundle_comes_back_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    """A replacement that was killed at its worst moment does not lose the old bundle."""
    _bundle(tmp_path / "m", b"old")
    (tmp_path / "m").rename(tmp_path / f".old-m-{_dead_pid()}")

    with pytest.raises(RuntimeError):
        _fail(tmp_path / "m", RuntimeError)

    assert _names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "manifest.json").read_bytes() == b"old"
