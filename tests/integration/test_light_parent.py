"""The worker itself stays light, whatever its horse has done: nothing that forks badly is in it."""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from running import Running, eventually, running_worker
from standins import user_jobs
from user_worker import run, user_environment
from warmclip.process_table import read_process
from warmclip.settings import Settings
from warmclip.work.call import call
from warmclip.work.liveness import is_leftover
from warmclip.work.producer import submit_index, watch

# What a model and a store bring along, what a fork breaks on macOS, and the user's own module.
# Not pydantic: typer imports it by itself, and it has neither threads nor frameworks.
HEAVY = {
    *("onnxruntime", "numpy", "PIL", "tokenizers", "torch", "regex", "ftfy"),
    *("qdrant_edge", "qdrant_client", "httpx", "grpc", "setproctitle", user_jobs.__name__),
}
# What even a horse does without while the store is embedded and texts are plain.
_NOT_NEEDED = {"torch", "qdrant_client", "httpx", "grpc", "setproctitle", "ftfy"}
PROC = Path("/proc")
_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC in linux/sched.h, of the flags in /proc/PID/stat

pytestmark = pytest.mark.usefixtures("server_binary")
needs_proc = pytest.mark.skipif(not PROC.exists(), reason="only Linux shows processes in /proc")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where processes tell what they have imported."""
    return tmp_path_factory.mktemp("told")


@pytest.fixture(scope="module")
def worker(
    tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path, told: Path
) -> Iterator[Running]:
    """A worker that has indexed, searched, failed, lost a horse, and run a user's job."""
    folder = tmp_path_factory.mktemp("light")
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    environment = environment_with_told(folder / "home", demo_bundle, told)
    settings = Settings.from_env(environment)
    with running_worker(settings, environment) as worker:
        report = watch(worker.connection, submit_index(worker.connection, settings, [folder]))
        assert report.indexed == 1
        run(worker, user_jobs.leave, 3)
        run(worker, user_jobs.fail, "no")
        assert run(worker, user_jobs.embed, "a red circle").return_value
        answer = call(worker.connection, "search", {"collection": "images", "text": "red"})
        assert len(answer["hits"]) == 1
        yield worker


def environment_with_told(home: Path, bundle: Path, told: Path) -> dict[str, str]:
    """The variables of a worker with the embedded store, whose processes tell their imports."""
    environment = user_environment(home, bundle) | {"IMPORTED_FOLDER": str(told)}
    environment["PYTHONPATH"] += f"{os.pathsep}{Path(user_jobs.__file__).with_name('imported')}"
    del environment["QDRANT_URL"]
    return environment


def imported(pid: int, told: Path) -> set[str]:
    """What a process has imported."""
    os.kill(pid, signal.SIGUSR1)
    eventually((told / str(pid)).exists)
    return set((told / str(pid)).read_text().split("\n"))


def test_imported_modules(worker: Running, told: Path) -> None:
    """The worker has imported nothing heavy; its horse, asked in the same way, has."""
    assert imported(worker.process.pid, told) & HEAVY == set()
    assert HEAVY - imported(worker.horse, told) <= _NOT_NEEDED


@needs_proc
def test_memory(worker: Running) -> None:
    """Beside its horse, which holds the model, the worker costs next to nothing."""
    status = (PROC / str(worker.process.pid) / "status").read_text()
    found = re.search(r"^VmRSS:\s*(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    assert int(found[1]) / 1024 <= 60


def test_store_is_opened_first(tmp_path: Path, demo_bundle: Path, told: Path) -> None:
    """A horse has Qdrant's engine from its start, since others use the embedded store through it.
    Qdrant's client, which takes a second to import, is for servers only.
    """
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    environment = environment_with_told(tmp_path / "home", demo_bundle, told)
    settings = Settings.from_env(environment)
    with running_worker(settings, environment) as worker:
        assert run(worker, user_jobs.embed, "a red circle").return_value
        assert {"onnxruntime", "tokenizers", "qdrant_edge"} <= imported(worker.horse, told)
        watch(worker.connection, submit_index(worker.connection, settings, [tmp_path]))
        (told / str(worker.horse)).unlink()
        assert {"qdrant_client", "httpx"} & imported(worker.horse, told) == set()


@needs_proc
def test_mapped_libraries(worker: Running) -> None:
    """No library of them is mapped into the worker; into its horse, onnxruntime's is."""
    of_worker, of_horse = (
        {part for line in maps(pid) for part in Path(line).parts}
        for pid in (worker.process.pid, worker.horse)
    )
    assert HEAVY & of_worker == set()
    assert {"onnxruntime", "numpy", "PIL"} <= of_horse


@needs_proc
def test_exec(worker: Running) -> None:
    """Worker and horse were each started as programs of their own, and not forked from another."""
    for pid, module in (
        (worker.process.pid, "warmclip.cli"),
        (worker.horse, "warmclip.work.horse"),
    ):
        arguments = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        assert module.encode() in arguments
        flags = int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[6])
        assert not flags & _FORKED_WITHOUT_EXEC


def test_horse_names_its_worker(worker: Running) -> None:
    """So whoever finds it knows whether its worker is gone, whatever process has adopted it."""
    horse = read_process(worker.horse)
    assert horse is not None
    assert not is_leftover(horse)
    assert is_leftover(replace(horse, parent=1))


@needs_proc
def test_fork_without_exec_would_be_seen() -> None:
    """The kernel's flag that this relies on is set in a process that was only forked."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        flags = int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[6])
        assert flags & _FORKED_WITHOUT_EXEC
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def maps(pid: int) -> list[str]:
    """The files that are mapped into a process."""
    lines = (PROC / str(pid) / "maps").read_text().splitlines()
    return [fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6]
