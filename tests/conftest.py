"""What every tier shares: markers from folders, a clean environment, the demo bundle."""

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from leftovers import LeftoverCheck
from warmclip.errors import QueueUnreachable
from warmclip.inference.machine import has_arm_bfloat16
from warmclip.work.private_redis import find_server

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
_NOBODY = 65534
_HAS_A_CHOICE = sys.platform == "darwin" or has_arm_bfloat16() or "APPLE_REHEARSAL" in os.environ
_OURS = ("WARMCLIP_", "REDIS_", "RQ_", "QDRANT_")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its tier, which is its folder; strict markers refuse an unknown one."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Graphs are prepared in a home of the tests' own: one, as they take a moment each.

    Fixtures that several tests share are made before ``clean_environment``: theirs is the CPU, too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("user")))
        if _HAS_A_CHOICE:
            patch.setenv("WARMCLIP_PROVIDER", "cpu")
        yield


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No test sees the settings of the person who runs it, or their ~/.warmclip.

    Where ``auto`` could choose another provider, the CPU computes; a test of providers says so.
    """
    for name in os.environ:
        if name.startswith(_OURS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WARMCLIP_HOME", str(tmp_path_factory.mktemp("home") / "warmclip"))
    if _HAS_A_CHOICE:
        monkeypatch.setenv("WARMCLIP_PROVIDER", "cpu")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """A command that ran inside this process leaves logging as it found it."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of somebody whom permissions bind, and this process acting as them.

    Root, as which tests run in containers, may read and write everything.
    """
    folder = Path(tempfile.mkdtemp(prefix="warmclip-"))
    me = os.geteuid()
    if me == 0:
        os.chown(folder, _NOBODY, _NOBODY)
        os.seteuid(_NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(me)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def demo_bundle() -> Path:
    """The committed bundle: small, trained, and real."""
    return REPOSITORY / "models" / "demo" / "bundle"


@pytest.fixture(scope="session")
def server_binary() -> None:
    """Skip where there is no server to start, but never in CI."""
    try:
        find_server()
    except QueueUnreachable as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))


class TierCounts:
    """Counts outcomes by tier, and why tests were skipped or tried again, for the summary."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.skips: Counter[tuple[str, str]] = Counter()
        self.first_failures: dict[str, str] = {}  # of tests that were tried again

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: when it was called, or when it could not be."""
        tier = report.nodeid.split("/")[1] if "/" in report.nodeid else "?"
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[tier, report.outcome] += 1
        if str(report.outcome) == "rerun":  # the word of pytest-rerunfailures
            self.first_failures[report.nodeid] = report.longreprtext
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skips[tier, report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a line for each tier, and below it one for each reason to skip tests of it."""
        terminalreporter.section("tiers")
        for tier in sorted({tier for tier, _ in self.outcomes}):
            counts = {kind: n for (where, kind), n in self.outcomes.items() if where == tier}
            line = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items(), reverse=True))
            terminalreporter.write_line(f"{tier:12} {line}")
            for (where, reason), n in self.skips.items():
                if where == tier:
                    terminalreporter.write_line(f"{'':12} {n} skipped: {reason}")
        for test, failure in self.first_failures.items():
            terminalreporter.section(f"first failure of {test}, which was tried again")
            terminalreporter.write_line(failure)


def pytest_configure(config: pytest.Config) -> None:
    """Register the summary and the check for leftovers; make signals what they are in a shell."""
    _heed_interrupts()
    config.pluginmanager.register(TierCounts(), "tier-counts")
    if not hasattr(config, "workerinput"):  # xdist's workers inherit the variable
        config.pluginmanager.register(LeftoverCheck(), "leftover-check")


def _heed_interrupts() -> None:
    """Let SIGINT end what the tests start, even if whoever started pytest ignores it.

    A shell without job control ignores it in what it starts with ``&``, as CI runners and nohup's
    users do; that a signal is ignored is inherited by every child.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
