"""Which files are not stored as they are now: small files, and a real store."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from standins.points import SPACE, point
from warmclip.indexing.files import Location
from warmclip.indexing.refusals import Refusals
from warmclip.indexing.roots import Roots
from warmclip.indexing.scan import FileScan, LocatedFile, read_files
from warmclip.inference.reading import FileReader
from warmclip.settings import Limits
from warmclip.store.protocol import Payload
from warmclip.store.qdrant import QdrantStore

LIMITS = Limits()


class Scanning:
    """Scans of nine files, with a store and what is remembered of refused files."""

    def __init__(self, store: QdrantStore, home: Path, files: list[str]) -> None:
        self.store = store
        self.files = files
        self.refusals = Refusals(home, fingerprint=SPACE.fingerprint, limits=LIMITS)

    def scan(self, *, retry_refused: bool = False) -> FileScan:
        """A run that has seen nothing yet."""
        return FileScan(
            self.store,
            "images",
            fingerprint=SPACE.fingerprint,
            roots=Roots(()),
            reader=FileReader(LIMITS),
            refusals=self.refusals,
            retry_refused=retry_refused,
        )

    def keep(self, number: int, **changed: Any) -> Location:
        """Store one of the files as it is, but for what is changed."""
        (found,) = self.scan().scan_chunk([self.files[number]]).changed
        at = found.location
        payload: Payload = replace(
            point(number).payload,
            path=at.path,
            size_bytes=at.size_bytes,
            mtime_ns=at.mtime_ns,
            taken_at="",
        )
        made = replace(point(number), id=at.id, payload=replace(payload, **changed))
        self.store.upsert("images", [made])
        return at


@pytest.fixture
def scanning(tmp_path: Path) -> Iterator[Scanning]:
    """Nothing of the files is stored."""
    files = [tmp_path / f"{number}.png" for number in range(9)]
    for file in files:
        file.write_bytes(b"x")
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        store.ensure_collection("images", SPACE)
        yield Scanning(store, tmp_path / "home", [os.path.realpath(file) for file in files])


def test_file_that_is_stored(scanning: Scanning) -> None:
    """It need not be read if its size and time are the stored ones, and its vector may stay."""
    changes: list[dict[str, Any]] = [
        {},
        {"size_bytes": 2},
        {"size_bytes": 0},
        {"mtime_ns": 1},
        {"mtime_ns": 2**62},
        {"canary": "g-1"},  # whose process may have died before it
        {"taken_at": None},  # by a version that read no dates
        {"taken_at": "2024-05-06T07:08:09"},
    ]
    for number, changed in enumerate(changes):
        scanning.keep(number, **changed)
    found = scanning.scan().scan_chunk(scanning.files)
    assert [file.path for file in found.changed] == [*scanning.files[1:7], scanning.files[8]]
    assert (found.unchanged, found.repeated, found.skipped) == (2, 0, {})
    found = scanning.scan().scan_chunk([scanning.files[number] for number in (0, 1, 7)])
    assert (found.unchanged, len(found.changed)) == (2, 1)


def test_vector_that_may_stay(scanning: Scanning) -> None:
    """It is of this model, and proven."""
    made = point(1)
    for fingerprint, canary, is_usable in (
        (SPACE.fingerprint, "", True),
        (SPACE.fingerprint, "g-1", False),
        ("0" * 64, "", False),
        ("f" * 64, "", False),
    ):
        payload = replace(made.payload, fingerprint=fingerprint, canary=canary)
        assert scanning.scan().is_usable(replace(made, payload=payload)) is is_usable


def test_file_that_was_seen_before(scanning: Scanning, tmp_path: Path) -> None:
    """It counts once in a run, by whatever paths it is found, and in whichever chunk."""
    link = tmp_path / "link.png"
    link.symlink_to("0.png")
    others = [str(tmp_path / name) for name in ("missing.png", "pipe.png")]
    os.mkfifo(others[1])
    scan = scanning.scan()
    found = scan.scan_chunk([scanning.files[0], str(link), *others])
    assert [file.path for file in found.changed] == [scanning.files[0]]
    assert (found.repeated, found.unchanged, list(found.skipped)) == (1, 0, others)
    found = scan.scan_chunk([*scanning.files[:2], str(link)])
    assert [file.path for file in found.changed] == [scanning.files[1]]
    assert found.repeated == 2
    assert list(scan.devices.values()) == [scanning.files[0]]


def test_file_that_was_refused(scanning: Scanning) -> None:
    """It is told with its reason and not read again, unless that is asked for."""
    (found,) = scanning.scan().scan_chunk(scanning.files[:1]).changed
    scanning.refusals.add({found.location: "it is empty"})
    told = scanning.scan().scan_chunk(scanning.files[:2])
    assert told.refused == {scanning.files[0]: "it is empty"}
    assert [file.path for file in told.changed] == [scanning.files[1]]
    assert told.unchanged == 0
    again = scanning.scan(retry_refused=True).scan_chunk(scanning.files[:2])
    assert (again.refused, len(again.changed)) == ({}, 2)
    assert scanning.scan().scan_chunk(scanning.files[:2]).refused == {}


def test_what_a_file_holds(scanning: Scanning, tmp_path: Path) -> None:
    """Each is read once; one that is gone meanwhile has its reason."""
    files = scanning.scan().scan_chunk(scanning.files[:4]).changed
    (tmp_path / "3.png").unlink()
    found = [pair for ready in read_files(files, Roots(()), LIMITS) for pair in ready]
    assert sorted(file.path for file, _ in found) == scanning.files[:4]
    data = {file.path: getattr(read, "data", None) for file, read in found}
    assert [data[path] for path in scanning.files[:4]] == [b"x", b"x", b"x", None]


def test_files_are_read_ahead(scanning: Scanning) -> None:
    """A store is asked about many contents at once, and few files wait in memory."""
    (first,) = scanning.scan().scan_chunk(scanning.files[:1]).changed
    taken: list[LocatedFile] = []

    class Noting(list[LocatedFile]):
        def __iter__(self) -> Iterator[LocatedFile]:
            for file in super().__iter__():
                taken.append(file)
                yield file

    reading = read_files(Noting([first] * 200), Roots(()), LIMITS)
    assert len(next(reading)) >= 32
    assert len(taken) == 64
    reading.close()
