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
from rq import command, executions, suspension, worker_registration
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.queue import Queue
from rq.registry import StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import Worker

import warmclip.work
from warmclip.work.allowlist import AllowedJob

# What we override or call, with the parameters that we pass or are passed -> what it is for.
SIGNATURES: dict[Callable[..., Any], tuple[str, str]] = {
    Worker.dequeue_job_and_maintain_ttl: ("self, timeout, max_idle_time", "taking jobs"),
    Worker.execute_job: ("self, job, queue", "giving jobs to the horse"),
    Worker.heartbeat: ("self, timeout, pipeline", "staying known to RQ"),
    Worker.get_heartbeat_ttl: ("self, job, working_time", "how soon a lost job is found"),
    Worker.maintain_heartbeats: ("self, job, execution", "long jobs, which would count as lost"),
    Worker.prepare_execution: ("self, job", "recording that a job runs"),
    Worker.cleanup_execution: ("self, job, pipeline, execution", "requeueing a job"),
    Worker.perform_job: ("self, job, queue, execution", "running jobs in the horse"),
    Worker.handle_exception: ("self, job, exc_info", "logging our own errors in a line"),
    Worker.handle_job_failure: (
        "self, job, queue, started_job_registry, exc_string, execution",
        "failing or retrying the job of a horse that died",
    ),
    Worker.handle_payload: ("self, message", "commands, which could hit the wrong job"),
    Worker.kill_horse: ("self, sig", "the commands stop-job and kill-horse"),
    Worker.request_stop: ("self, signum, frame", "SIGTERM and SIGINT"),
    Worker.check_for_suspension: ("self, burst", "rq suspend"),
    Worker.procline: ("self, message", "keeping setproctitle away from macOS"),
    Worker._pubsub_exception_handler: (
        "self, exc, pubsub, pubsub_thread",
        "listening to commands again after Redis was away",
    ),
    Worker.run_maintenance_tasks: ("self", "clearing registries"),
    Worker.set_shutdown_requested_date: ("self", "showing that a worker was asked to stop"),
    Worker.serialize: ("self", "the record, also after Redis lost its memory"),
    Worker._install_signal_handlers: ("self", "a SIGTERM before RQ expects one"),
    Worker.set_state: ("self, state, pipeline", "the state that rq info shows"),
    worker_registration.register: ("worker, pipeline", "coming back after Redis lost its memory"),
    suspension.is_suspended: ("connection, worker", "rq suspend"),
    Execution.__init__: ("self, id, job_id, connection, worker_name", "the horse's executions"),
    Job.restore: ("self, raw_data", "refusing callbacks, webhooks and malformed records"),
    Job.latest_result: ("self, timeout", "reading results within bounds"),
    Result.restore: (
        "job_id, result_id, payload, connection, serializer",
        "reading results within bounds",
    ),
    Job.to_dict: ("self, include_meta, include_result", "keeping callbacks through a retry"),
    Job.perform: ("self", "refusing what is not on the list"),
    Job._deserialize_data: ("self", "refusing pickle"),
    Queue.push_job_id: ("self, job_id, pipeline, at_front", "putting lost jobs back"),
    StartedJobRegistry.get_job_and_execution_ids: (
        "self, start, end, desc, cleanup",
        "finding the jobs of workers that died",
    ),
    IntermediateQueue.get_job_ids: ("self", "finding jobs between two lists"),
    IntermediateQueue.remove: ("self, job_id", "clearing what was taken"),
}

# Function of RQ -> names that it must set, call or read for our override of them to matter.
USES: dict[Callable[..., Any], tuple[str, str]] = {
    Worker.__init__: (
        "_stop_requested _stopped_job_id _shutdown_requested_date _horse_pid _is_horse executions",
        "the worker's own state",
    ),
    Worker.work: (
        "bootstrap check_for_suspension should_run_maintenance_tasks _stop_requested "
        "dequeue_job_and_maintain_ttl execute_job heartbeat teardown",
        "RQ's loop around our worker",
    ),
    Worker._install_signal_handlers: ("request_stop", "SIGTERM and SIGINT"),
    Worker.check_for_suspension: ("_stop_requested", "stopping a suspended worker"),
    Worker.subscribe: ("handle_payload _pubsub_exception_handler", "commands"),
    Worker.teardown: ("is_horse register_death unsubscribe", "leaving"),
    Worker.register_birth: ("serialize", "the worker's record"),
    Worker.maintain_heartbeats: ("get_heartbeat_ttl heartbeat", "how soon a lost job is found"),
    Worker.prepare_job_execution: ("intermediate_queue_key prepare_for_execution", "taking jobs"),
    Worker.perform_job: ("perform prepare_job_execution _finalize_failure", "running jobs"),
    Worker.handle_job_failure: (
        "_stopped_job_id should_retry cleanup_execution _handle_failure retry",
        "stopping jobs for good, and retrying others",
    ),
    Worker.set_shutdown_requested_date: ("_shutdown_requested_date", "who is asked to stop"),
    Worker.get_current_job_id: ("execution", "the command stop-job"),
    Worker.request_stop_execution: ("executions _stopped_job_id kill_horse", "stop-execution"),
    command.handle_stop_job_command: (
        "get_current_job_id _stopped_job_id kill_horse",
        "the command stop-job",
    ),
    command.handle_kill_worker_command: ("horse_pid kill_horse", "the command kill-horse"),
    command.handle_shutdown_command: ("getpid kill SIGINT", "the command shutdown"),
    executions.prepare_execution: ("get_heartbeat_ttl executions set_state", "executions"),
    executions.cleanup_execution: ("delete executions", "telling that a job is over"),
    Job.__init__: (
        "_success_callback_name _failure_callback_name _stopped_callback_name webhooks "
        "_dependency_ids",
        "refusing callbacks and webhooks",
    ),
    Result.fetch_latest: ("restore", "reading results within bounds"),
    Job.send_webhooks: ("webhooks", "refusing webhooks"),
    Execution.__init__: ("_job", "the horse's executions"),
}

_OPTIONS = {
    Worker.__init__: "queues name connection job_class serializer worker_ttl "
    "job_monitoring_interval log_job_description prepare_for_work",
    Worker.work: "burst max_jobs with_scheduler",
    Job.fetch: "id connection serializer",
    Job.fetch_many: "job_ids connection serializer",
    Queue.all: "connection job_class serializer",
    Queue.__init__: "name connection job_class serializer",
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
