"""The horse's own program: it reads settings, then one order a line, until the pipe ends."""

import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any, NoReturn

from warmclip.errors import StoreError, WarmclipError
from warmclip.logs import log_json_lines, log_text
from warmclip.settings import Settings
from warmclip.work.allowlist import find_functions
from warmclip.work.broker import connect_lazily
from warmclip.work.horse.context import JobContext, open_context
from warmclip.work.horse.models import ModelChoice
from warmclip.work.horse.orders import Orders
from warmclip.work.horse.process import LOST_ITS_PIPE
from warmclip.work.horse.reporter import Orphaned, Reporter
from warmclip.work.horse.runner import JobRunner
from warmclip.work.poisoned_files import KnownPoisonedFiles

log = logging.getLogger(__name__)


def main() -> None:
    """Run jobs until the pipe ends."""
    commands, messages_to = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(commands, False)
    _outlive_stop_signals()
    with os.fdopen(commands, encoding="ascii") as lines:
        settings = Settings.from_json(lines.readline())
        hello = json.loads(lines.readline())
        if hello["log_json"]:
            log_json_lines()
        else:
            log_text()
            faulthandler.enable()  # where a native fault was, for people
        _serve(settings, hello, lines, messages_to)


def _outlive_stop_signals() -> None:
    """The worker decides when this process ends: by the pipe, or by SIGKILL.

    The signals are handled, not ignored: what is ignored stays so in programs that a job starts,
    and could not be stopped there.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    os.register_at_fork(after_in_child=_stop_on_signals)


def _stop_on_signals() -> None:
    """In a child that a job forks, the signals do what they do elsewhere."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve(settings: Settings, hello: Mapping[str, Any], lines: IO[str], messages_to: int) -> None:
    poisoned = KnownPoisonedFiles()
    reporter = Reporter(messages_to, poisoned.reason)
    orders = Orders(lines, reporter.on_orphaned)
    try:
        with (
            connect_lazily(settings, hello["redis_socket"]) as connection,
            open_context(
                settings,
                activity=reporter,
                progress=reporter.progress,
                store_owner=hello["store_owner"],
                choice=ModelChoice(wanted=tuple(hello["models"]), refused=tuple(hello["refused"])),
            ) as context,
        ):
            job_class = find_functions(settings.jobs)
            runner = JobRunner(job_class, connection, hello["worker"], reporter.extend)
            reporter.start_heartbeat()
            reporter.send(
                ready=True,
                provider=context.encoder.provider,
                model=context.encoder.bundle.manifest.name,
                models=list(context.encoders),
                callbacks=sorted(job_class.allowed_callbacks),
            )
            for order in orders:
                if "poisoned" in order:
                    poisoned.replace(order["poisoned"])
                _carry_out(order, runner, reporter, context)
    except WarmclipError as exc:
        reporter.send(error=type(exc).__name__, message=str(exc))
        sys.exit(exc.exit_code)
    except Orphaned:
        log.warning("the worker is gone, and so this horse leaves in the middle of its job")
    except BaseException as exc:
        log.exception("a horse cannot go on")
        reporter.send(error=type(exc).__name__, message=str(exc))
        # Not by unwinding further: the orders cannot be closed while a thread waits for one.
        logging.shutdown()
        os._exit(1)


def _carry_out(
    order: Mapping[str, Any], runner: JobRunner, reporter: Reporter, context: JobContext
) -> None:
    """Run a job, or tell an application that a former one died."""
    execution, job, record = order["execution"], order["job"], order["record"]
    reporter.send(began=execution)
    with reporter.job(careful=order.get("careful", False)):
        if "died" in order:
            runner.tell_of_death(job, record, order["died"])
            reporter.send(done=execution)
            return
        report = runner.run(execution, job, record, may_wait=order["may_wait"])
    report = replace(
        report,
        missed=context.take_missed(),
        store_retries=context.take_store_retries(),
        points=context.take_points(),
    )
    for message in report.messages():
        reporter.send(**message)
    if report.tainted or reporter.is_lost:
        _leave(context, 0 if report.tainted else LOST_ITS_PIPE)


def _leave(context: JobContext, code: int) -> NoReturn:
    """Close the store, and end without running what a job has left to be run at the exit."""
    try:
        context.close()
    except (StoreError, OSError) as exc:  # a job has closed the store's files too
        log.warning("the store could not be closed: %s", exc)
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    main()
