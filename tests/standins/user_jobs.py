"""A user's own jobs, as WARMCLIP_JOBS names them. They leave traces in files: one line a run."""

import inspect
import os
import time
from pathlib import Path
from typing import Any

from redis import Redis
from rq import get_current_job
from rq.job import Job, Retry

from warmclip.work import encoder


def add(first: int, second: int) -> int:
    """Return a sum."""
    return first + second


async def add_later(first: int, second: int) -> int:
    """Return a sum, from a coroutine."""
    return first + second


def echo(value: Any) -> Any:
    """Return what was given."""
    return value


def note(file: str, text: str = "ran") -> None:
    """Leave a line in a file."""
    with Path(file).open("a", encoding="utf-8") as stream:
        stream.write(f"{text}\n")


def process() -> int:
    """Return the process that runs jobs."""
    return os.getpid()


def who() -> str | None:
    """Return the id of the job that runs, as RQ tells it."""
    job = get_current_job()
    return job.id if job else None


def sleep(seconds: float, file: str | None = None) -> float:
    """Take some time, and leave a line at the beginning and at the end."""
    if file:
        note(file, "begin")
    time.sleep(seconds)
    if file:
        note(file, "end")
    return seconds


def fail(message: str) -> None:
    """Raise."""
    raise ValueError(message)


def fail_until(file: str, times: int) -> int:
    """Raise until there were so many runs, and return how many there were."""
    note(file)
    runs = len(Path(file).read_text(encoding="utf-8").splitlines())
    if runs < times:
        raise ValueError(f"run {runs}")
    return runs


def ask_again(file: str, most: int) -> Retry:
    """Return RQ's wish to be run again, every time."""
    note(file)
    return Retry(max=most)


def no_json() -> object:
    """Return what JSON cannot carry."""
    return object()


def mark(meta: dict[str, Any], then_fail: bool = False) -> None:
    """Save meta data of the job that runs."""
    job = get_current_job()
    assert job is not None
    job.meta.update(meta)
    job.save_meta()  # type: ignore[no-untyped-call]  # rq's is not annotated
    if then_fail:
        raise ValueError("after meta")


def leave(code: int) -> None:
    """End the process."""
    os._exit(code)


def embed(text: str) -> list[float]:
    """Embed with the worker's warm model."""
    vector: list[float] = encoder().encode_texts([text])[0].tolist()
    return vector


def on_success(job: Job, connection: Redis, result: Any) -> None:
    """Leave the result and the process in Redis."""
    connection.hset(f"callback:{job.id}", mapping={"success": str(result), "pid": os.getpid()})


def on_failure(job: Job, connection: Redis, kind: type, value: Exception, _traceback: Any) -> None:
    """Leave the error and the process in Redis."""
    said = f"{kind.__name__}: {value}"
    connection.hset(f"callback:{job.id}", mapping={"failure": said, "pid": os.getpid()})


def raises(*_: object) -> None:
    """Fail as a callback."""
    raise ValueError("the callback's own")


def dawdle(*_: object) -> None:
    """Take too long as a callback."""
    time.sleep(30)


def leave_as_callback(*_: object) -> None:
    """End the process as a callback."""
    os._exit(9)


NAMES = ",".join(
    f"{__name__}:{name}"
    for name, function in list(globals().items())
    if inspect.isfunction(function) and function.__module__ == __name__
)
"""All of them, for WARMCLIP_JOBS."""
