"""Folders compared with a collection: what is named, what is repaired, what is left alone."""

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pictures import draw
from running import environment_of, run, running_worker
from standins import qdrant as stand_in
from standins.pixels import PixelEncoder
from warmclip.errors import PruneRefused
from warmclip.indexing.audit import audit_folders
from warmclip.indexing.audit_report import AuditReport
from warmclip.indexing.indexer import Indexer
from warmclip.indexing.repair import repair_collection
from warmclip.inference.selection.canary import Canary
from warmclip.settings import Root, Settings
from warmclip.store.qdrant import QdrantStore

pytestmark = pytest.mark.quick

CATEGORIES = ("missing", "stale", "orphans", "moved", "suspects", "strangers")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty pictures that differ, in two folders."""
    folder = tmp_path / "photos"
    for number in range(30):
        draw(folder / ("a" if number < 15 else "b") / f"{number:02}.png", number)
    return folder


def look(store: QdrantStore, *paths: Path) -> AuditReport:
    """One audit."""
    return audit_folders(store, "images", paths)


def mend(store: QdrantStore, indexer: Indexer, report: AuditReport) -> AuditReport:
    """One repair, in this process."""
    return repair_collection(store, report, indexer.index_files)


def disorder(photos: Path) -> dict[str, set[str]]:
    """Five files added, five changed, five removed, five moved: what an audit must name."""
    named: dict[str, set[str]] = {
        "added": set(),
        "changed": set(),
        "removed": set(),
        "moved": set(),
    }
    for number in range(5):
        named["added"].add(str(draw(photos / "new" / f"{number}.png", 100 + number)))
        named["changed"].add(str(draw(photos / "a" / f"{number:02}.png", 200 + number)))
        gone = photos / "a" / f"{number + 5:02}.png"
        gone.unlink()
        named["removed"].add(str(gone))
        before = photos / "b" / f"{number + 15:02}.png"
        after = photos / "new" / f"moved-{number}.png"
        before.rename(after)
        named["moved"].add(f"{before} -> {after}")
    return named


def test_folder_in_disorder(store: QdrantStore, photos: Path) -> None:
    """Each file is named once, in its category; repaired, ten are embedded and all is clean."""
    encoder = PixelEncoder()
    indexer = Indexer(encoder, store)
    indexer.index([photos])
    assert look(store, photos).exit_code == 0
    named = disorder(photos)
    report = look(store, photos)
    assert {it.path for it in report.missing} == named["added"]
    assert {it.path for it in report.stale} == named["changed"]
    assert {it.path for it in report.orphans} == named["removed"]
    assert {f"{it.before.path} -> {it.path}" for it in report.moved} == named["moved"]
    assert (report.faults, report.exit_code, report.touched) == (20, 1, ())
    before = encoder.embedded
    mended = mend(store, indexer, report).repaired
    assert mended is not None
    assert encoder.embedded - before == 10
    assert (mended.indexed, mended.reused, mended.pruned) == (10, 5, 10)
    again = look(store, photos)
    assert (again.faults, again.exit_code, again.points, again.files) == (0, 0, 30, 30)


def test_touched_file_is_not_stale(store: QdrantStore, photos: Path) -> None:
    """The same bytes with another time are no fault; a repair notes the time and embeds nothing."""
    encoder = PixelEncoder()
    indexer = Indexer(encoder, store)
    indexer.index([photos])
    touched = photos / "a" / "03.png"
    os.utime(touched, ns=(1, 1))
    report = look(store, photos)
    assert report.touched == (str(touched),)
    assert (report.faults, report.exit_code) == (0, 0)
    before = encoder.embedded
    mend(store, indexer, report)
    assert encoder.embedded == before
    assert look(store, photos).touched == ()


def test_changed_file_of_the_same_size(store: QdrantStore, photos: Path) -> None:
    """It is stale by its bytes, whatever its size is."""
    Indexer(PixelEncoder(), store).index([photos])
    changed = photos / "a" / "03.png"
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1
    changed.write_bytes(content)
    assert [it.path for it in look(store, photos).stale] == [str(changed)]


def test_other_folders_are_left_alone(store: QdrantStore, photos: Path) -> None:
    """What is gone elsewhere is neither named nor forgotten."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    (photos / "a" / "00.png").unlink()
    (photos / "b" / "20.png").unlink()
    report = look(store, photos / "b")
    assert [it.path for it in report.orphans] == [str(photos / "b" / "20.png")]
    mend(store, indexer, report)
    assert len(list(store.scroll("images"))) == 29


def test_duplicates_are_no_fault(store: QdrantStore, photos: Path) -> None:
    """Copies are listed together, and the exit code stays 0."""
    copy = photos / "b" / "copy.png"
    shutil.copyfile(photos / "a" / "00.png", copy)
    Indexer(PixelEncoder(), store).index([photos])
    report = look(store, photos)
    assert [it.paths for it in report.identical] == [(str(photos / "a" / "00.png"), str(copy))]
    assert report.exit_code == 0


