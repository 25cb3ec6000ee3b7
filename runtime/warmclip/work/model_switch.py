"""A collection was switched to another model: how workers learn of it, and who follows next.

The alias in Qdrant says which model a collection is of. A note in Redis only has workers look: a
job that names the collection finds the same. Workers load the other model one after another, so
that the rest of them answer meanwhile.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from warmclip.work.replies import reply_of, text_of
from warmclip.work.workers import FINGERPRINT, WorkerState, read_workers

# Below RQ's own prefix, so that an ACL for RQ's keys is one for ours.
SWITCHES = "rq:warmclip:switched"
"""The hash of notes: a collection's name -> its former model and the present one, in JSON."""

_TURN = "rq:warmclip:loading"
_TURN_S = 60  # of a worker that died while it loaded
_POLL_S = 0.2
_MOST_FOLLOWED = 100  # collections; others may write to the same Redis


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSwitch:
    """A collection leads to the vectors of another model than before."""

    collection: str
    former: str  # the fingerprints
    now: str


def announce(connection: Redis, switch: ModelSwitch) -> None:
    """Have workers look, at their next heartbeat."""
    note = json.dumps([switch.former, switch.now])
    connection.hset(SWITCHES, switch.collection, note)


def read_noted_model(connection: Redis, collection: str) -> str | None:
    """The model that a collection was last switched to, by the notes; None: nobody noted one."""
    found = {it.collection: it.now for it in read_switches(connection)}
    return found.get(collection)


def read_switches(connection: Redis) -> list[ModelSwitch]:
    """What was announced; nothing if the key holds something else than notes."""
    return parse_switches(reply_of(connection, "HGETALL", SWITCHES) or {})


def parse_switches(notes: Mapping[Any, Any]) -> list[ModelSwitch]:
    """The notes as Redis has them; what is none is passed by."""
    switches = []
    for name, note in list(notes.items())[:_MOST_FOLLOWED]:
        try:
            former, now = map(str, json.loads(note))
        except (ValueError, TypeError, RecursionError):
            continue
        if FINGERPRINT.fullmatch(former) and FINGERPRINT.fullmatch(now):
            switches.append(ModelSwitch(collection=text_of(name), former=former, now=now))
    return switches


def model_to_load(switches: Iterable[ModelSwitch], loaded: Collection[str]) -> ModelSwitch | None:
    """The switch that a worker should follow: it has the former model, and not the present one.

    A worker that serves other collections need not follow.
    """
    return next((it for it in switches if it.former in loaded and it.now not in loaded), None)


def workers_behind(workers: Iterable[WorkerState], switch: ModelSwitch) -> list[WorkerState]:
    """Those that still serve the former model only."""
    return [it for it in workers if model_to_load([switch], it.models) is not None]


def find_differences(
    workers: Iterable[WorkerState], collection: str, in_use: str | None
) -> list[str]:
    """Which workers do not have the model that a collection is of, in sentences.

    Args:
        workers: as their records in Redis tell.
        collection: its name.
        in_use: the fingerprint of its vectors; None: nobody knows, or there is none.
    """
    found = []
    for worker in workers:
        lacks = in_use is not None and worker.models and in_use not in worker.models
        if not (lacks or worker.trouble):
            continue
        models = ", ".join(it[:12] for it in worker.models)
        told = f"worker {worker.name} on {worker.hostname} has the model {models}"
        if lacks and in_use is not None:
            told += f", and collection {collection!r} is of {in_use[:12]}"
        found.append(f"{told}: {worker.trouble or 'it loads that at its next job there'}")
    return found


def wait_for_workers(
    connection: Redis,
    switch: ModelSwitch,
    *,
    patience_s: float,
    on_poll: Callable[[int, int], object] = lambda _done, _total: None,
) -> list[WorkerState]:
    """Wait until every worker has followed a switch; returns those that do not.

    One that says that it cannot is not waited for.

    Args:
        connection: to their Redis.
        switch: that was announced.
        patience_s: since the last of them followed.
        on_poll: told how many have, and how many there were.
    """
    most = fewest = 0
    since = time.monotonic()
    while True:
        behind = workers_behind(read_workers(connection), switch)
        waiting = len([it for it in behind if not it.trouble])
        most = max(most, waiting)
        if waiting < fewest or not fewest:
            fewest, since = waiting, time.monotonic()
        if not waiting or time.monotonic() - since > patience_s:
            return behind
        on_poll(most - waiting, most)
        time.sleep(_POLL_S)


class Turn:
    """The turn of one worker to load another model; the others serve until it is theirs."""

    def __init__(self, connection: Redis, worker: str) -> None:
        self._connection = connection
        self._worker = worker
        self._is_ours = False

    def take(self) -> bool:
        """Whether it is this worker's turn now."""
        answer = self._connection.set(_TURN, self._worker, nx=True, ex=_TURN_S)
        self._is_ours = bool(answer)
        if not self._is_ours and not 0 <= self._connection.ttl(_TURN) <= _TURN_S:
            # Others may write to the same Redis: a turn that does not end is none of a worker.
            self._connection.expire(_TURN, _TURN_S)
        return self._is_ours

    def keep(self) -> None:
        """Say that it still loads, if it does."""
        if self._is_ours:
            self._connection.set(_TURN, self._worker, ex=_TURN_S)

    def pass_on(self) -> None:
        """Let the next one load."""
        if self._is_ours:
            self._is_ours = False
            self._connection.delete(_TURN)
