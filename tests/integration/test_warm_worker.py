"""What a worker decides: Redis is real, and what its horse says is scripted."""

import base64
import json
import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError
from rq import Callback
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import Worker

from standins.clock import Clock
from standins.redis_server import redis_server
from standins.scripted_horse import BEGAN, DECODES, LOADS, Said, ScriptedHorse, decodes, ends
from warmclip.errors import ProviderUnavailable
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.settings import Settings
from warmclip.work import poisoned_files, worker
from warmclip.work.allowlist import AllowedJob
from warmclip.work.counters import CounterBuffer, read_counters
from warmclip.work.crash_policy import CrashPolicy
from warmclip.work.dequeue import Dequeuer
from warmclip.work.follower import ModelFollower
from warmclip.work.horse import warm_horse
from warmclip.work.horse.report import JobReport
from warmclip.work.horse.warm_horse import Order, WarmHorse
from warmclip.work.liveness import AT
from warmclip.work.patience import Patience
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles
from warmclip.work.recorder import JobRecorder
from warmclip.work.rq_worker import HEARTBEAT_EVERY_S
from warmclip.work.worker import WarmWorker

pytestmark = pytest.mark.usefixtures("server_binary", "signals")

OURS = "warmclip.work.jobs.embed_texts"
OWN = "my_jobs.resize"
Hire: TypeAlias = Callable[..., WarmWorker]
SEGV, KILL = -signal.SIGSEGV, -signal.SIGKILL


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    """An empty one, where two crashes in a row are enough."""
    return Quarantine(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home of the test's own."""
    return Settings.from_env({"WARMCLIP_HOME": str(tmp_path)})


@pytest.fixture
def hire(connection: Redis, quarantine: Quarantine, settings: Settings) -> Hire:
    """Makes a worker with these horses, one after the other."""

    def make(*horses: ScriptedHorse, redis: Redis = connection) -> WarmWorker:
        left = [*horses]
        policy = CrashPolicy(PoisonedFiles(redis), quarantine, max_crashes=2)
        start: Any = lambda _: left.pop(0)  # noqa: E731 - a horse as its worker sees it
        warm = WarmHorse(start, policy, hang_s=30.0)
        follower = ModelFollower(redis, "mine", settings, warm)
        return WarmWorker(["default"], "mine", redis, warm, policy, CounterBuffer(), follower)

    return make


def enqueue(connection: Redis, function: str = OURS, **options: Any) -> Job:
    """A job of a producer's."""
    queue = Queue(connection=connection, serializer=JSONSerializer)
    return queue.enqueue(function, args=(["a"],), **options)


def runs(*horses: ScriptedHorse) -> int:
    """How often a horse was given a job."""
    return sum(len(horse.orders) for horse in horses)


@pytest.mark.parametrize(
    ("function", "scripts", "expected"),
    [
        # One of our own may run twice without harm, and does: four times at most.
        (OURS, [[BEGAN, None], [ends()]], (2, JobStatus.FINISHED)),
        (OURS, [[BEGAN, None]] * 3 + [[ends()]], (4, JobStatus.FINISHED)),
        (OURS, [[BEGAN, None]] * 4 + [[ends()]], (4, JobStatus.FAILED)),
        # One of the user's own runs once, unless the horse had not begun with it.
        (OWN, [[BEGAN, None], [ends()]], (1, JobStatus.FAILED)),
        (OWN, [[None], [BEGAN, ends()]], (2, JobStatus.FINISHED)),
    ],
)
def test_job_whose_horse_dies(
    connection: Redis,
    hire: Hire,
    function: str,
    scripts: list[list[Said]],
    expected: tuple[int, JobStatus],
) -> None:
    """How often it runs, and what becomes of it."""
    job = enqueue(connection, function)
    horses = [ScriptedHorse(*script, code=SEGV) for script in scripts]
    hired = hire(*horses)
    hired.start()
    hired.run(burst=True, max_jobs=1)
    assert (runs(*horses), job.get_status()) == expected


@pytest.mark.parametrize(("between", "is_left"), [([ends()], False), ([], True)])
def test_crashes_of_a_provider(
    connection: Redis,
    hire: Hire,
    quarantine: Quarantine,
    between: list[Said],
    is_left: bool,
) -> None:
    """Two in a row quarantine it; two with a job between them that ended well do not."""
    for _ in range(2):
        enqueue(connection)
    first = ScriptedHorse(BEGAN, LOADS, None, code=SEGV)
    second = ScriptedHorse(BEGAN, *between, LOADS, None, code=SEGV)
    hired = hire(first, second, ScriptedHorse(BEGAN, ends(), ends()))
    hired.start()
    hired.run(burst=True)
    assert bool(quarantine.active()) is is_left


def test_kills_from_outside(connection: Redis, hire: Hire) -> None:
    """The third that hits the same picture sets it aside; from the first on one is careful.

    The horse is told of it, and told when the picture gets another chance.
    """
    jobs = [enqueue(connection) for _ in range(2)]
    dying = [ScriptedHorse(BEGAN, DECODES, None, code=KILL) for _ in range(3)]
    poisoned = PoisonedFiles(connection)
    last = ScriptedHorse(BEGAN, lambda: poisoned.remove(["/a.jpg"]), ends(), BEGAN, ends())
    hired = hire(*dying, last)
    hired.start()
    hired.run(burst=True)
    orders = [order for horse in (*dying, last) for order in horse.orders]
    assert [order["careful"] for order in orders] == [False, True, True, True, False]
    told = [[it["path"] for it in order["poisoned"]] for order in orders]
    assert told == [[], [], [], ["/a.jpg"], []]
    assert [job.get_status() for job in jobs] == [JobStatus.FINISHED] * 2


def test_kills_that_hit_other_pictures(connection: Redis, hire: Hire) -> None:
    """Three of them are no pattern: nothing is set aside."""
    job = enqueue(connection)
    dying = [ScriptedHorse(BEGAN, decodes(f"/{name}.jpg"), None, code=KILL) for name in "abc"]
    hired = hire(*dying, ScriptedHorse(BEGAN, ends()))
    hired.start()
    hired.run(burst=True)
    assert PoisonedFiles(connection).count() == 0
    assert job.get_status() == JobStatus.FINISHED


def test_one_is_requeued_and_another_set_aside(connection: Redis) -> None:
    """A worker knows both, though there are as many as before."""
    known = PoisonedFiles(connection)
    first, second = (
        PoisonedFile.describe(path, "it kills", job="j", collection=None) for path in ("/a", "/b")
    )
    known.add(first)
    assert known.known() == (first,)
    PoisonedFiles(connection).remove(["/a"])
    known.add(second)
    assert known.known() == (second,)


def test_picture_that_was_requeued_and_kills_again(connection: Redis, hire: Hire) -> None:
    """It begins anew: one kill from outside is no pattern."""
    enqueue(connection)
    dying = [ScriptedHorse(BEGAN, DECODES, None, code=KILL) for _ in range(3)]
    poisoned = PoisonedFiles(connection)
    again = ScriptedHorse(BEGAN, lambda: poisoned.remove(["/a.jpg"]), DECODES, None, code=KILL)
    hired = hire(*dying, again, ScriptedHorse(ends()))
    hired.start()
    hired.run(burst=True)
    assert poisoned.count() == 0


def test_too_many_pictures_are_set_aside(
    connection: Redis, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that cannot be is no reason to run its job for ever: it fails."""
    monkeypatch.setattr(poisoned_files, "_MOST", 0)
    job = enqueue(connection)
    horses = ScriptedHorse(BEGAN, DECODES, None, code=SEGV), ScriptedHorse(ends())
    hired = hire(*horses)
    hired.start()
    hired.run(burst=True, max_jobs=1)
    assert (runs(*horses), job.get_status()) == (1, JobStatus.FAILED)


@pytest.mark.parametrize(
    ("apart_s", "status"),
    [
        (0.0, JobStatus.FINISHED),
        (0.2, JobStatus.FINISHED),
        (0.3, JobStatus.QUEUED),
        (0.4, JobStatus.QUEUED),
    ],
)
def test_asked_to_stop_more_than_once(
    connection: Redis,
    hire: Hire,
    monkeypatch: pytest.MonkeyPatch,
    apart_s: float,
    status: JobStatus,
) -> None:
    """Once, and a Ctrl+C may arrive twice: the job is finished. Later again: it is put back."""
    job = enqueue(connection, retry=Retry(max=1))
    began = now()
    times = [began, began + timedelta(seconds=apart_s)]

    def ask() -> None:
        monkeypatch.setattr(worker, "now", lambda: times[0])
        hired.request_stop(signal.SIGINT, None)
        monkeypatch.setattr(worker, "now", lambda: times[1])
        hired.request_stop(signal.SIGINT, None)

    horse = ScriptedHorse(BEGAN, ask, ends(), code=KILL)
    hired = hire(horse)
    hired.start()
    assert hired.run()
    assert job.get_status() == status
    assert horse.was_killed is (status == JobStatus.QUEUED)
    job.refresh()  # type: ignore[no-untyped-call]  # rq's is not annotated
    assert job.retries_left == 1


@pytest.mark.parametrize(
    ("has_job", "times", "gives_up"),
    [(False, 0, False), (True, 0, False), (False, 1, True), (True, 1, False), (True, 2, True)],
)
def test_asked_to_stop_while_redis_is_away(
    hire: Hire,
    monkeypatch: pytest.MonkeyPatch,
    has_job: bool,
    times: int,
    gives_up: bool,
) -> None:
    """Nothing is waited for any more, but that the outcome of a job that runs can be recorded."""
    hired = hire()
    hired.set_horse_pid(4711 if has_job else 0)
    for attempt in range(times):
        at = now() + timedelta(seconds=attempt)
        monkeypatch.setattr(worker, "now", lambda at=at: at)
        hired.request_stop(signal.SIGTERM, None)
    assert hired.gives_up is gives_up


def test_redis_is_lost_for_good(tmp_path: Path, hire: Hire) -> None:
    """The worker does not end as if all were well."""
    with (
        redis_server(tmp_path) as server,
        Redis(port=server.port, retry=Patience(0.0)) as redis,
    ):
        enqueue(redis)
        horse = ScriptedHorse(BEGAN, lambda: server.admin.shutdown(nosave=True), ends())
        hired = hire(horse, redis=redis)
        hired.start()
        with pytest.raises((RedisConnectionError, OSError)):
            hired.run(burst=True)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ([BEGAN, None], JobStatus.QUEUED),
        ([BEGAN, ends(tainted="memory ran out")], JobStatus.FINISHED),
    ],
)
def test_no_horse_can_be_had_any_more(
    connection: Redis, hire: Hire, script: list[Said], status: JobStatus
) -> None:
    """The worker ends with the reason; a job that it had taken is put back."""
    job, following = enqueue(connection), enqueue(connection)
    wrong = {"error": "ProviderUnavailable", "message": "the device is gone"}
    hired = hire(ScriptedHorse(*script, code=SEGV), ScriptedHorse(before=[wrong]))
    hired.start()
    with pytest.raises(ProviderUnavailable, match="the device is gone"):
        hired.run(burst=True)
    assert job.get_status() == status
    waiting = [job.id] if status == JobStatus.QUEUED else []
    assert hired.queues[0].job_ids == [*waiting, following.id]


def test_bug_in_the_loop(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """RQ's loop logs it and ends; the worker does not say that it ended as it should."""

    def fail(_: Dequeuer) -> None:
        raise RuntimeError("a bug")

    hired = hire(ScriptedHorse())
    hired.start()
    monkeypatch.setattr(Dequeuer, "take", fail)
    assert hired.run(burst=True) is False


def test_bug_after_the_first_job(
    connection: Redis, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One job of two is not enough."""
    enqueue(connection)
    left = [Dequeuer.take]

    def fail_later(dequeuer: Dequeuer) -> Any:
        if not left:
            raise RuntimeError("a bug")
        return left.pop()(dequeuer)

    hired = hire(ScriptedHorse(BEGAN, ends()))
    hired.start()
    monkeypatch.setattr(Dequeuer, "take", fail_later)
    assert hired.run(burst=True, max_jobs=2) is False


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value", JobStatus.FINISHED),
        ("OOM command not allowed when used memory > 'maxmemory'.", JobStatus.QUEUED),
    ],
)
def test_job_that_cannot_be_started(
    connection: Redis,
    hire: Hire,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    status: JobStatus,
) -> None:
    """Records of another kind cost this job, and the next one runs; a refusal ends the worker."""
    job, following = enqueue(connection), enqueue(connection)
    start = JobRecorder.start

    def fail_once(recorder: JobRecorder, taken: AllowedJob, queue: Queue) -> Any:
        if taken.id == job.id:
            raise ResponseError(said)
        return start(recorder, taken, queue)

    monkeypatch.setattr(JobRecorder, "start", fail_once)
    hired = hire(ScriptedHorse(BEGAN, ends()))
    hired.start()
    between = hired.queues[0].intermediate_queue
    if status == JobStatus.FINISHED:
        assert hired.run(burst=True)
        assert between.get_job_ids() == []
    else:
        with pytest.raises(ResponseError, match="OOM"):
            hired.run(burst=True)
        assert between.get_job_ids() == [job.id]  # from where recovery puts it back
    assert following.get_status() == status


def test_no_horse_at_all(connection: Redis, hire: Hire) -> None:
    """A worker that cannot start is registered no longer."""
    wrong = {"error": "ProviderUnavailable", "message": "the device is gone"}
    hired = hire(ScriptedHorse(before=[wrong]))
    with pytest.raises(ProviderUnavailable):
        hired.start()
    assert Worker.all(connection=connection) == []


def stop_command(job: Job) -> dict[str, bytes]:
    """RQ's message to stop a job."""
    return {"data": f'{{"command": "stop-job", "job_id": "{job.id}"}}'.encode()}


def test_stopped_by_command(connection: Redis, hire: Hire) -> None:
    """Its job is stopped, not retried; the next one runs."""
    job, following = enqueue(connection, retry=Retry(max=2)), enqueue(connection)
    first = ScriptedHorse(BEGAN, lambda: hired.handle_payload(stop_command(job)), code=KILL)
    hired = hire(first, ScriptedHorse(ends()))
    hired.start()
    hired.run(burst=True)
    assert (job.get_status(), following.get_status()) == (JobStatus.STOPPED, JobStatus.FINISHED)
    assert job.id in Queue(connection=connection).failed_job_registry


@pytest.mark.parametrize("when", ["before it starts", "as it starts", "while it loads"])
@pytest.mark.parametrize(
    ("how", "status"), [("stop-job", JobStatus.STOPPED), ("signals", JobStatus.QUEUED)]
)
def test_stopped_while_it_has_no_horse(
    connection: Redis,
    hire: Hire,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    how: str,
    status: JobStatus,
) -> None:
    """A job whose horse has died is not given to the next one, if it or its worker is stopped
    meanwhile.
    """
    job = enqueue(connection)
    began = now()

    def stop() -> None:
        if how == "stop-job":
            hired.handle_payload(stop_command(job))
            return
        for seconds in (0, 1):
            monkeypatch.setattr(worker, "now", lambda at=seconds: began + timedelta(seconds=at))
            hired.request_stop(signal.SIGINT, None)

    def stop_and_start(_: object) -> ScriptedHorse:
        stop()
        return second

    before: list[Said] = [stop] if when == "while it loads" else []
    first = ScriptedHorse(BEGAN, None, code=SEGV)
    second = ScriptedHorse(ends(), before=before, code=KILL)
    hired = hire(first, second, ScriptedHorse())
    hired.start()
    if when == "before it starts":
        monkeypatch.setattr(first, "close", stop)
    elif when == "as it starts":
        monkeypatch.setattr(hired._horse, "_start", stop_and_start)
    hired.run(burst=True, max_jobs=1)
    assert (runs(first, second), job.get_status()) == (1, status)


def test_horse_is_killed_while_it_loads(connection: Redis, hire: Hire) -> None:
    """By RQ's command, and there is a job for it: the job fails, as if it had run."""
    job = enqueue(connection)
    command = {"data": b'{"command": "kill-horse"}'}
    second = ScriptedHorse(ends(), before=[lambda: hired.handle_payload(command)], code=KILL)
    hired = hire(ScriptedHorse(BEGAN, None, code=SEGV), second)
    hired.start()
    hired.run(burst=True, max_jobs=1)
    assert (second.was_killed, runs(second)) == (True, 0)
    assert job.get_status() == JobStatus.FAILED


def test_no_horse_for_what_is_queued(connection: Redis, hire: Hire) -> None:
    """A command to kill it comes late, as its job has just ended and the next one loads: the worker
    does not end as if it had done what there was.
    """
    job = enqueue(connection)

    def kill() -> None:
        hired.kill_horse()

    first, second = ScriptedHorse(), ScriptedHorse(before=[kill], code=KILL)
    hired = hire(first, second)
    hired.start()
    first.is_alive = False
    assert hired.run(burst=True) is False
    assert (second.was_killed, job.get_status()) == (True, JobStatus.QUEUED)


def test_model_that_takes_long_to_load(hire: Hire, caplog: pytest.LogCaptureFixture) -> None:
    """Each step that the horse tells is logged, once."""
    steps = [{"at": [done, 9, "compiling"]} for done in (1, 1, 2)]
    hired = hire(ScriptedHorse(before=[it for step in steps for it in (step, 1.0)]))
    with caplog.at_level("INFO"):
        hired.start()
    told = [it for it in caplog.messages if "the model is not loaded yet" in it]
    assert len(told) == 2


def test_stopped_and_queued_again(connection: Redis, hire: Hire) -> None:
    """What stopped a job before does not stop it now: its horse dies, and the next one runs it."""
    job = enqueue(connection)
    first = ScriptedHorse(BEGAN, lambda: hired.handle_payload(stop_command(job)), code=KILL)
    second, third = ScriptedHorse(BEGAN, None, code=SEGV), ScriptedHorse(ends())
    hired = hire(first, second, third)
    hired.start()
    hired.run(burst=True)
    assert job.get_status() == JobStatus.STOPPED
    job.requeue()
    hired.run(burst=True, max_jobs=2)
    assert (runs(first, second, third), job.get_status()) == (3, JobStatus.FINISHED)


def test_command_that_comes_late(
    connection: Redis, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a command is carried out, the job that it names may end, but no other begins."""
    job = enqueue(connection)
    enqueue(connection)
    has_begun = threading.Event()
    saw_the_next: list[bool] = []
    is_killing = threading.Event()

    def kill() -> None:  # of the thread that hears commands: the job's answer is on its way
        is_killing.set()
        saw_the_next.append(has_begun.wait(0.5))

    def command() -> None:
        thread = threading.Thread(target=hired.handle_payload, args=(stop_command(job),))
        thread.start()
        threads.append(thread)
        assert is_killing.wait(60)

    threads: list[threading.Thread] = []
    second_begins: Callable[[], object] = has_begun.set
    hired = hire(ScriptedHorse(BEGAN, command, ends(), BEGAN, second_begins, ends()))
    monkeypatch.setattr(hired, "kill_horse", kill)
    hired.start()
    hired.run(burst=True)
    for thread in threads:
        thread.join(60)
    assert saw_the_next == [False]
    assert has_begun.is_set()


@pytest.mark.parametrize(
    ("error", "before", "lives"),
    [
        (RedisConnectionError("gone"), "", True),
        (OSError("refused"), "", True),
        (NoPermissionError("NOPERM no channel"), "", True),
        (ValueError("a bug"), "", False),
        (ValueError("of a connection that is being closed"), "unsubscribe", True),
        (ValueError("of a connection that is being closed"), "request_stop", True),
    ],
)
def test_thread_that_hears_commands(
    hire: Hire,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    before: str,
    lives: bool,
) -> None:
    """It outlives what passes, so that the worker is not deaf when Redis is back."""
    hired = hire()
    monkeypatch.setattr("warmclip.work.worker.time.sleep", lambda _: None)
    if before == "unsubscribe":
        hired.unsubscribe()
    elif before:
        hired.request_stop(signal.SIGTERM, None)
    if lives:
        hired._pubsub_exception_handler(error)
    else:
        with pytest.raises(ValueError, match="a bug"):
            hired._pubsub_exception_handler(error)


@pytest.mark.parametrize(
    ("jobs", "options", "ran"),
    [
        (0, {"burst": True}, 0),
        (2, {"burst": True}, 2),
        (3, {"burst": True, "max_jobs": 5}, 3),
        (3, {"max_jobs": 1}, 1),
        (3, {"max_jobs": 2}, 2),
    ],
)
def test_end_as_it_should_be(
    connection: Redis, hire: Hire, jobs: int, options: dict[str, Any], ran: int
) -> None:
    """After so many jobs, or when there is none left in a burst."""
    for _ in range(jobs):
        enqueue(connection)
    horse = ScriptedHorse(*[ends()] * jobs)
    hired = hire(horse)
    hired.start()
    assert hired.run(**options)
    assert runs(horse) == ran
    assert not connection.exists(hired.key) or connection.hget(hired.key, "death")


@pytest.mark.parametrize("is_left_alone", [True, False])
def test_supervisor_that_is_gone(connection: Redis, hire: Hire, is_left_alone: bool) -> None:
    """Its worker leaves before it takes another job; while it is there, the worker works."""
    job = enqueue(connection)
    hired = hire(ScriptedHorse(ends()))
    hired._supervisor = os.getppid() + is_left_alone
    hired.start()
    assert hired.run(burst=True)
    assert job.get_status() == (JobStatus.QUEUED if is_left_alone else JobStatus.FINISHED)
    assert hired.was_asked_to_stop is is_left_alone


def test_heartbeats(connection: Redis, hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few seconds all of a worker's record is written, in case that Redis has lost it."""
    clock = [1000.0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=None))
    hired = hire(ScriptedHorse())
    hired.start()
    written = []
    for seconds in (0.0, HEARTBEAT_EVERY_S - 0.5, 0.5, HEARTBEAT_EVERY_S - 0.5, 1.0):
        clock[0] += seconds
        connection.delete(hired.key, "rq:workers")
        hired._tick()
        written.append(connection.hget(hired.key, "state") is not None)
        assert bool(connection.sismember("rq:workers", hired.key)) is written[-1]
    assert written == [True, False, True, False, True]
    hired.request_stop(signal.SIGTERM, None)  # so that whoever watches learns it now
    hired._tick()
    assert connection.hget(hired.key, "shutdown_requested_date")


def test_how_far_a_job_is(connection: Redis, hire: Hire) -> None:
    """It is told with the heartbeat, with the job that it is of."""
    job = enqueue(connection)
    told: list[Any] = []

    def look() -> None:
        hired._heartbeat_at = float("-inf")
        told.append(json.loads(connection.hget(hired.key, AT) or b"null"))

    horse = ScriptedHorse(BEGAN, look, {"at": [3, 9, "indexing"]}, look, look, ends())
    hired = hire(horse)
    hired.start()
    hired.run(burst=True)
    assert told[0] is None
    assert told[-1] == [job.id, 3, 9, "indexing"]


CALLED = {"ready": True, "provider": "cpu", "model": "m", "models": [], "callbacks": ["my.failed"]}


@pytest.mark.parametrize(("callback", "is_called"), [("my.failed", True), ("my.other", False)])
def test_failure_callback_of_a_job_whose_horse_died(
    connection: Redis, hire: Hire, callback: str, is_called: bool
) -> None:
    """The next horse calls it, if it may, with the reason and the time that it was given."""
    job = enqueue(connection, OWN, on_failure=Callback(callback, timeout=77))
    first = ScriptedHorse(BEGAN, None, before=[CALLED], code=SEGV)
    second = ScriptedHorse(ends(), before=[CALLED])
    hired = hire(first, second)
    hired.start()
    hired.run(burst=True)
    assert job.get_status() == JobStatus.FAILED
    told = [order for order in second.orders if "died" in order]
    assert len(told) == is_called
    if is_called:
        assert (told[0]["job"], told[0]["execution"]) == (job.id, f"died-{job.id}")
        assert "SIGSEGV" in told[0]["died"]
        assert base64.b64decode(told[0]["record"]["failure_callback_name"]) == callback.encode()


def test_callback_that_kills_its_horse(connection: Redis, hire: Hire) -> None:
    """It is not called again, and a fresh horse runs the next job."""
    enqueue(connection, OWN, on_failure=Callback("my.failed"))
    later = enqueue(connection)
    horses = [
        ScriptedHorse(BEGAN, None, before=[CALLED], code=SEGV),
        ScriptedHorse(None, before=[CALLED], code=SEGV),
        ScriptedHorse(ends(), before=[CALLED]),
    ]
    hired = hire(*horses)
    hired.start()
    hired.run(burst=True)
    assert later.get_status() == JobStatus.FINISHED
    assert [len(horse.orders) for horse in horses] == [1, 1, 1]


def test_counts_of_a_worker(connection: Redis, hire: Hire) -> None:
    """Its horses, how they died, what became of jobs, and what their reports say of the store."""
    enqueue(connection)
    enqueue(connection, OWN)
    report = JobReport(
        execution="e", outcome="success", text="1", store_retries=3, points={"images": 42}
    )
    *parts, last = report.messages()
    horses = [ScriptedHorse(*parts, last, BEGAN, None, code=SEGV), ScriptedHorse()]
    horses[1].pid = 4712
    hired = hire(*horses)
    hired.start()
    hired.run(burst=True)
    assert read_counters(connection) == {
        "horses": 2, "runs:success": 1, "runs:failure": 1, "deaths:signal": 1,
        "store_retries": 3, "points:images": 42,
    }  # fmt: skip


def test_time_of_a_job_that_is_told_to_its_horse(
    connection: Redis, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the job was given, or RQ's default, or without end."""
    seen: list[float | None] = []
    run_job = WarmHorse.run_job

    def note(self: WarmHorse, order: Order, **options: Any) -> Any:
        seen.append(order.timeout_s)
        return run_job(self, order, **options)

    monkeypatch.setattr(WarmHorse, "run_job", note)
    hired = hire(ScriptedHorse(*[ends()] * 4))
    for timeout in (77, 1, None, -1):
        enqueue(connection, job_timeout=timeout)
    hired.start()
    hired.run(burst=True)
    assert seen == [77.0, 1.0, 180.0, None]


def test_heartbeats_after_a_sleep(
    connection: Redis, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is sent at once, and nothing is concluded from those of others for ten seconds."""
    rested: list[float] = []
    hired = hire(ScriptedHorse())
    hired.start()
    hired._tick()
    connection.delete(hired.key)
    monkeypatch.setattr(hired, "_clock", SimpleNamespace(has_jumped=lambda: True))
    monkeypatch.setattr(hired._recovery, "rest", rested.append)
    hired._tick()
    assert connection.hget(hired.key, "state")
    assert rested == [10.0]


def test_heartbeat_where_others_have_written(connection: Redis, hire: Hire) -> None:
    """What stands in the place of RQ's sets costs no heartbeat."""
    hired = hire(ScriptedHorse())
    hired.start()
    for key in ("rq:workers", "rq:workers:default"):
        connection.delete(key)
        connection.set(key, "x")
    connection.delete(hired.key)
    hired._tick()
    assert connection.hget(hired.key, "state")


def test_job_whose_time_is_over_when_its_horse_dies(
    connection: Redis, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not run again, though it may be: its application does not wait any more."""
    job = enqueue(connection)
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)

    def wait() -> None:
        clock.now += 3600

    horses = [ScriptedHorse(BEGAN, wait, None, code=SEGV), ScriptedHorse(ends())]
    hired = hire(*horses)
    hired.start()
    hired.run(burst=True)
    assert ([len(horse.orders) for horse in horses], job.get_status()) == ([1, 0], JobStatus.FAILED)


def test_callback_that_takes_its_time(
    connection: Redis, hire: Hire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the user's own code: as long as its time is not over, it does not hang."""
    clock = Clock()
    monkeypatch.setattr(warm_horse, "time", clock)
    enqueue(connection, OWN, on_failure=Callback("my.failed", timeout=77))
    second = ScriptedHorse(BEGAN, *[1.0] * 60, ends(), before=[CALLED], clock=clock)
    hired = hire(ScriptedHorse(BEGAN, None, before=[CALLED], code=SEGV), second)
    hired.start()
    hired.run(burst=True)
    assert len(second.orders) == 1
    assert "the failure callback of job" not in caplog.text


@pytest.mark.parametrize("data", [b"no json", b"[1]", b"{}", b'{"command": 7}', None, 5], ids=str)
def test_command_that_is_none(hire: Hire, data: object) -> None:
    """Whoever can write to Redis may send it: the worker hears the next one."""
    hired = hire()
    hired.handle_payload({"data": data})


def test_state_of_a_worker(connection: Redis, hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is busy while a job runs, and idle as it looks for the next one."""
    enqueue(connection)
    states: list[Any] = []

    def note() -> None:
        states.append(connection.hget(hired.key, "state"))

    hired = hire(ScriptedHorse(BEGAN, note, ends()))
    take = hired._dequeuer.take

    def note_and_take() -> Any:
        note()
        return take()

    monkeypatch.setattr(hired._dequeuer, "take", note_and_take)
    hired.start()
    hired.run(burst=True)
    assert states == [b"idle", b"busy", b"idle"]
