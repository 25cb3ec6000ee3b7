"""A real worker in a process of its own, a real Redis, and the demo model."""

import os
import pickle
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rq.callbacks import Callback
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from running import (
    PATIENCE_S,
    WORKER,
    Running,
    environment_of,
    outcome,
    reason,
    running_worker,
    start_worker,
)
from warmclip.errors import (
    BundleError,
    ImageUnreadable,
    JobRefused,
    QueueUnreachable,
    SearchRefused,
    StoreError,
    TextRefused,
)
from warmclip.inference.encoder import Encoder
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.call import call
from warmclip.work.liveness import STARTING
from warmclip.work.producer import submit_index, watch
from warmclip.work.queues import open_queue
from warmclip.work.run import run_worker
from warmclip.work.status import read_status

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> Iterator[Running]:
    """One worker on a private Redis, for all tests that leave it as it was."""
    home = tmp_path_factory.mktemp("worker") / "home"
    environment = environment_of(home, demo_bundle)
    with running_worker(Settings.from_env(environment), environment) as running:
        yield running


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Three pictures that differ."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        image = Image.new("RGB", (80, 60), "white")
        ImageDraw.Draw(image).ellipse((20, 10, 60, 50), fill=colour)
        image.save(folder / f"{colour}.png")
    return [str(folder / f"{colour}.png") for colour in ("red", "green", "blue")]


def test_texts_are_embedded(worker: Running, demo_bundle: Path) -> None:
    """A job's vectors are found by text, and are those of an Encoder here."""
    texts = ["a red circle", "two blue squares", "a red circle"]
    answer = worker.run("warmclip.work.jobs.embed_texts", texts).return_value
    assert answer is not None
    encoder = Encoder.open(demo_bundle, provider="cpu")
    assert answer["fingerprint"] == encoder.fingerprint
    assert set(answer["vectors"]) == set(texts)
    rows = [answer["vectors"][text] for text in texts]
    np.testing.assert_allclose(rows, encoder.encode_texts(texts), atol=1e-6)


def test_bad_pictures_inside_a_job(
    worker: Running, pictures: list[str], tmp_path: Path, demo_bundle: Path
) -> None:
    """Each bad file is named with its reason; its neighbours' vectors are unaffected."""
    text, gone = tmp_path / "text.png", tmp_path / "gone.png"
    text.write_text("this is no picture")
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    paths = [pictures[0], str(text), pictures[1], str(gone), strange, str(tmp_path)]
    answer = worker.run("warmclip.work.jobs.embed_images", paths).return_value
    assert answer is not None
    assert set(answer["unreadable"]) == {str(text), str(gone), strange, str(tmp_path)}
    assert all(answer["unreadable"].values())
    expected = Encoder.open(demo_bundle, provider="cpu").encode_images(pictures[:2])
    np.testing.assert_allclose(
        [answer["vectors"][path] for path in pictures[:2]], expected, atol=1e-6
    )


