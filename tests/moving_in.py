"""`make move-in`: the application of examples/ for 30 minutes, while it is killed and stopped.

Redis is killed and stays away for a while; a horse or a worker is killed; every process of the
application stands still while Redis and Qdrant live on, as under a closed lid. Meanwhile somebody
indexes albums, sends pictures and searches. In the end everything is counted.

A search is sent every half a second, whatever became of the one before it. Its time is that from
when it was due to its answer. One counts as undisturbed if no moment of it lies between a kill of
Redis and that Redis' first answer again, or between the first SIGSTOP and the last SIGCONT; the
time after that, and that of every killed horse and worker, counts.
"""

import argparse
import io
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from application import Application, draw_album, picture, running_application
from application_checks import find_faults
from processes import family
from running import children, eventually
from standins import qdrant
from standins.redis_server import DurableRedis
from warmclip.inference.encoder import Encoder

_BUNDLE = Path(__file__).parents[1] / "models" / "demo" / "bundle"
_WORDS = ("red", "green", "blue", "small", "large", "star", "circle", "square", "left", "right")
_EVERY_S = 0.5  # a search
_PAUSE_S = (15.0, 35.0)  # between two faults
_AWAY_S = (0.0, 2.0, 8.0, 20.0)  # Redis
_ASLEEP_S = (40.0, 100.0)
_ALBUM = 120  # pictures
_CLUSTER_ROUNDS = 10_000  # more than 30 s without the interpreter, on a busy machine
_DRAIN_S = 1200.0


