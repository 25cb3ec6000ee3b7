"""A worker from start to end: it opens Redis and the store, starts a horse, and runs jobs."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any

from redis import Redis
from rq.utils import get_version

from warmclip.errors import (
    QueueUnreachable,
    SettingsError,
    StoreHeld,
    StoreUnreachable,
    missing_package,
)
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.logs import is_json
from warmclip.settings import Settings
from warmclip.store.embedded_lock import lock_store
from warmclip.work.broker import open_broker
from warmclip.work.counters import CounterBuffer
from warmclip.work.crash_policy import CrashPolicy
from warmclip.work.follower import ModelFollower
from warmclip.work.horse.process import HorseProcess
from warmclip.work.horse.warm_horse import WarmHorse
from warmclip.work.liveness import end_leftover_horses
from warmclip.work.patience import Patience
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.rq_worker import new_name
from warmclip.work.worker import QUEUES, WarmWorker

log = logging.getLogger(__name__)

_REDIS_PATIENCE_S = 600.0
_STORE_PATIENCE_S = 60.0
_COMMAND_ENDS_S = 5.0  # most commands that have the store open do so for less than a second
_LEAVES_BY_ITSELF_S = 8.0  # a horse whose worker is gone
_OLDEST_REDIS = (6, 2)  # LMOVE


def run_worker(
    settings: Settings,
    *,
    queues: Sequence[str] = QUEUES,
    burst: bool = False,
    max_jobs: int | None = None,
    supervisor: int | None = None,
    shares_store: bool = False,
    metrics: tuple[str, int] | None = None,
) -> None:
    """Load the model in a horse, then run jobs until SIGTERM or SIGINT.

    Args:
        settings: where Redis, the model and the store are, and what jobs may name.
        queues: polled in this order.
        burst: leave as soon as the queues are empty.
        max_jobs: leave after so many.
        supervisor: the process that started this one; when it is gone, the worker leaves.
        shares_store: leave the embedded store to another worker, and use it through that one.
        metrics: address and port of its own /metrics and /livez; None: none.

    Raises:
        BundleError, ProviderUnavailable: the model cannot be used.
        StoreHeld: another worker owns the embedded store.
        QueueUnreachable: Redis does not answer, or was lost for ten minutes.
        HorseDied: none survives its start.
    """
    # Until the worker handles it, a SIGTERM too shall close what is open here.
    signal.signal(signal.SIGTERM, _leave)
    worker: WarmWorker | None = None
    horse: WarmHorse | None = None
    counters = CounterBuffer()
    name = new_name()
    patience = Patience(_REDIS_PATIENCE_S, given_up=lambda: worker is not None and worker.gives_up)
    with (
        _metrics(metrics, settings, counters, lambda: horse),
        open_broker(settings, patience) as connection,
        _store_owner(settings, connection, shares_store) as owner,
    ):
        policy = CrashPolicy(
            PoisonedFiles(connection),
            Quarantine(settings.home),
            max_crashes=settings.max_crashes,
        )
        horse = WarmHorse(
            lambda choice: HorseProcess(
                settings,
                choice=choice,
                worker=name,
                redis_socket=connection.connection_pool.connection_kwargs.get("path"),
                store_owner=owner,
                log_json=is_json(),
            ),
            policy,
            hang_s=settings.hang_s,
            observe=lambda stage, seconds: counters.observe(f"{stage}_s", seconds),
        )
        _check_redis(connection)
        follower = ModelFollower(connection, name, settings, horse)
        worker = WarmWorker(queues, name, connection, horse, policy, counters, follower, supervisor)
        try:
            worker.start()
            if not worker.was_asked_to_stop:
                _announce(worker, horse, settings)
            ended_well = worker.run(burst=burst, max_jobs=max_jobs)
        finally:
            horse.close()
    if not ended_well:
        raise QueueUnreachable("the worker could not go on; its log says why")


def _check_redis(connection: Redis) -> None:
    """Refuse a Redis that RQ's jobs cannot be kept in.

    Raises:
        SettingsError: it is too old, or part of a cluster.
    """
    if get_version(connection) < _OLDEST_REDIS:
        raise SettingsError("this Redis is too old for workers: 6.2 or newer is needed")
    if connection.info("cluster").get("cluster_enabled"):
        raise SettingsError(
            "this Redis is part of a cluster, where RQ cannot move jobs from one key to another; "
            "name one in REDIS_URL that runs without cluster-enabled"
        )


def _metrics(
    address: tuple[str, int] | None,
    settings: Settings,
    counters: CounterBuffer,
    find_horse: Callable[[], WarmHorse | None],
) -> AbstractContextManager[Any]:
    """The worker's own metrics, if an address is given; they are there before Redis is."""
    if address is None:
        return nullcontext()
    try:
        from warmclip.work.metrics_port import metrics_port, read_worker_metrics
    except ModuleNotFoundError as exc:
        package = missing_package(exc)
        raise SettingsError(
            f"--metrics-port: {package} is missing: pip install 'warmclip[serve]'"
        ) from exc
    return metrics_port(address, lambda: read_worker_metrics(settings, counters, find_horse()))


@contextmanager
def _store_owner(settings: Settings, connection: Redis, shares: bool) -> Iterator[int | None]:
    """The embedded store's lock, held by this process for its horses.

    None with a server, or for a worker that leaves the store to another one.
    A command may have the store open, and end soon. A worker that was killed may have left a
    horse: it leaves within seconds, or is ended here.

    Raises:
        StoreHeld: a living process owns it, and goes on to.
        StoreUnreachable: a horse without a worker holds it, and does not end.
    """
    if settings.qdrant_url is not None or shares:
        yield None
        return
    started = time.monotonic()
    told = ended = False
    while True:
        try:
            owner = lock_store(settings.embedded_store)
            break
        except StoreHeld as exc:
            waited_s = time.monotonic() - started
            if exc.by_the_living and waited_s > _COMMAND_ENDS_S:
                raise
            if waited_s > _STORE_PATIENCE_S:
                raise StoreUnreachable(
                    f"the embedded store {settings.embedded_store} is held by a horse whose worker "
                    "was killed; start again when it has ended"
                ) from exc
            if not told:
                who = "command" if exc.by_the_living else "horse without a worker"
                log.info("waiting for a %s that has the embedded store open", who)
            if waited_s > _LEAVES_BY_ITSELF_S and not ended:
                ended = end_leftover_horses(connection)
            told = True
            time.sleep(0.2)
    try:
        yield owner
    finally:
        os.close(owner)


def _leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal calls with
    sys.exit(0)


def _announce(worker: WarmWorker, horse: WarmHorse, settings: Settings) -> None:
    ready = horse.ready
    log.info(
        "worker %s: %s (%s) on %s, queues %s",
        worker.name,
        ready.model,
        ready.models[0][:12] if ready.models else "none",
        ready.provider,
        ", ".join(worker.queue_names()),
        extra={"action": "worker_ready"},
    )
    settings.warn_of_missing_roots()
    if settings.redis_url is not None and not settings.roots:
        log.warning("no WARMCLIP_ROOTS are set: jobs that name files will be refused")