def test_folder_through_the_queue(worker: Running, pictures: list[str], tmp_path: Path) -> None:
    """A folder is cut into jobs, indexed, found by text and by image; once more changes nothing."""
    folder = Path(pictures[0]).parent
    (folder / "bad.jpg").write_bytes(b"no picture")
    seen = []
    run = submit_index(
        worker.connection, worker.settings, [folder, tmp_path / "gone"], collection="q", chunk=2
    )
    assert (len(run.job_ids), run.images) == (2, 4)
    report = watch(
        worker.connection, run, progress=lambda done, total, _: seen.append((done, total))
    )
    assert report.indexed == 3
    assert set(report.skipped) == {str(folder / "bad.jpg"), str(tmp_path / "gone")}
    assert seen[-1] == (4, 4)

    answer = call(worker.connection, "search", {"collection": "q", "image": pictures[2]})
    assert answer["hits"][0]["path"] == pictures[2]
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    answer = call(worker.connection, "search", {"collection": "q", "text": "blue", "limit": 2})
    assert (len(answer["hits"]), answer["cut"]) == (2, [])
    terms = [{"text": "blue"}, {"image": pictures[2], "weight": -4}, {"text": "x " * 99}]
    answer = call(worker.connection, "search", {"collection": "q", "terms": terms})
    assert (answer["hits"][-1]["path"], answer["cut"]) == (pictures[2], ["x " * 99])
    likes = [{"like": hit["id"], "weight": 0.5} for hit in answer["hits"][:2]]
    arguments = {"collection": "q", "terms": likes, "limit": 1, "min_score": -1}
    answer = call(worker.connection, "search", arguments)
    assert [hit["path"] for hit in answer["hits"]] == [pictures[2]]
    answer = call(worker.connection, "search", {**arguments, "min_score": 1})
    assert answer["hits"] == []

    run = submit_index(worker.connection, worker.settings, [folder], collection="q", chunk=2)
    report = watch(worker.connection, run)
    assert (report.indexed, report.unchanged) == (0, 3)


def test_refused_function(worker: Running, tmp_path: Path) -> None:
    """A job that names another function fails with the reason; the function never runs."""
    proof = tmp_path / "proof"
    result = worker.run("os.system", f"touch {proof}")
    assert "'os.system' is not on the worker's list" in reason(result)
    assert not proof.exists()
    assert worker.run("warmclip.work.jobs.embed_texts", ["still here"]).return_value


@pytest.mark.parametrize("when", ["on_success", "on_failure"])
def test_refused_callback(worker: Running, when: str) -> None:
    """A callback that is not listed fails the job, and does not run either."""
    options: dict[str, Any] = {when: Callback("antigravity.geohash")}
    result = worker.run("warmclip.work.jobs.embed_texts", ["a"], **options)
    assert "callback 'antigravity.geohash' is not on the worker's list" in reason(result)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_pickled_job(worker: Running, tmp_path: Path) -> None:
    """Pickle bytes are never unpickled; the failure says which serializer to use."""
    proof = tmp_path / "proof"
    queue = Queue(connection=worker.connection, serializer=JSONSerializer)
    job = queue.create_job("warmclip.work.jobs.embed_texts", args=["a"], job_id="pickled")
    job.save()
    data = pickle.dumps(("warmclip.work.jobs.embed_texts", None, (Bomb(f"touch {proof}"),), {}))
    worker.connection.hset(job.key, "data", data)
    queue.push_job_id(job.id)
    assert "serializer=JSONSerializer" in reason(outcome(job))
    assert not proof.exists()
    assert worker.run("warmclip.work.jobs.embed_texts", ["still here"]).return_value


def test_malformed_record(worker: Running) -> None:
    """A record that RQ cannot read is a failed job, not a dead worker."""
    queue = Queue(connection=worker.connection, serializer=JSONSerializer)
    job = Job.create(
        "warmclip.work.jobs.embed_texts",
        args=(["a"],),
        connection=worker.connection,
        serializer=JSONSerializer,
        origin="default",
    )
    job.save()
    worker.connection.hset(job.key, "timeout", "soon")
    queue.push_job_id(job.id)
    assert "malformed" in reason(outcome(job))
    assert worker.run("warmclip.work.jobs.embed_texts", ["still here"]).return_value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retry_intervals", b"[" * 100_000),
        ("dependency_ids", b"5"),
        ("created_at", b"yesterday"),
        ("data", zlib.compress(b"[" + b" " * 50_000_000 + b"]")),
    ],
    ids=["deep", "dependency", "date", "bomb"],
)
def test_record_made_to_hurt(worker: Running, field: str, value: bytes) -> None:
    """Whoever writes to Redis by hand gets a failed job, and the next one runs."""
    queue = Queue(connection=worker.connection, serializer=JSONSerializer)
    job = queue.create_job("warmclip.work.jobs.embed_texts", args=(["a"],), job_id=f"hurt-{field}")
    job.save()
    worker.connection.hset(job.key, field, value)
    queue.push_job_id(job.id)
    assert worker.run("warmclip.work.jobs.embed_texts", ["still here"]).return_value
    assert worker.process.poll() is None


