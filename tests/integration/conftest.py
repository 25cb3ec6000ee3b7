"""What several files of this tier share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from standins import qdrant as stand_in
from standins.redis_server import redis_server
from warmclip.store.qdrant import QdrantStore
from warmclip.work.patience import Patience


@pytest.fixture(params=["embedded", "stand-in"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantStore]:
    """A store of each kind; a file that needs only one has a fixture of its own."""
    if request.param == "embedded":
        with QdrantStore.embedded(tmp_path / "qdrant") as store:
            yield store
    else:
        with stand_in.serve(tmp_path) as server, QdrantStore.server(server.url) as store:
            yield store


@pytest.fixture(scope="module")
def redis_port(
    tmp_path_factory: pytest.TempPathFactory,
    server_binary: None,  # noqa: ARG001 - needed
) -> Iterator[int]:
    """A Redis server for the tests of a file."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.port


@pytest.fixture
def connection(redis_port: int) -> Iterator[Redis]:
    """A worker's connection, with patience, to an empty Redis."""
    with Redis(port=redis_port, retry=Patience(20.0)) as redis:
        redis.flushall()
        yield redis


@pytest.fixture
def signals() -> Iterator[None]:
    """A worker and a supervisor handle signals of their own; afterwards they are pytest's again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