@pytest.mark.parametrize("accident", ["missing", "empty", "half"])
def test_unmounted_disk(store: QdrantStore, photos: Path, accident: str) -> None:
    """Its points are named, and a repair refuses before it writes anything."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    draw(photos.parent / "other" / "new.png", 300)
    shutil.rmtree(photos / "b" if accident == "half" else photos)
    if accident == "empty":
        photos.mkdir()
    report = look(store, photos, photos.parent / "other")
    assert len(report.orphans) == (15 if accident == "half" else 30)
    with pytest.raises(PruneRefused, match="not mounted") as refused:
        mend(store, indexer, report)
    way_out = f"`warmclip forget --collection images {photos}`"
    assert (way_out in str(refused.value)) == (accident != "half")
    assert len(list(store.scroll("images"))) == 30
    if accident == "half":
        repair_collection(store, report, indexer.index_files, yes=True)
        assert len(list(store.scroll("images"))) == 16


def test_small_disk_that_is_not_mounted(store: QdrantStore, photos: Path) -> None:
    """A folder without any picture is not believed, however few it had, and whatever --yes says."""
    indexer = Indexer(PixelEncoder(), store)
    draw(photos / "c" / "one.png", 300)
    indexer.index([photos])
    (photos / "c" / "one.png").unlink()
    report = look(store, photos / "c")
    with pytest.raises(PruneRefused, match="holds no pictures at all"):
        repair_collection(store, report, indexer.index_files, yes=True)
    assert len(list(store.scroll("images"))) == 31
    mend(store, indexer, look(store, photos))  # seen from above, it is one picture that is gone
    assert len(list(store.scroll("images"))) == 30


def test_most_files_moved(store: QdrantStore, photos: Path) -> None:
    """That is no loss: it is repaired without a word, and also when the first repair was killed."""
    encoder = PixelEncoder()
    indexer = Indexer(encoder, store)
    indexer.index([photos])
    (photos / "a").rename(photos / "c")
    report = look(store, photos)
    assert (len(report.moved), report.faults) == (15, 15)
    indexer.index_files(report.files_to_index)  # ... and killed here, before orphans are forgotten
    second = look(store, photos)
    assert len(second.orphans) == 15
    assert {Path(it.elsewhere).parent.name for it in second.orphans} == {"c"}
    mend(store, indexer, second)
    assert encoder.embedded == 30
    assert look(store, photos).exit_code == 0


def test_moved_file_that_cannot_be_stored(store: QdrantStore, photos: Path) -> None:
    """Its former point, which has its vector, stays."""
    indexer = Indexer(PixelEncoder(), store)
    indexer.index([photos])
    after = photos / "a" / "after.png"
    (photos / "a" / "00.png").rename(after)
    report = look(store, photos)
    assert len(report.moved) == 1
    after.unlink()
    mended = mend(store, indexer, report)
    assert mended.exit_code == 1
    assert len(list(store.scroll("images"))) == 30


@pytest.mark.parametrize("is_relative", [False, True])
def test_workers_with_other_roots(
    store: QdrantStore, photos: Path, monkeypatch: pytest.MonkeyPatch, is_relative: bool
) -> None:
    """Nothing is forgotten for ids that are ours alone: who stores gives the files other ones."""
    monkeypatch.chdir(photos.parent)
    roots = (Root(name="photos", folder=photos),)
    theirs = Indexer(PixelEncoder(), store, roots=roots)
    theirs.index([photos])
    report = look(store, Path("photos") if is_relative else photos)  # without the roots
    assert len(report.moved) == 30
    mended = mend(store, theirs, report)
    assert mended.repaired is not None
    assert mended.repaired.pruned == 0
    assert "WARMCLIP_ROOTS" in next(iter(mended.repaired.skipped.values()))
    assert mended.exit_code == 1
    assert len(list(store.scroll("images"))) == 30


def test_file_that_cannot_be_read_after_a_root_was_named(store: QdrantStore, photos: Path) -> None:
    """Its vector, which nobody could compute again just now, stays; both ways of pruning."""
    Indexer(PixelEncoder(), store).index([photos])
    (photos / "a" / "00.png").write_bytes(b"cut short")
    roots = (Root(name="photos", folder=photos),)
    Indexer(PixelEncoder(), store, roots=roots).index([photos], prune=True, yes=True)
    assert len(list(store.scroll("images"))) == 30
    report = audit_folders(store, "images", [photos], roots=roots)
    repair_collection(
        store, report, Indexer(PixelEncoder(), store, roots=roots).index_files, roots=roots
    )
    assert len(list(store.scroll("images"))) == 30


def test_suspects_and_strangers(store: QdrantStore, photos: Path) -> None:
    """What waits for a canary, and what another program wrote, is embedded again."""
    encoder = PixelEncoder()
    indexer = Indexer(encoder, store)
    encoder.canary = Canary(guard="a guard that is gone", number=0)
    indexer.index([photos / "a" / "00.png"])
    encoder.canary = None
    indexer.index([photos / "b"])
    odd = next(
        it for it in store.scroll("images", with_vectors=True) if "20.png" in it.payload.path
    )
    live = f"images__{encoder.fingerprint}"
    store.upsert(live, [replace(odd, payload=replace(odd.payload, fingerprint="f" * 64))])
    report = look(store, photos / "a" / "00.png", photos / "b")
    assert [Path(it.path).name for it in report.unverified] == ["00.png"]
    assert [Path(it.path).name for it in report.foreign] == ["20.png"]
    assert report.faults == 2
    mend(store, indexer, report)
    assert look(store, photos / "a" / "00.png", photos / "b").exit_code == 0


def test_former_collection(store: QdrantStore, photos: Path) -> None:
    """What ``migrate`` left is told with its figures, and another model's collection is a fault."""
    Indexer(PixelEncoder("a"), store).index([photos])
    Indexer(PixelEncoder("b"), store).migrate()
    report = look(store, photos)
    assert [(it.fingerprint[0], it.points, it.in_use) for it in report.generations] == [
        ("b", 30, True),
        ("a", 30, False),
    ]
    assert report.exit_code == 0
    assert audit_folders(store, "images", [photos], model="c" * 64).exit_code == 1


