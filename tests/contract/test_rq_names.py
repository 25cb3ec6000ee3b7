"""The names of RQ that are private, or that no document promises, and that our worker relies on.

RQ may change them in any release. A failure here says what would break.
"""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from redis import Redis
from rq import callbacks, command, suspension, worker_registration
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, Execution, ExecutionRegistry
from rq.group import Group
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.rate_limit import RateLimitRegistry, release_slot
from rq.registry import (
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    StartedJobRegistry,
)
from rq.repeat import Repeat
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.timeouts import UnixSignalDeathPenalty
from rq.worker import Worker

import warmclip.work
from warmclip.work import keys
from warmclip.work.allowlist import AllowedJob
from warmclip.work.call import job_record
from warmclip.work.job_result import FailureReason, JobResult

# What we override or call, with the parameters that we pass or are passed -> what it is for.
SIGNATURES: dict[Callable[..., Any], tuple[str, str]] = {
    Worker.dequeue_job_and_maintain_ttl: ("self, timeout, max_idle_time", "taking jobs"),
    Worker.execute_job: ("self, job, queue", "giving jobs to the horse"),
    Worker.heartbeat: ("self, timeout, pipeline", "staying known to RQ"),
    Worker.handle_payload: ("self, message", "commands, which could hit the wrong job"),
    Worker.kill_horse: ("self, sig", "the commands stop-job and kill-horse"),
    Worker.request_stop: ("self, signum, frame", "SIGTERM and SIGINT"),
    Worker.check_for_suspension: ("self, burst", "rq suspend"),
    Worker.procline: ("self, message", "keeping setproctitle away from macOS"),
    Worker._pubsub_exception_handler: (
        "self, exc, pubsub, pubsub_thread",
        "listening to commands again after Redis was away",
    ),
    Worker._set_ip_address: ("self, connection", "a Redis behind a path with a space in it"),
    Worker.unsubscribe: ("self", "leaving while Redis is away"),
    Worker.set_shutdown_requested_date: ("self", "showing that a worker was asked to stop"),
    Worker.serialize: ("self", "the record, also after Redis lost its memory"),
    Worker._install_signal_handlers: ("self", "a SIGTERM before RQ expects one"),
    Worker.set_state: ("self, state, pipeline", "the state that rq info shows"),
    Worker.increment_successful_job_count: ("self, pipeline", "the worker's figures"),
    Worker.increment_failed_job_count: ("self, pipeline", "the worker's figures"),
    Worker.increment_total_working_time: (
        "self, job_execution_time, pipeline",
        "the worker's figures",
    ),
    worker_registration.register: ("worker, pipeline", "coming back after Redis lost its memory"),
    worker_registration.clean_worker_registry: ("queue", "clearing registries"),
    suspension.is_suspended: ("connection, worker", "rq suspend"),
    Execution.__init__: ("self, id, job_id, connection, worker_name", "recording that a job runs"),
    Execution.save: ("self, ttl, pipeline", "recording that a job runs"),
    Execution.delete: ("self, job, pipeline", "recording that a job is over"),
    ExecutionRegistry.add: ("self, execution, ttl, pipeline, xx", "recording that a job runs"),
    StartedJobRegistry.add_execution: (
        "self, execution, pipeline, ttl, xx",
        "recording that a job runs, or still runs",
    ),
    FinishedJobRegistry.add: ("self, job, ttl, pipeline, xx", "recording a success"),
    FailedJobRegistry.add: ("self, job, ttl, exc_string, pipeline", "recording a failure"),
    Job.prepare_for_execution: ("self, worker_name, pipeline", "recording that a job runs"),
    Job.heartbeat: ("self, timestamp, ttl, pipeline, xx", "recording that a job still runs"),
    Job.save: ("self, pipeline, include_meta, include_result", "recording an outcome"),
    Job.cleanup: ("self, ttl, pipeline, remove_from_queue", "how long a job is kept"),
    Job.set_status: ("self, status, pipeline", "recording an outcome"),
    Job.get_result_ttl: ("self, default_ttl", "how long a result is kept"),
    Job.get_retry_interval: ("self", "retries"),
    Retry.get_interval: ("count, intervals", "retries that a job asks for"),
    Repeat.schedule: ("job, queue, pipeline", "repeats"),
    release_slot: ("job", "rate limits"),
    Queue.move_dependents_to_ready: (
        "self, job, pipeline, exclude_job_id, refresh_job_status",
        "jobs that wait for another one",
    ),
    Queue.enqueue_ready_jobs_by_queue: (
        "self, job_ids_by_queue_name",
        "jobs that wait for another one",
    ),
    Queue.enqueue_dependents: (
        "self, job, exclude_job_id, refresh_job_status",
        "jobs that wait for one that failed",
    ),
    Queue.schedule_job: ("self, job, datetime, pipeline, unique", "retries with an interval"),
    Queue.push_job_id: ("self, job_id, pipeline, at_front", "putting jobs back"),
    Queue.acquire_maintenance_lock: ("self", "clearing registries"),
    Queue.release_maintenance_lock: ("self", "clearing registries"),
    ReadyJobRegistry.cleanup: ("self, timestamp, exception_handlers", "clearing registries"),
    Group.__init__: ("self, connection, name", "jobs of groups that are to leave nothing"),
    Group.delete_job: ("self, job_id, pipeline", "jobs of groups that are to leave nothing"),
    Group.clean_registries: ("connection", "clearing registries"),
    Group.acquire_maintenance_lock: ("connection, timeout", "clearing registries"),
    RateLimitRegistry.cleanup: ("self", "clearing registries"),
    callbacks.execute_success_callback: ("job, death_penalty_class, result", "callbacks"),
    callbacks.execute_failure_callback: ("job, death_penalty_class, exc_info", "callbacks"),
    UnixSignalDeathPenalty.handle_death_penalty: ("self, signum, frame", "time-outs"),
    Job.restore: ("self, raw_data", "refusing callbacks, webhooks and malformed records"),
    Job.latest_result: ("self, timeout", "reading results within bounds"),
    Job.to_dict: ("self, include_meta, include_result", "keeping callbacks through a retry"),
    Job.perform: ("self", "refusing what is not on the list"),
    Job._deserialize_data: ("self", "refusing pickle"),
    Result.restore: (
        "job_id, result_id, payload, connection, serializer",
        "reading results within bounds",
    ),
    Result.save: ("self, ttl, pipeline", "recording an outcome"),
    IntermediateQueue.get_job_ids: ("self", "finding jobs between two lists"),
    IntermediateQueue.remove: ("self, job_id", "clearing what was taken"),
}

