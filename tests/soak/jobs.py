"""The jobs that are sent, honest and hostile, and what else somebody may write to Redis."""

import json
import pickle
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.serializers import JSONSerializer

from faults.conftest import Rig
from pictures import draw
from soak.accounts import Sent
from unit.test_decoding_work import HOSTILE

INDEX = "warmclip.work.jobs.index_images"
COLLECTION = "images"
PIXELS = 10_000_000  # WARMCLIP_MAX_IMAGE_PIXELS: what HOSTILE was made for
_KEPT_S = 24 * 3600
_IN_ONE_JOB = 4  # pictures

# What is written into the record of a job before it is queued.
_TAMPERED: dict[str, dict[Any, Any]] = {
    "no interval": {"retries_left": "1", "retry_intervals": "[]"},
    "interval that is no number": {"retries_left": "1", "retry_intervals": '["x"]'},
    "interval of ages": {"retries_left": "1", "retry_intervals": "[1000000000000]"},
    "time-out beyond measure": {"timeout": "9" * 400},
    "time to live that is no number": {"result_ttl": "x"},
    "date that is none": {"created_at": "yesterday"},
    "data that is none": {"data": b"\xff\xfe"},
    "data that is pickled": {"data": zlib.compress(pickle.dumps(("os.getpid", None, (), {})))},
    "function that is a list": {"data": zlib.compress(b'[["os.getpid"],null,[],{}]')},
    "function that is not listed": {"data": zlib.compress(b'["os.getpid",null,[],{}]')},
    "dependencies that are none": {"dependency_ids": "5"},
    "callback that is not listed": {"success_callback_name": "os.getpid"},
    "rate limit that is none": {"rate_limit_key": "k", "rate_limit_concurrency": "x"},
    "group in no encoding": {"group_id": b"\xff"},
}


