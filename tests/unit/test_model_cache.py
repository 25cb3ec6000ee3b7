import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from warmclip.errors import SettingsError
from warmclip.fsutil import file_lock
from warmclip.inference.ort.model_cache import COMPLETE, ModelCache, sweep_temporaries


class Compiler:
    """Writes what it was asked for into the folder, and reads what is there."""

    def __init__(self, content: str = "compiled", failures: int = 0) -> None:
        self.content = content
        self.failures = failures
        self.built = 0

    def __call__(self, folder: Path) -> str:
        """What a provider does when its session is made."""
        if self.failures:
            self.failures -= 1
            raise RuntimeError("Error compiling model")
        model = folder / "model"
        if not model.exists():  # as CoreML's own cache decides
            self.built += 1
            model.write_text(self.content)
        content = model.read_text()
        if content != self.content:
            raise RuntimeError("Feature is required but not specified")
        return content


def test_built_once(tmp_path: Path) -> None:
    """The second load finds what the first has made."""
    compiler = Compiler()
    for _ in range(2):
        assert ModelCache(tmp_path).load({"batch": 8}, compiler) == "compiled"
    assert compiler.built == 1


@pytest.mark.parametrize("other", [{"batch": 1}, {"batch": 8, "onnxruntime": "1.33.0"}])
def test_each_combination_has_a_folder(tmp_path: Path, other: dict[str, object]) -> None:
    """Another batch, version or graph never gets this one's model."""
    cache = ModelCache(tmp_path)
    cache.load({"batch": 8}, Compiler("one"))
    assert cache.load(other, Compiler("another")) == "another"


def test_interrupted_build_is_no_model(tmp_path: Path) -> None:
    """A folder without its marker is what a killed process left: it is made anew."""
    cache = ModelCache(tmp_path)
    cache.load({}, Compiler())
    (marker,) = cache.folder.glob(f"*/{COMPLETE}")
    marker.unlink()
    (marker.parent / "model").write_text("half")
    compiler = Compiler()
    assert cache.load({}, compiler) == "compiled"
    assert compiler.built == 1


def test_broken_entry_is_built_once_more(tmp_path: Path) -> None:
    """What cannot be loaded any more is removed, and the user waits instead of failing."""
    cache = ModelCache(tmp_path)
    cache.load({}, Compiler())
    (model,) = cache.folder.glob("*/model")
    model.write_text("of another version")
    assert cache.load({}, Compiler()) == "compiled"


def test_model_that_cannot_be_compiled(tmp_path: Path) -> None:
    """The provider's own error comes through, and leaves no entry behind."""
    cache = ModelCache(tmp_path)
    with pytest.raises(RuntimeError, match="Error compiling"):
        cache.load({}, Compiler(failures=2))
    assert [path for path in cache.folder.iterdir() if path.is_dir()] == []
    assert cache.load({}, Compiler()) == "compiled"


