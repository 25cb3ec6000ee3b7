"""`make soak`: for half an hour everything goes wrong that may, then all is counted.

Thousands of jobs of every kind are sent to a real Redis with two real workers, while Redis is
killed, stopped and made to refuse, workers and horses are killed and stopped, their clocks are
set, and somebody writes nonsense into RQ's keys. In the end every job must have ended exactly
once, and every picture be in the store once, as in an index made afresh.

What is done follows from the seed; when exactly it strikes does not. Exits with 1 if a promise
was broken; the folder with all logs is kept then.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

import running
from faults.conftest import Rig
from soak.accounts import Outcome, Sent, broken_promises, unexplained_deaths
from soak.faults import HANG_S, REDIS, WORKER, FaultInjector
from soak.jobs import COLLECTION, INDEX, PIXELS, Sender, litter
from soak.site import Site
from warmclip.work.poisoned_files import PoisonedFiles
from warmclip.work.replies import text_of

log = logging.getLogger("soak")

_BUNDLE = Path(__file__).parents[2] / "models" / "demo" / "bundle"
_STEP_S = 0.05
_PROGRESS_EVERY_S = 30.0
_LITTER_EVERY_S = 5.0
_PAUSE_S = 4.0  # about that long nothing is wrong with one thing
_SENT_WITHIN = 0.9  # of the time: the last jobs shall meet faults, too
_CALM_S = 120.0  # in which one job at least must end, after the last fault
_LOOKED_AT = 100  # jobs that are waited for, at a time
_CHUNK = 32
_NEAR = 1e-5


@dataclass(kw_only=True)
class Summary:
    """What was done, what came of it, and what was not as promised."""

    seed: int
    minutes: float
    jobs: dict[str, dict[str, int]] = field(default_factory=dict)  # kind -> status -> jobs
    died: int = 0  # jobs that failed because their process was harmed
    pictures: int = 0
    stored: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    litter: dict[str, int] = field(default_factory=dict)
    workers: dict[str, dict[int, int]] = field(default_factory=dict)  # place -> exit code -> count
    broken: list[str] = field(default_factory=list)


def main() -> int:
    """Read the arguments, run, and tell."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--jobs", type=int, help="how many are sent; 200 a minute unless told")
    parser.add_argument("--json", type=Path, help="a file for the summary")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended first
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder = Path(tempfile.mkdtemp(prefix="warmclip-soak-"))
    log.info("seed %d, %.0f minutes, in %s", asked.seed, asked.minutes, folder)
    soak = Soak(folder, asked.seed, asked.minutes, asked.jobs or round(200 * asked.minutes))
    summary = soak.run()
    if asked.json:
        asked.json.write_text(json.dumps(asdict(summary), indent=2) + "\n")
    _tell(summary)
    if summary.broken:
        log.info("what was left is in %s", folder)
        return 1
    shutil.rmtree(folder)
    return 0


