"""The horse dies or hangs: the job goes on, or fails with a reason; the next one runs."""

import base64
import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from rq.job import JobStatus, Retry

from faults.conftest import Rig, name_of
from running import PATIENCE_S, Running, eventually, outcome, reason
from standins.answering import AnsweringProgram
from standins.debugger import debugger_at
from warmclip.errors import HorseDied
from warmclip.work.call import call
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.producer import submit_index, watch
from warmclip.work.queues import open_queue
from warmclip.work.status import read_status

EMBED = "warmclip.work.jobs.embed_texts"
SLOW = {"WARMCLIP_PROVIDER": "faulty-slow", "FAULTY_SECONDS": "0.2", "WARMCLIP_BATCH_SIZE": "8"}


def works(worker: Running) -> None:
    """The next job runs, in a horse that lives."""
    assert worker.run(EMBED, ["still here"]).return_value
    assert worker.process.poll() is None
    os.kill(worker.horse, 0)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_killed_while_indexing(rig: Rig, signum: int) -> None:
    """An index job whose horse is killed is run again, to the end, without its sender's help.

    It dies while it computes: a picture that is decoded alone at that moment would be blamed.
    """
    pictures = rig.pictures(24)
    begun = rig.folder / "begun"
    with rig.worker(**SLOW | {"FAULTY_SECONDS": "1", "FAULTY_BEGUN": str(begun)}) as worker:
        begun.unlink()
        run = submit_index(worker.connection, worker.settings, pictures)
        eventually(begun.exists)
        first = worker.kill_horse(signum)
        report = watch(worker.connection, run)
        assert (report.indexed, report.skipped) == (24, {})
        assert worker.horse != first
        assert f"died by signal {signum} ({name_of(signum)})" in worker.log.read_text()
        works(worker)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_killed_while_idle(rig: Rig, signum: int) -> None:
    """The next job has a fresh horse."""
    with rig.worker() as worker:
        first = worker.kill_horse(signum)
        works(worker)
        assert worker.horse != first


def test_killed_and_does_not_end(rig: Rig) -> None:
    """No other horse starts beside it, as it may hold the store: the worker leaves with a sentence,
    and the job waits for the next worker.
    """
    with rig.worker() as worker:
        horse = worker.kill_horse(signal.SIGSTOP)
        job = worker.enqueue(EMBED, ["a"])
        with debugger_at(horse):
            eventually(open_queue(worker.connection).started_job_registry.get_job_ids)
            worker.kill_horse()
            assert worker.process.wait(PATIENCE_S) == 3
        said = " ".join(worker.log.read_text().split())
        assert f"the horse {horse} was killed and does not end" in said
        assert "Traceback" not in said
        assert job.get_status() == JobStatus.QUEUED
    with rig.worker() as worker:
        works(worker)


def test_job_that_was_not_begun(rig: Rig) -> None:
    """A job of one's own that a dying horse had not taken up yet is run by the next one."""
    with rig.worker() as worker:
        worker.kill_horse(signal.SIGSTOP)
        job = worker.enqueue("faulty_jobs.process")
        eventually(open_queue(worker.connection).started_job_registry.get_job_ids)
        first = worker.kill_horse()
        second = outcome(job, 60).return_value
        assert second == worker.horse != first


def test_stopped(rig: Rig) -> None:
    """A horse that gives no sign of life, as one that was stopped, is replaced."""
    pictures = rig.pictures(20)
    with rig.worker(**SLOW) as worker:
        run = submit_index(worker.connection, worker.settings, pictures)
        eventually(open_queue(worker.connection).started_job_registry.get_job_ids)
        worker.kill_horse(signal.SIGSTOP)
        assert watch(worker.connection, run).indexed == 20
        assert "no sign of life for" in worker.log.read_text()
        works(worker)


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("die", [signal.SIGSEGV], "died by signal 11 (SIGSEGV); provider cpu; it was in Python"),
        ("die", [signal.SIGKILL], "died by signal 9 (SIGKILL), sent by somebody or by a system"),
        ("leave", [3], "left with exit code 3"),
        ("leave", [0], "left with exit code 0"),
    ],
    ids=["segv", "kill", "exit-3", "exit-0"],
)
def test_job_of_ones_own_that_kills(
    rig: Rig, function: str, arguments: list[int], said: str
) -> None:
    """It runs once, and fails with what happened; with a Retry twice; the next job runs."""
    with rig.worker() as worker:
        for retry, runs in ((None, 1), (Retry(max=1), 2)):
            job = worker.enqueue(f"faulty_jobs.{function}", *arguments, retry=retry)
            assert said in reason(outcome(job, 60))
            assert worker.log.read_text().count(f"job {job.id}: the horse") == runs
        works(worker)


