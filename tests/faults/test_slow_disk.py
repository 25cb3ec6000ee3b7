"""Files that arrive late, or never: the horse goes on, and nobody is blamed."""

from pathlib import Path

from PIL import Image

from faults.conftest import Rig
from running import Running, outcome, reason
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.producer import submit_index, watch

# Longer than the watch on native work, which is 5 s here.
LATE = {"FAULTY_READ_SECONDS": "7"}


def slow(rig: Rig, name: str) -> str:
    """A picture whose file takes its time."""
    path = rig.folder / "pictures" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.effect_noise((32, 32), len(name)).save(path)
    return str(path)


def is_blameless(worker: Running, horse: int) -> None:
    """No picture was set aside, and no horse was lost."""
    assert PoisonedFiles(worker.connection).all() == []
    assert worker.horse == horse


def test_file_that_arrives_late(rig: Rig) -> None:
    """It is indexed, embedded by itself and searched with, in the same horse: reading is no hang
    of the decoder.
    """
    pictures = [*rig.pictures(3), slow(rig, "arrives-late")]
    with rig.worker(**LATE) as worker:
        horse = worker.horse
        run = submit_index(worker.connection, worker.settings, pictures)
        report = watch(worker.connection, run)
        assert (report.indexed, report.skipped) == (4, {})
        for function, arguments in {
            "embed_image": {"path": pictures[-1]},
            "embed_images": {"paths": pictures},
            "search": {"collection": "images", "image": pictures[-1]},
        }.items():
            job = worker.enqueue(f"warmclip.work.jobs.{function}", kwargs=arguments)
            result = outcome(job)
            assert result.return_value, result.exc_string
        is_blameless(worker, horse)


def test_file_that_never_arrives(rig: Rig) -> None:
    """It costs itself: its neighbours are indexed, its reason names the setting, and it is asked
    for again the next time.
    """
    stuck = slow(rig, "arrives-never")
    pictures = [*rig.pictures(9), stuck]
    with rig.worker(WARMCLIP_READ_SECONDS="2") as worker:
        horse = worker.horse
        run = submit_index(worker.connection, worker.settings, pictures)
        report = watch(worker.connection, run)
        assert report.indexed == 9
        assert list(report.skipped) == [stuck]
        assert "(WARMCLIP_READ_SECONDS)" in report.skipped[stuck]
        answer = worker.run("warmclip.work.jobs.embed_images", pictures[-2:]).return_value
        assert answer is not None
        assert (len(answer["vectors"]), list(answer["unreadable"])) == (1, [stuck])
        told = reason(worker.run("warmclip.work.jobs.embed_image", kwargs={"path": stuck}))
        assert "did not arrive within" in told
        is_blameless(worker, horse)
        arrived = Path(stuck).rename(Path(stuck).with_name("there.png"))
        run = submit_index(worker.connection, worker.settings, [str(arrived)])
        assert watch(worker.connection, run).indexed == 1
        is_blameless(worker, horse)