@dataclass(slots=True)
class Observed:
    """What happened, by the monotonic clock."""

    searches: list[tuple[float, float, str]] = field(default_factory=list)  # due, answered, outcome
    disturbed: list[tuple[float, float]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def disturbance(self) -> Iterator[None]:
        """A time in which no search is expected to be answered."""
        since = time.monotonic()
        yield
        self.disturbed.append((since, time.monotonic()))

    def undisturbed(self) -> list[tuple[float, float, str]]:
        """The searches that touch no disturbance."""
        return [
            (due, end, outcome)
            for due, end, outcome in self.searches
            if not any(since < end and due < until for since, until in self.disturbed)
        ]


class Visitor:
    """Uses the application until told to stop: albums, uploads, searches."""

    def __init__(self, app: Application, seen: Observed, end: float) -> None:
        self._app = app
        self._seen = seen
        self._end = end
        self._threads = [
            threading.Thread(target=each) for each in (self._search, self._index, self._upload)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all is sent that was to be sent."""
        for thread in self._threads:
            thread.join()

    def _search(self) -> None:
        threads = []
        due, number = time.monotonic(), 0
        while due < self._end:
            time.sleep(max(0.0, due - time.monotonic()))
            threads.append(threading.Thread(target=self._search_once, args=(due, number)))
            threads[-1].start()
            due, number = due + _EVERY_S, number + 1
        for thread in threads:
            thread.join()

    def _search_once(self, due: float, number: int) -> None:
        try:
            if number % 4:
                words = f"{random.choice(_WORDS)} {random.choice(_WORDS)} {number}"
                answer = self._app.client.get("/search", params={"q": words})
            else:
                answer = self._app.client.post("/search/image", files={"file": _png(number)})
            outcome = str(answer.status_code)
        except httpx.HTTPError as exc:
            outcome = type(exc).__name__
        self._seen.searches.append((due, time.monotonic(), outcome))

    def _index(self) -> None:
        number = 0
        while time.monotonic() < self._end:
            draw_album(self._app.pictures / f"album{number}", _ALBUM, seed=number + 1)
            folder = {"folder": f"album{number}"}
            self._repeat(partial(self._app.client.put, f"/albums/album{number}", params=folder))
            self._seen.sent["albums"] += 1
            number += 1
            self._pause(150.0)

    def _upload(self) -> None:
        number = 50_000_000
        while time.monotonic() < self._end:
            files = {"file": _png(number)}
            self._repeat(partial(self._app.client.post, "/albums/sent/pictures", files=files))
            self._seen.sent["uploads"] += 1
            number += 1
            self._pause(2.0)

    def _repeat(self, request: Callable[[], httpx.Response]) -> None:
        """Until it is accepted, as whoever uses the application would."""
        while True:
            with suppress(httpx.HTTPError):
                if request().status_code == 202:
                    return
            time.sleep(1.0)

    def _pause(self, seconds: float) -> None:
        time.sleep(max(0.0, min(seconds, self._end - time.monotonic())))


def _png(seed: int) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return stream.getvalue()


class FaultInjector:
    """The faults, in turn and at random moments."""

    def __init__(self, app: Application, redis: DurableRedis, seen: Observed) -> None:
        self._app = app
        self._redis = redis
        self._seen = seen

    def run(self, end: float) -> None:
        """Until the end, but for what takes longer."""
        kinds = [self.kill_horse, self.kill_worker, self.restart_redis, self.kill_horse, self.sleep]
        turn = 0
        while True:
            time.sleep(random.uniform(*_PAUSE_S))
            if time.monotonic() > end:
                return
            kinds[turn % len(kinds)]()
            turn += 1

    def kill_horse(self) -> None:
        """That of the first worker, or of the reserved one."""
        horses = [pid for worker in self._workers() for pid in children(worker)]
        if horses:
            self._note("horse killed")
            with suppress(ProcessLookupError):
                os.kill(random.choice(horses), signal.SIGKILL)

    def kill_worker(self) -> None:
        """Its supervisor starts another one."""
        if workers := self._workers():
            self._note("worker killed")
            with suppress(ProcessLookupError):
                os.kill(random.choice(workers), signal.SIGKILL)

    def restart_redis(self) -> None:
        """Kill it, and start it again after a while."""
        away_s = random.choice(_AWAY_S)
        self._note(f"Redis away for {away_s:g} s")
        with self._seen.disturbance():
            self._redis.kill()
            time.sleep(away_s)
            self._redis.start()

    def sleep(self) -> None:
        """Stop every process of the application, and let them go on."""
        asleep_s = _ASLEEP_S[self._seen.faults.total() // 5 % len(_ASLEEP_S)]
        self._note(f"asleep for {asleep_s:g} s")
        stopped: list[int] = []
        with self._seen.disturbance():
            while new := [pid for pid in self._app.processes() if pid not in stopped]:
                for pid in new:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                stopped += new
            time.sleep(asleep_s)
            for pid in reversed(stopped):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _workers(self) -> list[int]:
        """The children of the supervisor."""
        pid = self._app.workers.pid
        return [it for it in family(pid) if it != pid and children(it)]

    def _note(self, what: str) -> None:
        self._seen.faults[what] += 1
        _say(what)


def main(minutes: float, folder: Path) -> int:
    """Run; returns 1 if anything is lost or twice."""
    seen = Observed()
    with ExitStack() as stack:
        redis = DurableRedis(folder / "redis")
        stack.callback(redis.kill)
        store = stack.enter_context(qdrant.serve(folder / "qdrant"))
        app = stack.enter_context(
            running_application(
                folder, _BUNDLE, redis.url, store.url, CLUSTER_ROUNDS=str(_CLUSTER_ROUNDS)
            )
        )
        draw_album(app.pictures / "before", 64, seed=90)
        app.client.put("/albums/before", params={"folder": "before"})
        eventually(lambda: app.client.get("/albums/before").json().get("indexed") == 64)
        _say("begins")
        end = time.monotonic() + minutes * 60
        visitor = Visitor(app, seen, end)
        visitor.start()
        FaultInjector(app, redis, seen).run(end)
        visitor.join()
        _say("all is sent; what is queued is done to its end")
        late = not _come_true(app.are_tasks_final, _DRAIN_S)
        counts = app.client.get("/tasks").json()
        with redis.connect() as connection:
            cpu = Encoder.open(_BUNDLE, provider="cpu")
            faults = find_faults(app, connection, store.engine, cpu)
    faults += ["tasks were not done in time"] * late
    report = _report(seen) | {"tasks": counts, "faults found": faults}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 1 if faults else 0


def _report(seen: Observed) -> dict[str, Any]:
    return {
        "what was done to it": dict(seen.faults),
        "what was sent": dict(seen.sent),
        "undisturbed searches": _times(seen.undisturbed()),
        "all searches": _times(seen.searches),
    }


def _times(searches: list[tuple[float, float, str]]) -> dict[str, Any]:
    took = [end - due for due, end, _ in searches]
    median, late, longest = np.percentile(took, (50, 95, 100)).round(3).tolist()
    return {
        "number": len(took),
        "outcomes": dict(Counter(outcome for *_, outcome in searches)),
        "median, s": median,
        "95th percentile, s": late,
        "longest, s": longest,
    }


def _come_true(true: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(1.0)
    return True


def _say(what: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for logs and all else")
    options = parser.parse_args()
    random.seed(options.seed)
    if options.keep:
        options.keep.mkdir(parents=True)
        sys.exit(main(options.minutes, options.keep))
    with tempfile.TemporaryDirectory(prefix="warmclip-move-in-") as made:
        sys.exit(main(options.minutes, Path(made)))