def test_native_code_of_ones_own(rig: Rig) -> None:
    """A function of one's own may compute without letting Python run, for as long as its time-out
    allows, however long a horse may usually be silent.
    """
    with rig.worker(WARMCLIP_HANG_SECONDS="5") as worker:
        before = worker.horse
        assert worker.run("faulty_jobs.hold", 12, job_timeout=60).return_value == 12
        assert worker.horse == before


def test_native_code_of_ones_own_that_overruns(rig: Rig) -> None:
    """Its time-out ends it all the same, and the reason names that."""
    with rig.worker() as worker:
        job = worker.enqueue("faulty_jobs.grind", job_timeout=3)
        assert "ran past the job's time-out of 3 s and was killed" in reason(outcome(job, 60))
        works(worker)


def test_our_steps_in_a_job_of_ones_own(rig: Rig) -> None:
    """What we do in it is watched: a picture that hangs its decoder ends the horse, with the
    setting that says when.
    """
    poison = rig.poison("hang")
    with rig.worker(WARMCLIP_HANG_SECONDS="5") as worker:
        said = reason(outcome(worker.enqueue("faulty_jobs.embed", [poison], job_timeout=100), 60))
        assert "hung: no sign of life for" in said
        assert "WARMCLIP_HANG_SECONDS" in said
        assert f"it was decoding '{poison}'" in said
        works(worker)


def test_job_that_closes_descriptors(rig: Rig) -> None:
    """It fails with that reason, and not as if somebody had killed its horse."""
    with rig.worker() as worker:
        said = reason(outcome(worker.enqueue("faulty_jobs.close_descriptors"), 60))
        assert "closed its pipe to the worker" in said
        works(worker)


def test_job_that_writes_to_descriptors(rig: Rig) -> None:
    """What it writes there costs nothing: neither its own answer nor the next one."""
    with rig.worker() as worker:
        before = worker.horse
        assert worker.run("faulty_jobs.scribble").return_value == "scribbled"
        assert worker.horse == before
        works(worker)


def test_horse_that_answers_more_than_once(rig: Rig) -> None:
    """What it says for another job, or again, is passed by: each job has its own answer, once."""
    with rig.worker() as worker:
        before = worker.horse
        assert worker.run("faulty_jobs.repeat_answers").return_value == "more than once"
        jobs = [worker.enqueue("faulty_jobs.echo", number) for number in range(10)]
        assert [outcome(job).return_value for job in jobs] == list(range(10))
        assert [len(job.results()) for job in jobs] == [1] * 10
        assert worker.horse == before
        works(worker)


_FORKS = pytest.mark.skipif(
    sys.platform == "darwin", reason="Python calls its own fork unsafe where macOS's libraries are"
)


@pytest.mark.parametrize("how", ["spawn", pytest.param("fork", marks=_FORKS), "popen", "shell"])
def test_children_of_a_job(rig: Rig, how: str) -> None:
    """They end when a job asks them to, by SIGTERM or SIGINT, as under `rq worker`."""
    with rig.worker() as worker:
        job = worker.enqueue("faulty_jobs.end_children", how, job_timeout=60)
        value = outcome(job, 90).return_value
        assert value is not None
        assert set(value) == {-signal.SIGTERM}


def test_children_of_a_job_that_is_killed(rig: Rig) -> None:
    """They end with it, before another horse starts."""
    with rig.worker() as worker, closing(AnsweringProgram()) as program:
        worker.enqueue("faulty_jobs.leave_child", program.command)
        assert program.answers()
        worker.kill_horse()
        works(worker)
        assert not program.answers()


