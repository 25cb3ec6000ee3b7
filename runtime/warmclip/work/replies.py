"""What Redis replies. Others may write to it: what is not of RQ is passed by, and said once."""

import logging
from functools import lru_cache
from typing import Any

from redis import Redis
from redis.client import Pipeline

from warmclip.work.patience import is_wrong_type

log = logging.getLogger(__name__)

_MOST_WARNINGS = 256  # that are remembered


def text_of(value: bytes | str) -> str:
    """What Redis replies, as text, whatever somebody wrote there."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def answers_of(pipeline: Pipeline) -> list[Any]:
    """What Redis replies, one by one; None for a key that holds something else than it should."""
    answers = []
    for answer in pipeline.execute(raise_on_error=False):
        if isinstance(answer, Exception):
            if not is_wrong_type(answer):
                raise answer
            warn_once(f"a key in Redis is not RQ's: it is passed by ({answer})")
        answers.append(None if isinstance(answer, Exception) else answer)
    return answers


def read_members(connection: Redis, key: str, prefix: str) -> list[str]:
    """The members of one of RQ's sets, in order, without their prefix; what is none is left out."""
    with connection.pipeline(transaction=False) as pipeline:
        pipeline.smembers(key)
        (members,) = answers_of(pipeline)
    names: list[str] = []
    strays: list[str] = []
    for text in sorted(map(text_of, members or ())):
        is_name = text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text
        (names if is_name and text.startswith(prefix) else strays).append(text)
    if strays:
        shown = ", ".join(repr(text[:50]) for text in strays[:3])
        warn_once(f"{key} in Redis names what is not RQ's, and is passed by: {shown}")
    return [name.removeprefix(prefix) for name in names]


@lru_cache(maxsize=_MOST_WARNINGS)
def warn_once(message: str) -> None:
    """Log what is met again and again, once."""
    log.warning(message)
