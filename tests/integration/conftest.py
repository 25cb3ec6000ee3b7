"""What several files of this tier share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from standins import qdrant as stand_in
from warmclip.store.qdrant import QdrantStore


@pytest.fixture(params=["embedded", "stand-in"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantStore]:
    """A store of each kind; a file that needs only one has a fixture of its own."""
    if request.param == "embedded":
        with QdrantStore.embedded(tmp_path / "qdrant") as store:
            yield store
    else:
        with stand_in.serve(tmp_path) as server, QdrantStore.server(server.url) as store:
            yield store