# Function of RQ -> names that it must set, call or read for our override of them to matter.
USES: dict[Callable[..., Any], tuple[str, str]] = {
    Worker.__init__: (
        "_stop_requested _stopped_job_id _shutdown_requested_date _horse_pid executions "
        "_set_ip_address",
        "the worker's own state",
    ),
    Worker.work: (
        "bootstrap check_for_suspension should_run_maintenance_tasks _stop_requested "
        "dequeue_job_and_maintain_ttl execute_job heartbeat teardown",
        "RQ's loop around our worker",
    ),
    Worker._install_signal_handlers: ("request_stop", "SIGTERM and SIGINT"),
    Worker.check_for_suspension: ("_stop_requested", "stopping a suspended worker"),
    Worker.subscribe: ("handle_payload _pubsub_exception_handler pubsub pubsub_thread", "commands"),
    Worker.teardown: ("register_death unsubscribe", "leaving"),
    Worker.register_birth: ("serialize", "the worker's record"),
    Worker.set_shutdown_requested_date: ("_shutdown_requested_date", "who is asked to stop"),
    Worker.get_current_job_id: ("execution", "the command stop-job"),
    Worker.request_stop_execution: ("executions _stopped_job_id kill_horse", "stop-execution"),
    command.handle_stop_job_command: (
        "get_current_job_id _stopped_job_id kill_horse",
        "the command stop-job",
    ),
    command.handle_kill_worker_command: ("horse_pid kill_horse", "the command kill-horse"),
    command.handle_shutdown_command: ("getpid kill SIGINT", "the command shutdown"),
    Job.__init__: (
        "_success_callback_name _failure_callback_name _stopped_callback_name webhooks "
        "_dependency_ids _func_name _args _kwargs _status",
        "refusing callbacks, webhooks and calls that are none",
    ),
    Job.get_status: ("_status", "what a callback and a rate limit read of a job"),
    callbacks.execute_success_callback: ("success_callback connection", "callbacks"),
    callbacks.execute_failure_callback: ("failure_callback connection", "callbacks"),
    Result.fetch_latest: ("restore", "reading results within bounds"),
    Result.save: ("serialize xadd", "recording an outcome"),
    Job.send_webhooks: ("webhooks", "refusing webhooks"),
    UnixSignalDeathPenalty.setup_death_penalty: ("handle_death_penalty", "time-outs"),
}