def test_queue_entry_that_is_no_job(worker: Running) -> None:
    """Ids that lead to something else, or are none, are passed by."""
    worker.connection.set("rq:job:a-string", "x")
    worker.connection.rpush("rq:queue:default", "a-string", b"\xff\xfe", "no/job id")
    assert worker.run("warmclip.work.jobs.embed_texts", ["still here"]).return_value
    assert worker.process.poll() is None


def test_job_that_has_expired(worker: Running) -> None:
    """It is passed by without a warning: questions expire when nobody waits for them any more."""
    worker.connection.rpush("rq:queue:default", "expired-question")
    assert worker.run("warmclip.work.jobs.embed_texts", ["still here"]).return_value
    said = [line for line in worker.log.read_text().splitlines() if "expired-question" in line]
    assert len(said) == 1
    assert "WARNING" not in said[0]


def test_job_that_would_list_a_folder(worker: Running, pictures: list[str], tmp_path: Path) -> None:
    """A job names files: a folder, a pattern or a link tells nothing of what lies behind it."""
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "passport.png").write_bytes(b"")
    link = Path(pictures[0]).parent / "link"
    link.symlink_to(secret)
    folder = Path(pictures[0]).parent
    paths = [str(folder), f"{link}/*", str(link), f"{folder}/**/../{secret.name}/*"]
    result = worker.run("warmclip.work.jobs.index_images", paths, "listing")
    assert "passport" not in str(result.return_value) + str(result.exc_string)
    assert result.return_value is None or result.return_value["indexed"] == 0


def test_oversized_job(worker: Running) -> None:
    """A job with more items than the bound fails, naming the bound's variable."""
    texts = [str(number) for number in range(1025)]
    result = worker.run("warmclip.work.jobs.embed_texts", texts)
    assert "at most 1024" in reason(result)
    assert "WARMCLIP_MAX_JOB_ITEMS" in reason(result)


