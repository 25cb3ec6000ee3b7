"""The horse's own program: it reads settings, then one line a job, until the pipe ends."""

import faulthandler
import json
import os
import signal
import sys
from typing import IO

from redis import Redis
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from warmclip.errors import WarmclipError
from warmclip.logs import log_json_lines, log_text
from warmclip.settings import Settings
from warmclip.work.allowlist import AllowedJob, find_functions
from warmclip.work.broker import open_broker
from warmclip.work.horse.context import open_context
from warmclip.work.horse.reporter import Reporter
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.rq_worker import RqWorker


class Runner(RqWorker):
    """RQ's part of running a job: what happens in the work horse of other workers."""

    def __init__(self, name: str, job_class: type[AllowedJob], connection: Redis) -> None:
        # One queue, so that RQ clears the intermediate entry; which one makes no difference.
        super().__init__(
            ["default"], name=name, connection=connection, job_class=job_class, is_horse=True
        )

    def run(self, job_id: str, execution_id: str, queue_name: str) -> None:
        """Run one job and record what became of it."""
        execution = Execution(execution_id, job_id, self.connection, self.name)
        queue = Queue(
            queue_name,
            connection=self.connection,
            job_class=self.job_class,
            serializer=JSONSerializer,
        )
        try:
            job: Job = self.job_class.fetch(
                job_id, connection=self.connection, serializer=self.serializer
            )
        except NoSuchJobError:
            self._forget(execution, queue)
            return
        execution._job = job
        self.perform_job(job, queue, execution)

    def _forget(self, execution: Execution, queue: Queue) -> None:
        """Clear up after a job that was deleted between being taken and being run."""
        self.log.warning("job %s was deleted before it began", execution.job_id)
        job = self.job_class(execution.job_id, self.connection, self.serializer)
        job.origin = queue.name
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(job, pipeline=pipeline, execution=execution)
            pipeline.lrem(queue.intermediate_queue.key, 0, job.id)
            pipeline.execute()


def main() -> None:
    """Run jobs until the pipe ends."""
    commands, messages_to = int(sys.argv[1]), int(sys.argv[2])
    for descriptor in (commands, messages_to):
        os.set_inheritable(descriptor, False)
    # A child that a job forks must not look like this process still at work.
    os.register_at_fork(after_in_child=lambda: os.close(messages_to))
    # The worker decides when this process ends: by the pipe, or by SIGKILL.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(commands, encoding="ascii") as lines:
        settings = Settings.from_json(lines.readline())
        hello = json.loads(lines.readline())
        if hello["log_json"]:
            log_json_lines()
        else:
            log_text()
            faulthandler.enable()  # where a native fault was, for people
        _serve(settings, hello, lines, messages_to)


def _serve(settings: Settings, hello: dict[str, object], lines: IO[str], messages_to: int) -> None:
    owner = hello["store_owner"]
    poisoned: PoisonedFiles | None = None
    reporter = Reporter(
        messages_to, lambda path: poisoned.reason(path) if poisoned is not None else None
    )
    try:
        with (
            open_broker(settings) as connection,
            open_context(
                settings,
                activity=reporter,
                progress=reporter.progress,
                store_owner=owner if isinstance(owner, int) else None,
            ) as context,
        ):
            poisoned = PoisonedFiles(connection)
            job_class = find_functions(settings.jobs)
            runner = Runner(str(hello["worker"]), job_class, connection)
            reporter.start_heartbeat()
            reporter.send(
                ready=True,
                provider=context.encoder.provider,
                model=context.encoder.bundle.manifest.name,
                fingerprint=context.encoder.fingerprint,
            )
            for line in lines:
                job = json.loads(line)
                reporter.send(began=job["job"])
                poisoned.refresh()
                with reporter.job(careful=job["careful"]):
                    runner.run(job["job"], job["execution"], job["queue"])
                reporter.send(done=job["job"])
    except WarmclipError as exc:
        reporter.send(error=type(exc).__name__, message=str(exc))
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