_OPTIONS = {
    Worker.__init__: "queues name connection job_class serializer worker_ttl "
    "job_monitoring_interval log_job_description",
    Worker.work: "burst max_jobs with_scheduler",
    Job.fetch: "id connection serializer",
    Job.fetch_many: "job_ids connection serializer",
    Queue.all: "connection job_class serializer",
    Queue.__init__: "name connection job_class serializer",
    Result.__init__: "job_id type connection return_value exc_string worker_name serializer "
    "execution_id execution_started_at execution_ended_at",
}


def names(code: CodeType) -> set[str]:
    """Every name that a function mentions, inner functions included."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return {*code.co_names, *(name for each in inner for name in names(each))}


def name_of(function: Callable[..., Any]) -> str:
    """A function as it is named within its module."""
    return function.__qualname__


@pytest.mark.parametrize("function", SIGNATURES, ids=name_of)
def test_signature(function: Callable[..., Any]) -> None:
    """What we override or call takes what we think it takes."""
    parameters, purpose = SIGNATURES[function]
    found = ", ".join(inspect.signature(function).parameters)
    assert found == parameters, f"RQ changed {name_of(function)}; it would break {purpose}"


@pytest.mark.parametrize("function", USES, ids=name_of)
def test_use(function: Callable[..., Any]) -> None:
    """RQ still goes through the names that we set, read or override."""
    wanted, purpose = USES[function]
    missing = set(wanted.split()) - names(inspect.unwrap(function).__code__)
    assert not missing, f"RQ's {name_of(function)} does without {missing}; it would break {purpose}"


@pytest.mark.parametrize("function", _OPTIONS, ids=name_of)
def test_options(function: Callable[..., Any]) -> None:
    """What we pass by name is taken by name."""
    missing = set(_OPTIONS[function].split()) - set(inspect.signature(function).parameters)
    assert not missing, f"RQ's {name_of(function)} takes no {missing}: workers would not start"


def test_horse_pid() -> None:
    """RQ asks for the horse's process where we put it: else kill-horse would be ignored."""
    worker = Worker.__new__(Worker)
    worker._horse_pid = 7
    assert worker.horse_pid == 7


def test_current_job_is_that_of_the_execution() -> None:
    """The worker's executions say which job it runs: else stop-job would be ignored."""
    worker = Worker.__new__(Worker)
    worker.executions = {"e": Execution("e", "the-job", Redis(), "w")}
    assert worker.get_current_job_id() == "the-job"


def test_keys() -> None:
    """The keys that we build or take apart: else lost jobs would not be found."""
    execution = Execution("e", "j", Redis(), "w")
    assert (execution.composite_key, execution.key) == ("j:e", "rq:execution:j:e")
    queue = Queue("q", connection=Redis(), serializer=JSONSerializer)
    assert queue.intermediate_queue.key == f"{queue.key}:intermediate"
    assert Worker.redis_worker_namespace_prefix == "rq:worker:"


def test_keys_without_rq() -> None:
    """What speaks to Redis without RQ names the keys as RQ does: else its jobs were never found."""
    queue = Queue("q", connection=Redis(), serializer=JSONSerializer)
    assert Queue.redis_queues_keys == keys.QUEUES
    assert Worker.redis_workers_keys == keys.WORKERS
    assert Worker.redis_worker_namespace_prefix == keys.WORKER_PREFIX
    assert keys.queue_key("q") == queue.key
    assert keys.job_key("j") == Job.key_for("j")
    assert keys.results_key("j") == Result.get_key("j")  # type: ignore[no-untyped-call]  # rq's
    assert keys.workers_key("q") == worker_registration.WORKERS_BY_QUEUE_KEY % "q"
    assert keys.executions_key("w") == WORKER_EXECUTIONS_KEY_TEMPLATE.format("w")
    assert keys.execution_key("j", "e") == Execution("e", "j", Redis(), "w").key