def test_job_too_large_for_a_pipe(rig: Rig) -> None:
    """It reaches a horse that was stopped for a moment, and so does its answer come back."""
    text = "x" * 3_000_000
    with rig.worker(WARMCLIP_HANG_SECONDS="30") as worker:
        horse = worker.kill_horse(signal.SIGSTOP)
        job = worker.enqueue("faulty_jobs.echo", text)
        eventually(open_queue(worker.connection).started_job_registry.get_job_ids)
        worker.kill_horse(signal.SIGCONT)
        assert outcome(job, 60).return_value == text
        assert worker.horse == horse


def test_result_beyond_measure(rig: Rig) -> None:
    """It fails its job with the bound, and the horse lives on."""
    with rig.worker() as worker:
        horse = worker.horse
        said = reason(outcome(worker.enqueue("faulty_jobs.answer", 70 * 1024 * 1024), 90))
        assert "at most 67,108,864 are kept" in said
        assert worker.horse == horse
        works(worker)


@pytest.mark.skipif(
    sys.platform == "darwin",
    reason="macOS takes no limit below what a process maps, and it maps more from the start",
)
def test_out_of_memory(rig: Rig) -> None:
    """A horse that eats all memory it may have costs its job, not the worker."""
    import resource

    limit = 3 * 1024**3
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))  # what a worker inherits
    try:
        with rig.worker() as worker:
            job = worker.enqueue("faulty_jobs.eat", job_timeout=60)
            assert "MemoryError" in reason(outcome(job, 90))
            works(worker)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_overrun(rig: Rig) -> None:
    """A job that runs past its time in Python is stopped there; the next one has a fresh horse."""
    with rig.worker() as worker:
        before = worker.horse
        result = worker.run("faulty_jobs.sleep", 30, job_timeout=1)
        assert "JobTimeoutException" in reason(result)
        works(worker)
        assert worker.horse != before
        assert "is replaced, as a time-out has struck in it" in worker.log.read_text()


def test_long_job_with_a_pulse(rig: Rig) -> None:
    """A job that is at its own Python code for longer than a horse may be silent is let alone."""
    with rig.worker(WARMCLIP_HANG_SECONDS="5") as worker:
        assert worker.run("faulty_jobs.sleep", 12).return_value == 12
        assert "no sign of life" not in worker.log.read_text()


@pytest.mark.parametrize("how", ["segv", "abort", "hang", "kill"])
def test_poisoned_picture(rig: Rig, how: str) -> None:
    """A picture that kills whoever decodes it is set aside, with the reason; its neighbours are
    indexed in the same job; it is passed by from then on, until it is given another chance.
    """
    pictures = rig.pictures(12)
    poison = rig.poison(how)
    paths = [*pictures[:6], poison, *pictures[6:]]
    with rig.worker() as worker:
        run = submit_index(worker.connection, worker.settings, paths)
        report = watch(worker.connection, run)
        assert report.indexed == 12
        assert list(report.skipped) == [poison]
        assert "was set aside: the horse" in report.skipped[poison]
        (letter,) = PoisonedFiles(worker.connection).all()
        assert (letter.path, letter.collection) == (os.path.realpath(poison), "images")
        assert read_status(worker.connection).dead == 1

        before = worker.horse
        answer = worker.run("warmclip.work.jobs.embed_images", [poison, pictures[0]]).return_value
        assert answer is not None
        assert list(answer["unreadable"]) == [poison]
        assert worker.horse == before

        rig.poison("not any more")  # a file that was changed gets another chance by itself
        run = submit_index(worker.connection, worker.settings, [poison])
        assert watch(worker.connection, run).indexed == 1