class Soak:
    """One run."""

    def __init__(self, folder: Path, seed: int, minutes: float, jobs: int) -> None:
        self.summary = Summary(seed=seed, minutes=minutes)
        self._rig = Rig(folder, _BUNDLE)
        variables = {
            "WARMCLIP_ROOTS": str(folder),
            "WARMCLIP_HANG_SECONDS": str(HANG_S),
            "WARMCLIP_MAX_IMAGE_PIXELS": str(PIXELS),
            "WARMCLIP_MAX_CRASHES": "1000",  # the provider is not to blame
        }
        os.environ |= variables
        self._site = Site(self._rig)
        self._seconds, self._jobs = minutes * 60, jobs
        # Each has its own, so that no decision depends on when another one was taken.
        self._sender = Sender(self._rig, random.Random(f"{seed}-jobs"))
        self._litter_chance = random.Random(f"{seed}-litter")
        self._redis = FaultInjector(
            self._site.server, REDIS, random.Random(f"{seed}-redis"), _PAUSE_S
        )
        self._workers = [
            FaultInjector(place, WORKER, random.Random(f"{seed}-{place.name}"), _PAUSE_S)
            for place in self._site.places
        ]
        self._litter: Counter[str] = Counter()

    def run(self) -> Summary:
        """Do harm, let it calm down, and count."""
        try:
            self._do_harm()
            log.info("no more faults: everything must end now")
            self._wait_until_over()
            outcomes = self._outcomes()
            self._index_again(outcomes)
            self._count(outcomes)
        finally:
            self._leave_alone()
            self._site.close()
        self._compare()
        for place in self._site.places:
            self.summary.workers[place.name] = dict(sorted(place.ended.items()))
            self.summary.broken += place.surprises
        return self.summary

    @property
    def _connection(self) -> Redis:
        return self._site.server.now.admin

    def _do_harm(self) -> None:
        began = told = littered = time.monotonic()
        while (passed := time.monotonic() - began) < self._seconds:
            for injector in self._injectors:
                injector.step()
            self._site.keep_filled()
            if not self._redis.is_there:  # whoever sends jobs has a Redis; nobody promises more
                share = min(1.0, passed / self._seconds / _SENT_WITHIN)
                if len(self._sender.sent) < share * self._jobs:
                    self._sender.send(self._connection)
                    continue
                if time.monotonic() - littered > _LITTER_EVERY_S:
                    littered = time.monotonic()
                    self._litter[litter(self._connection, self._litter_chance)] += 1
                if time.monotonic() - told > _PROGRESS_EVERY_S:
                    told = time.monotonic()
                    self._progress(passed)
            time.sleep(_STEP_S)
        self._leave_alone()

    def _leave_alone(self) -> None:
        for injector in self._injectors:
            injector.end()

    @property
    def _injectors(self) -> tuple[FaultInjector[Any], ...]:
        return (self._redis, *self._workers)

    def _progress(self, passed_s: float) -> None:
        faults = sum(it.done.total() for it in self._injectors)
        queues = [Queue(name, connection=self._connection) for name in ("high", "default")]
        log.info(
            "%4.1f min: %d jobs sent, %d wait, %d faults, %d workers ended",
            passed_s / 60,
            len(self._sender.sent),
            sum(queue.count for queue in queues),
            faults,
            sum(place.ended.total() for place in self._site.places),
        )

    def _wait_until_over(self) -> None:
        """Until every job has ended, or none has for too long."""
        waiting = deque(sent.id for sent in self._sender.sent)
        moved = time.monotonic()
        while waiting and time.monotonic() - moved < _CALM_S:
            self._site.keep_filled()
            for _ in range(min(len(waiting), _LOOKED_AT)):
                if self._outcome(waiting[0], Counter()).is_over:
                    waiting.popleft()
                    moved = time.monotonic()
                else:
                    waiting.rotate(-1)
            time.sleep(0.5)

    def _outcomes(self) -> list[tuple[Sent, Outcome]]:
        runs = Counter(self._sender.trace.read_text().split())
        return [(sent, self._outcome(sent.id, runs)) for sent in self._sender.sent]

    def _outcome(self, id_: str, runs: Counter[str]) -> Outcome:
        """What Redis, and the trace, tell of a job."""
        status = self._connection.hget(f"rq:job:{id_}", "status")
        if status is None:
            return Outcome(status=None)
        job = Job(id=id_, connection=self._connection, serializer=JSONSerializer)
        results = job.results()
        said = str(results[0].exc_string or "").strip() if results else ""
        return Outcome(
            status=text_of(status),
            results=len(results),
            reason=said.splitlines()[-1] if said else "",
            runs=runs[id_],
        )

    def _index_again(self, outcomes: list[tuple[Sent, Outcome]]) -> None:
        """Send what a user would send again: index jobs that failed, and pictures that were set
        aside, as a signal from outside looks like a crash of their decoder.
        """
        failed = [sent for sent, it in outcomes if sent.pictures and it.status == "failed"]
        for sent in failed:
            self._sender.send_index(self._connection, sent.pictures)
        poisoned = PoisonedFiles(self._connection)
        aside = [file.path for file in poisoned.all()]
        poisoned.remove(aside)
        if again := tuple(path for path in aside if path in self._sender.pictures):
            self._sender.send_index(self._connection, again)
        self._wait_until_over()

    def _count(self, outcomes: list[tuple[Sent, Outcome]]) -> None:
        by_kind: dict[str, Counter[str]] = {}
        for sent, outcome in outcomes:
            by_kind.setdefault(sent.kind, Counter())[str(outcome.status)] += 1
            for what in broken_promises(sent, outcome):
                self.summary.broken.append(f"job {sent.id}, which {sent.kind}: {what}")
        harm = sum((it.harm for it in self._injectors), Counter[str]())
        self.summary.broken += unexplained_deaths(outcomes, harm)
        self.summary.jobs = {kind: dict(counts) for kind, counts in sorted(by_kind.items())}
        self.summary.died = sum(outcome.died for _, outcome in outcomes)
        faults = sum((it.done for it in self._injectors), Counter[str]())
        self.summary.faults = dict(sorted(faults.items()))
        self.summary.litter = dict(sorted(self._litter.items()))

    def _compare(self) -> None:
        """The store with that of a fresh index of the same pictures."""
        fresh = {"WARMCLIP_HOME": str(self._rig.folder / "fresh")}
        pictures = self._sender.pictures
        with self._rig.worker(**fresh) as worker:
            for start in range(0, len(pictures), _CHUNK):
                job = worker.enqueue(INDEX, pictures[start : start + _CHUNK], COLLECTION)
                assert running.outcome(job, 300).return_value
        self.summary.pictures = len(pictures)
        self.summary.broken += self._differences(self._rig.stored(), self._rig.stored(**fresh))

    def _differences(self, here: list[Any], there: list[Any]) -> Iterator[str]:
        counts = Counter(point.payload.path for point in here)
        self.summary.stored = len(counts)
        yield from (f"{path} is stored {n} times" for path, n in counts.items() if n > 1)
        mine, fresh = ({it.payload.path: it for it in points} for points in (here, there))
        yield from (f"{path} is not stored" for path in sorted(fresh.keys() - mine.keys()))
        yield from (f"{path} is stored, though" for path in sorted(mine.keys() - fresh.keys()))
        for path in sorted(mine.keys() & fresh.keys()):
            if mine[path].id != fresh[path].id:
                yield f"{path} has another id"
            if not np.allclose(mine[path].vector, fresh[path].vector, atol=_NEAR):
                yield f"{path} has another vector"


def _tell(summary: Summary) -> None:
    """Print it for a person."""
    log.info("%s", json.dumps(asdict(summary), indent=2))
    if not summary.broken:
        log.info("every promise was kept")


if __name__ == "__main__":
    sys.exit(main())
