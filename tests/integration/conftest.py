"""What the tests with a real redis-server share."""

import os

import pytest

from warmclip.errors import QueueUnreachable
from warmclip.work.private_redis import find_server


@pytest.fixture(scope="session")
def server_binary() -> None:
    """Skip where there is no server to start, but never in CI."""
    try:
        find_server()
    except QueueUnreachable as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))