def test_failure_text_that_is_not_utf8(worker: Running) -> None:
    """A reason with bytes that are no UTF-8 in it is recorded, and the worker goes on."""
    job = open_queue(worker.connection).enqueue(
        "warmclip.work.jobs.embed_texts", kwargs={"caf\udce9": 1}, description="odd"
    )
    assert r"caf\udce9" in reason(outcome(job))
    assert worker.run("warmclip.work.jobs.embed_texts", ["still here"]).return_value


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"collection": "missing", "text": "a"}, StoreError),
        ({"collection": "q", "image": "/nonexistent.png"}, ImageUnreadable),
        ({"collection": "q", "text": "a" * 100_001}, TextRefused),
        ({"collection": "q"}, JobRefused),
        ({"collection": "q", "text": "a", "limit": 0}, SearchRefused),
        ({"collection": "q", "text": "a", "min_score": 2}, SearchRefused),
        ({"collection": "q", "terms": []}, SearchRefused),
        ({"collection": "q", "terms": [{"text": "a"}, {"weight": 2}]}, SearchRefused),
        ({"collection": "q", "terms": [{"text": "a"}, {"text": "a", "weight": -1}]}, SearchRefused),
        ({"collection": "q", "text": "a", "terms": [{"text": "a"}]}, JobRefused),
    ],
)
def test_errors_of_a_call_come_home(
    worker: Running, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """What the worker raised is raised here, as the same class."""
    with pytest.raises(error):
        call(worker.connection, "search", arguments)


def test_status(worker: Running) -> None:
    """The worker, its queue and a failure with its reason are shown, as JSON too."""
    worker.run("os.system", "true")
    shown = read_status(worker.connection)
    (state,) = shown.workers
    assert (state.pid, state.queues) == (worker.process.pid, ("high", "default"))
    (default,) = [queue for queue in shown.queues if queue.name == "default"]
    assert default.failed >= 1
    assert shown.failures[0].function == "os.system"
    assert "not on the worker's list" in shown.failures[0].reason
    assert shown.to_dict()["workers"][0]["name"] == state.name


def test_lost_job_is_submitted_again(tmp_path: Path, pictures: list[str]) -> None:
    """A job that says it waits, but is in no list, does not keep its pictures from being queued."""
    settings = Settings(home=tmp_path / "home", bundle=Path("unused"))
    with open_broker(settings) as connection:
        queue = open_queue(connection)
        run = submit_index(connection, settings, pictures)
        connection.delete(queue.key)
        submit_index(connection, settings, pictures)
        assert queue.job_ids == run.job_ids


def test_second_worker_on_one_store(worker: Running, demo_bundle: Path) -> None:
    """The embedded store has one owner: another worker ends, naming QDRANT_URL."""
    second = subprocess.run(
        WORKER,
        env=os.environ | environment_of(worker.settings.home, demo_bundle),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert second.returncode == 3  # what systemd starts again: the owner may be a command that ends
    assert "QDRANT_URL" in second.stderr
    assert "Traceback" not in second.stderr


def test_submitting_twice_queues_once(tmp_path: Path, pictures: list[str]) -> None:
    """Jobs that still wait are not doubled; without a worker that is said, and they stay."""
    settings = Settings(home=tmp_path / "home", bundle=Path("unused"))
    with open_broker(settings) as connection:
        first = submit_index(connection, settings, pictures, chunk=2)
        before = [open_queue(connection).fetch_job(id_) for id_ in first.job_ids]
        second = submit_index(connection, settings, pictures, chunk=2)
        assert first.job_ids == second.job_ids
        after = [open_queue(connection).fetch_job(id_) for id_ in first.job_ids]
        assert [job and job.created_at for job in after] == [
            job and job.created_at for job in before
        ]
        assert open_queue(connection).job_ids == first.job_ids
        with pytest.raises(QueueUnreachable, match="warmclip worker"):
            watch(connection, first, worker_wait_s=0)
        with pytest.raises(QueueUnreachable, match="warmclip worker"):
            call(connection, "search", {"collection": "q", "text": "a"})
        assert open_queue(connection).count == 2


def test_shared_redis_and_roots(tmp_path: Path, demo_bundle: Path, pictures: list[str]) -> None:
    """With a REDIS_URL, paths are refused until there are roots, and outside them for ever.

    The password is nowhere to be seen.
    """
    shared = Settings(home=tmp_path / "shared", bundle=Path("unused"))
    with open_broker(shared) as redis:
        path = redis.connection_pool.connection_kwargs["path"]
        redis.config_set("requirepass", "s3cret")
        redis.auth("s3cret")
        try:
            url = f"unix://:s3cret@{path}"
            environment = environment_of(tmp_path / "worker", demo_bundle, REDIS_URL=url)
            with running_worker(Settings.from_env(environment), environment) as worker:
                result = worker.run("warmclip.work.jobs.embed_images", pictures)
                assert "set WARMCLIP_ROOTS" in reason(result)
                run = submit_index(worker.connection, worker.settings, pictures)
                report = watch(worker.connection, run)
                assert set(report.skipped) == set(pictures)
                assert "set WARMCLIP_ROOTS" in report.skipped[pictures[0]]
            environment["WARMCLIP_ROOTS"] = str(Path(pictures[0]).parent)
            with running_worker(Settings.from_env(environment), environment) as worker:
                link = Path(pictures[0]).with_name("link.png")
                link.symlink_to("/etc/hosts")
                paths = [*pictures, str(link)]
                answer = worker.run("warmclip.work.jobs.embed_images", paths).return_value
                assert answer is not None
                assert set(answer["vectors"]) == set(pictures)
                assert "outside the roots" in answer["unreadable"][str(link)]
                paths = [*pictures, "/etc/passwd"]
                answer = worker.run("warmclip.work.jobs.index_images", paths, "q").return_value
                assert answer is not None
                assert answer["indexed"] == len(pictures)
                assert "outside the roots" in answer["skipped"]["/etc/passwd"]
                assert "s3cret" not in worker.log.read_text()
        finally:
            redis.config_set("requirepass", "")


def test_sigterm(tmp_path: Path, demo_bundle: Path) -> None:
    """A stopped worker ends well, is listed no more, and takes its Redis along as the last one."""
    environment = environment_of(tmp_path / "home", demo_bundle)
    settings = Settings.from_env(environment)
    with running_worker(settings, environment) as worker:
        worker.process.terminate()
        assert worker.process.wait(PATIENCE_S) == 0
        assert read_status(worker.connection).workers == ()
    assert not (settings.home / "redis" / "redis.pid").exists()


@pytest.mark.parametrize("name", ["My Disk", "two\nlines", "Küche=1 id=2"])
def test_home_with_a_strange_name(tmp_path: Path, demo_bundle: Path, name: str) -> None:
    """A worker works on the private Redis of a home that has a space or a line break in it."""
    environment = environment_of(tmp_path / name / "home", demo_bundle)
    (tmp_path / name).mkdir()
    with running_worker(Settings.from_env(environment), environment) as worker:
        assert worker.run("warmclip.work.jobs.embed_texts", ["a"]).return_value


def test_starting_worker(tmp_path: Path, demo_bundle: Path) -> None:
    """A worker is known from the beginning, as one that starts; a client waits for it."""
    environment = environment_of(tmp_path / "home", demo_bundle)
    settings = Settings.from_env(environment)
    with open_broker(settings) as connection:
        process = start_worker(environment, log=tmp_path / "worker.log")
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not (workers := read_status(connection).workers):
                assert time.monotonic() < deadline
            assert workers[0].state == STARTING
            assert call(connection, "embed_texts", {"texts": ["a"]})["vectors"]
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


def test_worker_that_cannot_start_is_known_no_more(tmp_path: Path) -> None:
    """One without a model says why, and leaves nobody waiting for it."""
    settings = Settings(home=tmp_path / "home", bundle=tmp_path / "no-model")
    with open_broker(settings) as connection:
        with pytest.raises(BundleError, match="no-model"):
            run_worker(settings)
        assert read_status(connection).workers == ()


def test_sigterm_at_birth(tmp_path: Path, demo_bundle: Path) -> None:
    """A worker that is stopped at the very moment it appears leaves nothing behind either."""
    environment = environment_of(tmp_path / "home", demo_bundle)
    settings = Settings.from_env(environment)
    with open_broker(settings) as connection:
        process = start_worker(environment, log=tmp_path / "worker.log")
        deadline = time.monotonic() + PATIENCE_S
        while not connection.scard("rq:workers"):  # without a pause: the moment is short
            assert time.monotonic() < deadline
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        assert connection.smembers("rq:workers") == set()
        assert read_status(connection).workers == ()


def test_model_missing(tmp_path: Path) -> None:
    """A worker without a model does not start, and says where it looked."""
    settings = Settings(home=tmp_path / "home", bundle=tmp_path / "no-model")
    with pytest.raises(BundleError, match="no-model"):
        run_worker(settings)


def test_redis_unreachable() -> None:
    """A worker without Redis does not start: the address is named, the password is not."""
    settings = Settings.from_env({"REDIS_URL": "redis://:s3cret@127.0.0.1:1/0"})
    with pytest.raises(QueueUnreachable, match=r"127\.0\.0\.1:1") as caught:
        run_worker(settings)
    assert "s3cret" not in str(caught.value)