def test_call_as_rq_reads_it() -> None:
    """A job that is written without RQ is to RQ what it would have written itself."""
    arguments = {"texts": ["ein rotes Fahrrad", "\N{BICYCLE}"]}
    theirs = Job.create(
        "warmclip.work.jobs.embed_texts",
        kwargs=arguments,
        connection=Redis(),
        serializer=JSONSerializer,
        origin="high",
        description="embed_texts",
        timeout=7,
        ttl=7,
        result_ttl=7,
        failure_ttl=7,
        status=JobStatus.QUEUED,
    )
    record = job_record("high", "embed_texts", arguments, 7)
    as_stored = {
        field.encode(): value if isinstance(value, bytes) else str(value).encode()
        for field, value in record.items()
    }
    ours = Job("an-id", connection=Redis(), serializer=JSONSerializer)
    ours.restore(as_stored)
    differing = {"created_at", "enqueued_at", "data"}
    written, expected = ours.to_dict(), theirs.to_dict()
    assert {name for name in expected if written[name] != expected[name]} <= differing
    assert (ours.func_name, ours.args, ours.kwargs) == (
        theirs.func_name, list(theirs.args), theirs.kwargs
    )  # fmt: skip
    assert ours.enqueued_at is not None
    assert ours.enqueued_at.tzinfo is not None


def test_outcomes_as_rq_writes_them() -> None:
    """Results and failures that RQ writes are read without it."""
    job = Job.create("a.function", connection=Redis(), serializer=JSONSerializer, origin="default")

    def read(result: Result) -> JobResult:
        fields = result.serialize()
        return JobResult.of({name.encode(): str(value).encode() for name, value in fields.items()})

    def written(kind: Result.Type, **what: Any) -> Result:
        return Result(job.id, kind, job.connection, serializer=JSONSerializer, **what)

    assert read(written(Result.Type.SUCCESSFUL, return_value={"hits": []})) == JobResult(
        {"hits": []}
    )
    failed = read(written(Result.Type.FAILED, exc_string="Traceback ...\nValueError: no"))
    assert failed.failure == FailureReason("ValueError", "no")
    stopped = read(written(Result.Type.STOPPED))
    assert stopped.failure == FailureReason("", "no reason was recorded")


def test_fields_of_a_record() -> None:
    """Callbacks and webhooks are where we look for them: else they would not be refused, or they
    would be lost in a retry.
    """
    written = Job.create(
        "a.function", connection=Redis(), serializer=JSONSerializer, origin="default"
    )
    fields = {f"{outcome}_callback_name" for outcome in ("success", "failure", "stopped")}
    assert fields <= written.to_dict().keys()
    record = {
        key.encode(): value if isinstance(value, bytes) else value.encode()
        for key, value in written.to_dict().items()
    }
    record |= {field.encode(): b"os.getpid" for field in fields}
    read = AllowedJob(written.id, Redis(), JSONSerializer)
    read.restore(record)
    assert (read.success_callback, read.failure_callback, read.stopped_callback) == (None,) * 3
    assert {read.to_dict()[field] for field in fields} == {"os.getpid"}


def test_nothing_private_is_missing_here() -> None:
    """Each private name of RQ's classes that our code mentions is in these tables."""
    private = set()
    for path in Path(warmclip.work.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                private.add(node.attr)
            elif isinstance(node, ast.ClassDef):
                private |= {it.name for it in node.body if isinstance(it, ast.FunctionDef)}
    private = {name for name in private if re.match("_[a-z]", name)}
    theirs = {
        name
        for kind in (Worker, Job, Queue, Execution, IntermediateQueue, StartedJobRegistry)
        for name in {*dir(kind), *names(kind.__init__.__code__)}
    }
    known = {name for wanted, _ in USES.values() for name in wanted.split()}
    known |= {function.__name__ for function in SIGNATURES}
    assert private & theirs <= known
