"""What Redis replies. Others may write to it: what is not of RQ is passed by, and said once."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from warmclip.work.patience import Patience, is_wrong_type, refusal

log = logging.getLogger(__name__)

_MOST_WARNINGS = 256  # that are remembered


def text_of(value: bytes | str) -> str:
    """What Redis replies, as text, whatever somebody wrote there."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def reply_of(connection: Redis, *command: bytes | str | int) -> Any:
    """What Redis replies to one command, such as ``"HGETALL", key``; see ``replies_of``."""
    (reply,) = replies_of(connection, [command])
    return reply


def replies_of(
    connection: Redis, commands: Iterable[Sequence[bytes | str | int]], *, transaction: bool = False
) -> list[Any]:
    """What Redis replies to commands that are sent together, one by one.

    A refusal that may pass is waited for with the connection's patience, as with any command: all
    of them are sent again. So those that may not run twice belong into a transaction, which Redis
    refuses as a whole.

    Args:
        connection: to Redis.
        commands: each with its arguments.
        transaction: send them as one.

    Returns:
        for each command its reply; None for a key that holds something else than it should.

    Raises:
        RedisError, OSError: no answer, or a refusal that lasts longer than patience.
    """
    sent = list(commands)

    def send() -> list[Any]:
        with connection.pipeline(transaction=transaction) as pipeline:
            for command in sent:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's
            return pass_wrong_types(pipeline.execute(raise_on_error=False))

    patience = connection.get_retry()
    if not isinstance(patience, Patience):
        return send()
    # redis-py repeats what gets no answer, but not what is refused among a pipeline's replies.
    return patience.call_with_retry(
        send, lambda _: None, is_retryable=lambda error: refusal(error) is not None
    )


def read_members(connection: Redis, key: str, prefix: str) -> list[str]:
    """The members of one of RQ's sets, in order, without their prefix; what is none is left out."""
    names: list[str] = []
    strays: list[str] = []
    for text in sorted(map(text_of, reply_of(connection, "SMEMBERS", key) or ())):
        is_name = text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text
        (names if is_name and text.startswith(prefix) else strays).append(text)
    if strays:
        shown = ", ".join(repr(text[:50]) for text in strays[:3])
        warn_once(f"{key} in Redis names what is not RQ's, and is passed by: {shown}")
    return [name.removeprefix(prefix) for name in names]


def pass_wrong_types(replies: Iterable[Any]) -> list[Any]:
    """What a pipeline replied, with None for each key that holds something else than RQ's.

    Redis has carried out all other commands, of a transaction as well.

    Raises:
        RedisError: another error among the replies.
    """
    passed = list(replies)
    for at, reply in enumerate(passed):
        if isinstance(reply, Exception):
            if not is_wrong_type(reply):
                raise reply
            warn_once(f"a key in Redis is not RQ's: it is passed by ({reply})")
            passed[at] = None
    return passed


@contextmanager
def passing_wrong_types() -> Iterator[None]:
    """For a transaction of RQ's at the block's end: see ``pass_wrong_types``."""
    try:
        yield
    except ResponseError as exc:
        pass_wrong_types([exc])


@lru_cache(maxsize=_MOST_WARNINGS)
def warn_once(message: str) -> None:
    """Log what is met again and again, once."""
    log.warning(message)
