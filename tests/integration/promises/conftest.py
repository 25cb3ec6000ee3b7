"""One worker for the tests of a module, which leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from running import Running, running_worker
from user_worker import user_environment
from warmclip.settings import Settings


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> dict[str, str]:
    """One home, and so one private Redis, for the workers of this module."""
    return user_environment(tmp_path_factory.mktemp("promises") / "home", demo_bundle)


@pytest.fixture(scope="module")
def worker(environment: dict[str, str]) -> Iterator[Running]:
    """One worker for all tests that leave it as it was."""
    with running_worker(Settings.from_env(environment), environment) as running:
        yield running


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A file in which jobs leave lines."""
    return tmp_path / "trace"