@pytest.mark.parametrize("how", ["segv", "hang"])
def test_poisoned_upload(rig: Rig, how: str) -> None:
    """A picture that was sent is known by its bytes: it kills once, and no horse after that."""
    data = base64.b64encode(Path(rig.poison(how)).read_bytes()).decode("ascii")
    innocent = base64.b64encode(Path(rig.pictures(1)[0]).read_bytes()).decode("ascii")
    with rig.worker(WARMCLIP_HANG_SECONDS="5") as worker:
        first = worker.enqueue("warmclip.work.jobs.embed_image", data)
        assert "the picture that was sent was set aside: the horse" in reason(outcome(first, 90))
        (file,) = PoisonedFiles(worker.connection).all()
        assert file.path.startswith("sha256:")

        before = worker.horse
        again = worker.run("warmclip.work.jobs.embed_image", data)
        assert "was set aside: the horse" in reason(again)
        search = worker.run("warmclip.work.jobs.search", "images", kwargs={"data": data})
        assert "was set aside: the horse" in reason(search)
        answer = worker.run("warmclip.work.jobs.embed_image", innocent).return_value
        assert answer is not None
        assert worker.horse == before


def test_poisoned_picture_among_slow_ones(rig: Rig) -> None:
    """Others are always in flight beside it: only one at a time is it found."""
    slow = [rig.poison("slow", f"slow-{number}.jpg") for number in range(6)]
    poison = rig.poison("abort", "sly.jpg")
    with rig.worker() as worker:
        paths = [*slow[:3], poison, *slow[3:]]
        run = submit_index(worker.connection, worker.settings, paths)
        report = watch(worker.connection, run)
        assert report.indexed == 6
        assert list(report.skipped) == [poison]


def test_kill_from_outside_blames_no_picture(rig: Rig) -> None:
    """A horse that somebody kills while one picture is decoded: that picture is indexed."""
    slow = rig.poison("slow")
    mark = rig.folder / "mark"
    with rig.worker(FAULTY_MARK=str(mark)) as worker:
        horse = worker.horse  # asked for before, as it takes a second to decode
        run = submit_index(worker.connection, worker.settings, [slow])
        eventually(mark.exists)
        os.kill(horse, signal.SIGKILL)
        assert watch(worker.connection, run).indexed == 1
        assert PoisonedFiles(worker.connection).all() == []
        assert f"it was decoding '{slow}'" in worker.log.read_text()


def test_two_poisoned_pictures(rig: Rig) -> None:
    """Each is found, in one job."""
    pictures = rig.pictures(6)
    poison = [rig.poison("segv", "a.jpg"), rig.poison("abort", "b.jpg")]
    with rig.worker() as worker:
        run = submit_index(worker.connection, worker.settings, [*poison, *pictures])
        report = watch(worker.connection, run)
        assert report.indexed == 6
        assert sorted(report.skipped) == poison


def test_poisoned_picture_in_a_job_of_ones_own(rig: Rig) -> None:
    """It fails the job by RQ's rules, as nobody knows whether it may run twice; the picture is
    known from then on.
    """
    poison = rig.poison("segv")
    with rig.worker() as worker:
        result = worker.run("faulty_jobs.embed", [poison])
        assert f"it was decoding '{poison}'" in reason(result)
        assert "was set aside" in reason(worker.run("faulty_jobs.embed", [poison]))
        works(worker)


def test_call_whose_horse_dies(rig: Rig) -> None:
    """Who waits for an answer of ours gets it from the next horse."""
    with rig.worker(**SLOW) as worker:
        texts = [f"text {number}" for number in range(80)]
        job = worker.enqueue(EMBED, texts)
        eventually(open_queue(worker.connection).started_job_registry.get_job_ids)
        time.sleep(0.3)
        worker.kill_horse()
        value = outcome(job, 60).return_value
        assert value is not None
        assert len(value["vectors"]) == 80


def test_horse_dies_each_time(rig: Rig) -> None:
    """A job of ours that kills every horse ends in an error that names the signal."""
    with (
        rig.worker(
            WARMCLIP_PROVIDER="faulty-nth",
            FAULTY_N="15",  # more than it takes to get ready, fewer than the job's batches
            WARMCLIP_BATCH_SIZE="4",
            WARMCLIP_MAX_CRASHES="100",
        ) as w,
        pytest.raises(
            HorseDied, match=r"signal 6 \(SIGABRT\); provider faulty-nth; it was running"
        ),
    ):
        call(w.connection, "embed_texts", {"texts": [str(n) for n in range(200)]})