def test_file_that_cannot_be_read(store: QdrantStore, photos: Path) -> None:
    """It is named with its reason, not taken for missing or removed, and no fault; a folder that is
    not there could not be compared, which is one.
    """
    Indexer(PixelEncoder(), store).index([photos])
    (photos / "a" / "loop.png").symlink_to(photos / "a" / "loop.png")
    report = look(store, photos)
    assert set(report.unreadable) == {str(photos / "a" / "loop.png")}
    assert (report.missing, report.orphans, report.exit_code) == ((), (), 0)
    report = look(store, photos, photos / "nowhere")
    assert set(report.problems) == {str(photos / "nowhere")}
    assert (report.missing, report.orphans, report.exit_code) == ((), (), 1)
    assert set(report.to_dict()["unreadable"]) == {*report.problems, *report.unreadable}


# The command.


def test_command(photos: Path, demo_bundle: Path) -> None:
    """Audit, repair, audit: 1, 0, 0; JSON and text name the same; errors say what to write."""
    model = {"WARMCLIP_BUNDLE": str(demo_bundle)}
    assert run("index", photos, **model).returncode == 0
    named = disorder(photos)
    listed = run("audit", "images", photos, "--json", **model)
    assert listed.returncode == 1, listed.stderr
    report: dict[str, Any] = json.loads(listed.stdout)
    assert {it["path"] for it in report["missing"]} == named["added"]
    assert [len(report[kind]) for kind in CATEGORIES] == [5, 5, 5, 5, 0, 0]
    told = run("audit", "images", photos, **model).stdout
    assert "5 missing, 5 stale, 5 orphan, 5 moved" in told
    assert all(
        path in told for paths in named.values() for pair in paths for path in pair.split(" -> ")
    )
    mended = run("audit", "images", photos, "--repair", **model)
    assert mended.returncode == 0, mended.stderr
    assert "10 indexed, 5 reused, 10 pruned" in mended.stdout
    clean = run("audit", "images", photos, WARMCLIP_BUNDLE="/nowhere")
    assert clean.returncode == 0, clean.stderr
    assert "all is well" in clean.stdout
    scaled = run("audit", "images", photos, "--decode", "scaled", **model)
    assert scaled.returncode == 1
    assert "`warmclip migrate images`" in scaled.stdout
    path_first = run("audit", photos)
    assert path_first.returncode == 2
    assert "the collection's name comes first" in " ".join(path_first.stderr.split())


@pytest.mark.usefixtures("server_binary")
@pytest.mark.parametrize("kind", ["server", "embedded"])
def test_repair_by_workers(tmp_path: Path, photos: Path, demo_bundle: Path, kind: str) -> None:
    """Exactly the named files become jobs, and the next audit is clean; the embedded store is
    audited beside the worker that has it open.
    """
    with ExitStack() as stack:
        variables = environment_of(tmp_path / "home", demo_bundle)
        if kind == "server":
            server = stack.enter_context(stand_in.serve(tmp_path / "server"))
            variables["QDRANT_URL"] = server.url
        stack.enter_context(running_worker(Settings.from_env(variables), variables))
        assert run("index", photos, "--queue", **variables).returncode == 0
        disorder(photos)
        mended = run("audit", "images", photos, "--repair", "--queue", "--json", **variables)
        assert mended.returncode == 0, mended.stderr
        done = json.loads(mended.stdout)["repaired"]
        counts = ("indexed", "reused", "unchanged", "pruned")
        assert [done[kind] for kind in counts] == [10, 5, 0, 10]
        assert run("audit", "images", photos, **variables).returncode == 0