def test_two_processes_build_one_model(tmp_path: Path) -> None:
    """The second waits for the first, and builds nothing."""
    code = """
import sys, time
from pathlib import Path
from warmclip.inference.ort.model_cache import ModelCache
def compile(folder):
    if not (folder / "model").exists():
        (folder / "model").write_text("half")
        time.sleep(1)
        (folder / "model").write_text("whole")
        print("built")
    assert (folder / "model").read_text() == "whole"
ModelCache(Path(sys.argv[1])).load({}, compile)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(told) == ["", "built\n"]


def test_home_with_a_space(tmp_path: Path) -> None:
    """CoreML reads a path as a URL, so its cache lies elsewhere then."""
    home = tmp_path / "my home"
    cache = ModelCache(home)
    assert " " not in str(cache.folder)
    assert not cache.folder.is_relative_to(home)
    assert ModelCache(tmp_path / "home").folder.is_relative_to(tmp_path / "home")


def test_folder_that_others_may_write(tmp_path: Path) -> None:
    """Nothing is deleted there, and no link of theirs is followed where a lock is to be."""
    cache = ModelCache(tmp_path)
    cache.load({}, Compiler())
    (lock,) = cache.folder.glob(".*.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    cache.remove({})
    assert cache.has({})
    lock.unlink()
    cache.folder.chmod(0o777)
    cache.remove({})
    assert cache.has({})
    assert not lock.exists()
    cache.folder.chmod(0o700)
    cache.remove({})
    assert not cache.has({})
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a link of somebody else's")
def test_link_of_somebody_else(tmp_path: Path) -> None:
    """In a folder of all users it leads to a folder of ours, in which nothing may be swept."""
    precious = tmp_path / "documents" / "precious"
    precious.mkdir(parents=True)
    cache = ModelCache(tmp_path / "home")
    cache.folder = tmp_path / "warmclip-0"
    cache.folder.symlink_to(precious.parent)
    os.chown(cache.folder, 12345, 12345, follow_symlinks=False)
    with pytest.raises(SettingsError, match="a link of the user with the number 12345"):
        cache.load({}, Compiler())
    assert list(precious.parent.iterdir()) == [precious]
    os.chown(cache.folder, os.geteuid(), os.getegid(), follow_symlinks=False)
    assert cache.load({}, Compiler()) == "compiled"


def test_unused_models_go(tmp_path: Path) -> None:
    """The cache is bounded: what a month has not seen is removed when something is built."""
    cache = ModelCache(tmp_path)
    cache.load({"version": 1}, Compiler())
    (marker,) = cache.folder.glob(f"*/{COMPLETE}")
    month_ago = time.time() - 31 * 24 * 3600
    os.utime(marker, (month_ago, month_ago))
    cache.load({"version": 2}, Compiler())
    assert not marker.exists()
    assert len(list(cache.folder.glob(f"*/{COMPLETE}"))) == 1


def test_half_built_models_go(tmp_path: Path) -> None:
    """What a killed process left goes when something is built, unless a process is at it now."""
    cache = ModelCache(tmp_path)
    cache.load({"version": 1}, Compiler())
    (marker,) = cache.folder.glob(f"*/{COMPLETE}")
    marker.unlink()
    with file_lock(cache.folder / f".{marker.parent.name}.lock"):
        cache.load({"version": 2}, Compiler())
        assert marker.parent.exists()
    cache.load({"version": 3}, Compiler())
    assert not marker.parent.exists()
    assert len(list(cache.folder.glob(f"*/{COMPLETE}"))) == 2


def test_killed_builder(tmp_path: Path) -> None:
    """Its lock goes with it: the next process builds at once, from nothing."""
    code = """
import os, signal, sys
from pathlib import Path
from warmclip.inference.ort.model_cache import ModelCache
def compile(folder):
    (folder / "model").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
ModelCache(Path(sys.argv[1])).load({}, compile)
"""
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL
    assert ModelCache(tmp_path).load({}, Compiler(), patience_s=1) == "compiled"


def test_builder_that_does_not_move(tmp_path: Path) -> None:
    """Nobody waits for it longer than they want to."""
    cache = ModelCache(tmp_path)
    cache.load({}, Compiler())
    (lock,) = cache.folder.glob(".*.lock")
    with file_lock(lock), pytest.raises(TimeoutError, match="another process holds"):
        cache.load({}, Compiler(), patience_s=0.1)


def test_stale_temporaries_are_swept(tmp_path: Path) -> None:
    """Killed processes leave whole models; what is young, a link, or another name stays."""
    name = "onnxruntime-9B1D6A5E-3F0C-4C5B-8B5A-7D3F0E2C1A9{}"
    old, young, link = (tmp_path / name.format(digit) for digit in "012")
    other = tmp_path / "onnxruntime-mine"
    trial = tmp_path / "warmclip-trial-b3k_x9aq"
    for folder in (old, young, other, trial):
        (folder / "model").mkdir(parents=True)
    target = tmp_path / "precious"
    target.mkdir()
    link.symlink_to(target)
    for path in (old, other, target, trial):
        os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    assert sorted(sweep_temporaries(tmp_path)) == [old, trial]
    assert young.exists()
    assert other.exists()
    assert link.is_symlink()
    assert target.exists()
    shutil.rmtree(young)


def test_temporary_folder_that_cannot_be_listed(unprivileged: Path) -> None:
    """What may be written but not listed, or is not there, has nothing to sweep."""
    unprivileged.chmod(0o300)
    assert sweep_temporaries(unprivileged) == []
    assert sweep_temporaries(unprivileged / "gone") == []
    unprivileged.chmod(0o700)
