"""What the store decides before an engine is asked."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from standins.points import SPACE
from warmclip.store.qdrant import QdrantStore, compaction_pays


@pytest.mark.parametrize(
    ("added", "points", "pays"),
    [
        (19_999, 19_999, False),
        (20_000, 20_000, True),
        (20_000, 200_000, True),
        (20_000, 200_001, False),
        (99_999, 1_000_000, False),
        (100_000, 1_000_000, True),
        (0, 0, False),
    ],
)
def test_compaction(added: int, points: int, pays: bool) -> None:
    """It pays from 20,000 new points on, if they are a tenth of all."""
    assert compaction_pays(added, points) == pays


def test_reading_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is asked for 256 points at a time."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        store.ensure_collection("images", SPACE)
        retrieve = store._engine.retrieve
        sizes = []

        def count(collection: str, ids: Sequence[str], **options: Any) -> Any:
            sizes.append(len(ids))
            return retrieve(collection, ids, **options)

        monkeypatch.setattr(store._engine, "retrieve", count)
        asked_for = (str(uuid.UUID(int=number)) for number in range(257))
        assert not list(store.scroll("images", ids=asked_for))
    assert sizes == [256, 1]