class Sender:
    """Sends jobs of every kind, and writes down what it has sent."""

    def __init__(self, rig: Rig, chance: random.Random) -> None:
        self.sent: list[Sent] = []
        self.trace = rig.folder / "trace"
        self.trace.touch()
        self.pictures: list[str] = []
        self._rig, self._chance = rig, chance
        self._folder = rig.folder / "pictures"
        self._folder.mkdir()
        self._hostile: dict[str, bytes] = {}
        self._kinds: dict[Callable[[Queue, str], Sent], float] = {
            self._count: 60,
            self._fail: 8,
            self._with_retries: 8,
            self._slow: 1.5,
            self._index: 6,
            self._embed: 8,
            self._tampered: 4,
        }

    def send(self, connection: Redis) -> None:
        """Send one job, of any kind."""
        (kind,) = self._chance.choices(list(self._kinds), list(self._kinds.values()))
        name = self._chance.choice(["default", "default", "default", "high"])
        queue = Queue(name, connection=connection, serializer=JSONSerializer)
        self.sent.append(kind(queue, f"{len(self.sent):06}"))

    def send_index(self, connection: Redis, pictures: tuple[str, ...]) -> None:
        """Send a job for these pictures."""
        queue = Queue(connection=connection, serializer=JSONSerializer)
        self.sent.append(self._enqueue_index(queue, f"{len(self.sent):06}", pictures))

    def _enqueue(self, queue: Queue, id_: str, function: str, *args: object, **more: int) -> None:
        options = {"retry": Retry(max=more["retries"])} if more.get("retries") else {}
        queue.enqueue(
            function, args=args, job_id=id_, result_ttl=_KEPT_S, failure_ttl=_KEPT_S, **options
        )

    def _count(self, queue: Queue, id_: str) -> Sent:
        self._enqueue(queue, id_, "faulty_jobs.count", str(self.trace), id_)
        return Sent(id=id_, kind="counts")

    def _fail(self, queue: Queue, id_: str) -> Sent:
        self._enqueue(queue, id_, "faulty_jobs.count_and_fail", str(self.trace), id_)
        return Sent(id=id_, kind="counts and fails", fails_with=("ValueError: ",), must_fail=True)

    def _with_retries(self, queue: Queue, id_: str) -> Sent:
        self._enqueue(queue, id_, "faulty_jobs.count", str(self.trace), id_, retries=2)
        return Sent(id=id_, kind="counts, may be retried", retries=2)

    def _slow(self, queue: Queue, id_: str) -> Sent:
        seconds = self._chance.randint(2, 8)
        self._enqueue(queue, id_, "faulty_jobs.count", str(self.trace), id_, seconds)
        return Sent(id=id_, kind="counts slowly")

    def _embed(self, queue: Queue, id_: str) -> Sent:
        self._enqueue(queue, id_, "warmclip.work.jobs.embed_texts", [f"a picture of {id_}"])
        return Sent(id=id_, kind="embeds", leaves_a_line=False)

    def _index(self, queue: Queue, id_: str) -> Sent:
        pictures = tuple(self._picture() for _ in range(_IN_ONE_JOB))
        return self._enqueue_index(queue, id_, pictures)

    def _enqueue_index(self, queue: Queue, id_: str, pictures: tuple[str, ...]) -> Sent:
        self._enqueue(queue, id_, INDEX, list(pictures), COLLECTION)
        away = ("warmclip.errors.StoreUnreachable: ",)  # its owner was stopped for too long
        return Sent(id=id_, kind="indexes", fails_with=away, leaves_a_line=False, pictures=pictures)

    def _tampered(self, queue: Queue, id_: str) -> Sent:
        """A job whose record was written to by somebody else, which cannot run as it is."""
        job = Job.create(
            "faulty_jobs.count",
            args=[str(self.trace), id_],
            id=id_,
            connection=queue.connection,
            serializer=JSONSerializer,
            result_ttl=_KEPT_S,
            failure_ttl=_KEPT_S,
            origin=queue.name,
        )
        job.set_status(JobStatus.QUEUED)
        job.save()
        what = self._chance.choice(list(_TAMPERED))
        queue.connection.hset(job.key, mapping=_TAMPERED[what])
        queue.push_job_id(job.id)
        return Sent(
            id=id_, kind="hostile record", fails_with=("",), must_fail=True, leaves_a_line=False
        )

    # Pictures

    def _picture(self) -> str:
        """One picture: sound, a copy, damaged, dear to decode, or one that kills who decodes it."""
        name = f"{len(self.pictures):06}"
        path = self._folder / f"{name}.jpg"
        kind = self._chance.random()
        if kind < 0.80 or not self.pictures:
            path = draw(path.with_suffix(".png"), len(self.pictures))
        elif kind < 0.86:
            path.write_bytes(Path(self._chance.choice(self.pictures)).read_bytes())
        elif kind < 0.93:
            path.write_bytes(self._damaged(draw(path, len(self.pictures)).read_bytes()))
        elif kind < 0.99:
            path.write_bytes(self._dear_to_decode())
        else:
            self._rig.poison(self._chance.choice(["segv", "abort"]), path.name)
        self.pictures.append(str(path))
        return str(path)

    def _damaged(self, data: bytes) -> bytes:
        """With some bytes changed, or cut short."""
        changed = bytearray(data)
        for _ in range(self._chance.randint(1, 20)):
            changed[self._chance.randrange(len(changed))] = self._chance.randrange(256)
        return bytes(changed[: self._chance.choice([len(changed), len(changed) // 2])])

    def _dear_to_decode(self) -> bytes:
        """One that would be dear to decode."""
        name = self._chance.choice(list(HOSTILE))
        if name not in self._hostile:
            self._hostile[name] = HOSTILE[name][0]()
        return self._hostile[name]


_LITTER: dict[str, Callable[[Redis, str], object]] = {
    "an id of no job": lambda redis, name: redis.rpush(f"rq:queue:{name}", "no-such-job"),
    "an id in no encoding": lambda redis, name: redis.rpush(f"rq:queue:{name}", b"\xff\xfe"),
    "no job in between": lambda redis, name: redis.rpush(f"rq:queue:{name}:intermediate", b"\xff"),
    "an entry without a colon among the started": lambda redis, name: redis.zadd(
        f"rq:wip:{name}", {"no-colon": 4102444800}
    ),
    "an entry of no job among the started": lambda redis, name: redis.zadd(
        f"rq:wip:{name}", {"no-job:no-execution": 1}
    ),
    "an entry of no job among the failed": lambda redis, name: redis.zadd(
        f"rq:failed:{name}", {b"\xff": 1}
    ),
    "a queue that is none": lambda redis, _: redis.sadd("rq:queues", "evil", b"\xff"),
    "a worker that is none": lambda redis, _: redis.sadd("rq:workers", "evil", b"\xff"),
    "a worker's record without sense": lambda redis, _: (
        redis.sadd("rq:workers", "rq:worker:forged"),
        redis.hset("rq:worker:forged", mapping={"pid": "zz", "machine": "²", "horse": "-1"}),
    ),
    "totals without sense": lambda redis, _: redis.hset("rq:warmclip:totals", b"\xff", "9" * 5_000),
    "a picture set aside that is none": lambda redis, _: redis.hset(
        "rq:warmclip:dead", "forged", json.dumps({"path": 5})
    ),
    "a command that is none": lambda redis, _: [
        redis.publish(channel, b"not json \xff") for channel in redis.pubsub_channels("rq:pubsub:*")
    ],
}


def litter(connection: Redis, chance: random.Random) -> str:
    """Write what is none of RQ's into its keys; returns what."""
    what = chance.choice(list(_LITTER))
    _LITTER[what](connection, chance.choice(["default", "high"]))
    return what
