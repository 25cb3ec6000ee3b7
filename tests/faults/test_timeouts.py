"""Jobs run into their time-outs at random moments: no search is wrong, the store is whole.

By hand, in an hour, with ``TIMEOUTS=1000``.
"""

import logging
import os
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rq.job import Job

from faults.conftest import Rig
from running import Running, outcome
from standins.faulty.faulty_timeouts import MILLION, TICKS

log = logging.getLogger(__name__)

TIMEOUTS = int(os.environ.get("TIMEOUTS", "5"))
MOST = 400  # pictures
LONGEST_S = 15  # a time-out
INDEX = "warmclip.work.jobs.index_images"
SEARCH = "warmclip.work.jobs.search"
SMALL_BATCHES = {"WARMCLIP_BATCH_SIZE": "2"}  # more steps to strike between


def test_many_timeouts(rig: Rig) -> None:
    """Each strikes in an index job, in a write to the store as well: every search after it finds
    what was stored before, and in the end the store is that of an index made afresh.
    """
    chance = random.Random(TIMEOUTS)
    pictures = rig.pictures(24)
    places: Counter[str] = Counter()
    unsettled: set[str] = set()
    with rig.worker(**SMALL_BATCHES) as worker:
        whole = index(worker, pictures)
        while places.total() < TIMEOUTS:
            added = [rig.folder / "pictures" / f"{len(pictures) + more}.png" for more in range(4)]
            chosen = [*chance.sample(pictures, 4), *map(str, added[: MOST - len(pictures)])]
            for path in chosen:
                repaint(path, pictures, chance)
            unsettled |= set(chosen)
            delay = chance.randint(1, min(whole * 5 // 4, LONGEST_S * TICKS))
            job = worker.enqueue(INDEX, chosen, "images", job_timeout=MILLION + delay)
            told = outcome(job, 60)
            if told.exc_string is None:  # it was done before
                unsettled -= set(chosen)
                whole = duration(job)
            else:
                assert "JobTimeoutException" in told.exc_string
                places[place(told.exc_string)] += 1
            pictures = sorted({*pictures, *chosen})
            settled = sorted({*pictures} - unsettled)
            search(worker, chance.choice(settled), settled)
            if len(unsettled) > 16:
                index(worker, sorted(unsettled))
                unsettled.clear()
        index(worker, pictures)
    log.info("%d time-outs, by where they struck: %s", TIMEOUTS, dict(places))
    assert places["write"] or TIMEOUTS < 100
    fresh = str(rig.folder / "fresh")
    with rig.worker(**SMALL_BATCHES, WARMCLIP_HOME=fresh) as worker:
        index(worker, pictures)
    here, there = stored(rig), stored(rig, WARMCLIP_HOME=fresh)
    assert here.keys() == there.keys()
    for point in here:
        np.testing.assert_allclose(here[point], there[point], atol=1e-5)


def place(traceback: str) -> str:
    """The innermost package of ours that a time-out struck in; ``work`` has RQ's handler.

    While a write is under way it is "write".
    """
    if "/point_writer.py" in traceback:
        return "write"
    names = re.findall(r"/warmclip/(\w+)", traceback)
    return next((str(name) for name in reversed(names) if name != "work"), "work")


def index(worker: Running, pictures: list[str]) -> int:
    """Bring all pictures up to date; returns how long that took, in ticks."""
    job = worker.enqueue(INDEX, pictures, "images")
    report = outcome(job, 60).return_value
    assert report is not None
    assert report["skipped"] == {}
    return duration(job)


def duration(job: Job) -> int:
    """How long a job took that is over, in ticks."""
    job.refresh()  # type: ignore[no-untyped-call]  # rq's is not annotated
    assert job.ended_at is not None
    assert job.started_at is not None
    return round((job.ended_at - job.started_at).total_seconds() * TICKS)


def search(worker: Running, path: str, settled: list[str]) -> None:
    """A picture that is stored is the nearest to itself, and all that are stored are found once."""
    told = outcome(worker.enqueue(SEARCH, "images", kwargs={"image": path, "limit": 1000}), 60)
    answer = told.return_value
    assert answer is not None, told.exc_string
    scores = {hit["path"]: hit["score"] for hit in answer["hits"]}
    assert len(answer["hits"]) == len(scores)
    assert set(scores) >= {os.path.realpath(picture) for picture in settled}
    assert scores[os.path.realpath(path)] == pytest.approx(1.0, abs=1e-4)


def repaint(path: str, pictures: list[str], chance: random.Random) -> None:
    """Give a picture another content, sometimes that of another picture."""
    if chance.random() < 0.2:
        Path(path).write_bytes(Path(chance.choice(pictures)).read_bytes())
        return
    tiles = np.random.default_rng(chance.getrandbits(32)).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(tiles).resize((64, 64)).save(path)


def stored(rig: Rig, **more: str) -> dict[tuple[str, str], list[float]]:
    """What the store of a home holds: the vectors by id and path."""
    return {
        (point.id, point.payload.path): list(point.vector)
        for point in rig.stored(**more)
        if point.vector is not None
    }
