"""What follows from a horse's death: for the picture, the provider, and the job."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from redis import Redis
from rq.exceptions import DeserializationError
from rq.job import Job

from warmclip.work.allowlist import FUNCTIONS, job_name
from warmclip.work.cause import Cause, Death, diagnose
from warmclip.work.horse.warm_horse import WarmHorse
from warmclip.work.poisoned_files import PoisonedFile, PoisonedFiles

log = logging.getLogger(__name__)

_MOST_DEATHS = 3  # of one attempt, besides those that set a picture aside


class CrashPolicy:
    """Keeps, for one worker, what deaths have taught."""

    def __init__(self, connection: Redis, stable: WarmHorse) -> None:
        self.dead_letters = PoisonedFiles(connection)
        self.stable = stable
        self.strikes: Counter[str] = Counter()

    def open(self, job: Job) -> "Attempt":
        """One attempt at one job."""
        return Attempt(self, job)


class Attempt:
    """What is known of one attempt at a job.

    Attributes:
        careful: whether pictures are decoded one at a time, with nothing else going on.
    """

    def __init__(self, inquest: CrashPolicy, job: Job) -> None:
        self.careful = False
        self._inquest = inquest
        self._job = job
        self._deaths = 0

    def hear(self, death: Death) -> bool:
        """Draw the consequences; returns whether to run the job again at once.

        Only our own functions are, as they may run twice without harm, and what the horse had not
        begun with. For others RQ's rule holds: retried if the job says so, else failed. So it does
        for all when somebody had the horse killed: neither picture nor provider is to blame.
        """
        if death.on_command:
            return False
        suspect = death.suspect or ""
        strikes = self._inquest.strikes[suspect]
        blame = diagnose(death, careful=self.careful, strikes=strikes)
        may_repeat = is_ours(self._job) or not death.flight.taken
        match blame:
            case Cause.IMAGE:
                may_repeat = self._set_aside(suspect, death) and may_repeat
            case Cause.UNCLEAR:
                if suspect:
                    self._inquest.strikes[suspect] += 1
                self._deaths += 1
            case Cause.OTHER:
                self._inquest.stable.count(death)
                self._deaths += 1
        self.careful = self.careful or blame is not Cause.OTHER
        return may_repeat and self._deaths <= _MOST_DEATHS

    def _set_aside(self, path: str, death: Death) -> bool:
        letter = PoisonedFile.write(
            path, str(death), job=self._job.id, collection=_collection(self._job)
        )
        del self._inquest.strikes[path]
        if not self._inquest.dead_letters.add(letter):
            log.error("there are too many dead letters already; see `warmclip status --dead`")
            return False
        log.error("%r is set aside: %s", path, death)
        return True


def is_ours(job: Job) -> bool:
    """Whether a job names a function of warmclip's own."""
    try:
        return job.func_name in FUNCTIONS
    except DeserializationError:
        return False


def _collection(job: Job) -> str | None:
    """The collection that a job indexes into."""
    if not is_ours(job) or job.func_name != job_name("index_images"):
        return None
    arguments: Mapping[str, Any] = {
        **dict(zip(("paths", "collection"), job.args, strict=False)),
        **job.kwargs,
    }
    collection = arguments.get("collection")
    return collection if isinstance(collection, str) else None
