"""What one collection holds: how many pictures, of which model and provider, in which folders."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from warmclip.store.protocol import Generation, VectorStore


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """A collection as it is stored."""

    name: str
    dim: int | None  # None: it is empty
    points: int
    unverified: int  # pictures whose vectors wait for a check
    providers: dict[str, int]  # what computed the vectors -> pictures
    folders: dict[str, int]  # folder -> pictures in it, without those in folders below
    engine: dict[str, Any]  # how the store keeps it: see ``VectorStore.describe``
    generations: tuple[Generation, ...]  # the one in use first

    def to_dict(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return asdict(self)


def describe_collection(store: VectorStore, name: str) -> CollectionInfo:
    """Find out what a collection holds; each of its payloads is read.

    Raises:
        NotStored: there is no such collection.
        StoreError: the store failed.
    """
    generations = store.list_generations(name)
    points = unverified = 0
    providers: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    for point in store.scroll(name):
        points += 1
        unverified += bool(point.payload.canary)
        providers[point.payload.provider] += 1
        folders[os.path.dirname(point.payload.path)] += 1  # noqa: PTH120 - a str as the file system spells it
    first = next(iter(store.scroll(name, with_vectors=True)), None)
    return CollectionInfo(
        name=name,
        dim=None if first is None or first.vector is None else len(first.vector),
        points=points,
        unverified=unverified,
        providers=dict(providers.most_common()),
        folders=dict(sorted(folders.items())),
        engine=store.describe(generations[0].collection),
        generations=generations,
    )


def group_folders(folders: Mapping[str, int], most: int) -> dict[str, int]:
    """At most so many folders, with all that lies below each: as deep as the number allows.

    Args:
        folders: absolute path -> how many pictures are in it.
        most: folders to return, at least 1.
    """
    depth = max((len(Path(path).parts) for path in folders), default=0)
    grouped = dict(folders)
    while len(grouped) > most:
        grouped = Counter[str]()
        for path, count in folders.items():
            grouped[str(Path(*Path(path).parts[:depth]))] += count
        depth -= 1
    return dict(sorted(grouped.items()))
