"""What an application calls: a Client, or an AsyncClient under an event loop."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from warmclip.client.backend import Backend, Deadline, Picture
from warmclip.errors import ForkedSessionError, ImagesUnreadable, ImageUnreadable, Overloaded
from warmclip.inference.arrays import Vector, Vectors
from warmclip.store.protocol import Space

ANSWER_S = 30.0
"""How long an answer may take, unless told otherwise."""

_GRACE_S = 2.0  # in which a source says itself why there is no answer, which tells more

T = TypeVar("T")


class Client:
    """Texts and pictures to unit vectors; used from any thread, and closed after use.

    Vectors are float32, of unit length, as ``features / features.norm(dim=-1, keepdim=True)`` of
    open_clip's model gives them.
    """

    def __init__(self, source: Backend, *, timeout_s: float = ANSWER_S) -> None:
        """A client.

        Args:
            source: ``InProcess(encoder)`` or ``ThroughQueue(settings)``; closed with the client.
            timeout_s: for one question, waiting for a worker included. A model in this process
                ends what it has begun.
        """
        self._source = source
        self._timeout_s = timeout_s

    def space(self) -> Space:
        """The embedding space: its ``fingerprint``, and ``dim``, the length of a vector."""
        return self._source.space(self._begin())

    def embed_text(self, text: str) -> Vector:
        """One text's unit vector, shape (dim,).

        Raises:
            TextRefused: it is no str, or longer than the limit.
            QueueUnreachable: through the queue, no worker is listening, or none answered in time.
        """
        vector: Vector = self.embed_texts([text])[0]
        return vector

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts, shape (n, dim), in their order.

        Raises:
            TextRefused, QueueUnreachable: as ``embed_text``.
        """
        return self._source.embed_texts(_several(texts, "texts"), self._begin())

    def embed_image(self, picture: Picture) -> Vector:
        """One picture's unit vector, shape (dim,).

        Args:
            picture: a path, a file's bytes, or a Pillow image. Through the queue, workers open
                paths, under their WARMCLIP_ROOTS; the others are sent, up to 10 MiB.

        Raises:
            ImageUnreadable: it is no picture, larger than the limits allow, or, through the queue,
                outside the workers' roots.
            JobRefused: through the queue, the workers have no roots, so that they open no files.
            QueueUnreachable: as ``embed_text``.
        """
        try:
            vector: Vector = self.embed_images([picture])[0]
        except ImagesUnreadable as exc:
            raise _of_one(picture, exc) from exc
        return vector

    def embed_images(self, pictures: Sequence[Picture]) -> Vectors:
        """Unit vectors of pictures, shape (n, dim), in their order.

        Raises:
            ImagesUnreadable: one or more could not be read; it names each with its reason.
            JobRefused, QueueUnreachable: as ``embed_image``.
        """
        return self._source.embed_images(_several(pictures, "pictures"), self._begin())

    def close(self) -> None:
        """Let go of the connection, or the model."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> Deadline:
        return Deadline.of(self._timeout_s)


class AsyncClient:
    """The same for code under an event loop, which it never blocks.

    A few threads ask, as many as are worth it at once; further questions wait for their turn within
    their own time-out. A question that is cancelled is taken back: at once if it waits for its
    turn, from the queue within two seconds if no worker has it. A model ends what it has begun.
    """

    def __init__(self, source: Backend, *, timeout_s: float = ANSWER_S) -> None:
        """See ``Client``; make it in the process that uses it, after any fork."""
        self._source = source
        self._timeout_s = timeout_s
        self._owner = os.getpid()
        self._pool = ThreadPoolExecutor(source.at_once, thread_name_prefix="warmclip-client")
        self._waits: set[Deadline] = set()

    async def space(self) -> Space:
        """See ``Client.space``."""
        return await self._ask(self._source.space)

    async def embed_text(self, text: str) -> Vector:
        """See ``Client.embed_text``.

        Raises:
            Overloaded: too much was asked for at once to be answered in time.
            ForkedSessionError: this is a forked child of the process that made the client.
        """
        vector: Vector = (await self.embed_texts([text]))[0]
        return vector

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """See ``Client.embed_texts``; raises as ``embed_text`` does."""
        return await self._ask(self._source.embed_texts, _several(texts, "texts"))

    async def embed_image(self, picture: Picture) -> Vector:
        """See ``Client.embed_image``; raises as ``embed_text`` does."""
        try:
            vector: Vector = (await self.embed_images([picture]))[0]
        except ImagesUnreadable as exc:
            raise _of_one(picture, exc) from exc
        return vector

    async def embed_images(self, pictures: Sequence[Picture]) -> Vectors:
        """See ``Client.embed_images``; raises as ``embed_text`` does."""
        return await self._ask(self._source.embed_images, _several(pictures, "pictures"))

    async def aclose(self) -> None:
        """Take back what waits, let what is at work end, and let go of everything."""
        for wait in list(self._waits):
            wait.give_up()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._source.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(self, question: Callable[..., T], *arguments: Any) -> T:
        if os.getpid() != self._owner:  # its threads are not here: it would wait for ever
            raise ForkedSessionError(
                f"this client was made in process {self._owner} and is used in its forked child "
                f"{os.getpid()}: make it there, in the application's lifespan"
            )
        wait = Deadline.of(self._timeout_s)
        future = self._pool.submit(_in_turn, question, arguments, wait)
        self._waits.add(wait)
        try:
            async with asyncio.timeout(self._timeout_s + _GRACE_S):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Overloaded(
                f"no answer within {self._timeout_s:g} s, with {len(self._waits)} questions under "
                "way in this process: ask for less at once, or let more workers answer"
            ) from None
        except asyncio.CancelledError:
            if _was_closed(future):
                raise RuntimeError("the client was closed before it could answer") from None
            raise
        finally:
            wait.give_up()
            self._waits.discard(wait)


def _in_turn(question: Callable[..., T], arguments: Sequence[Any], wait: Deadline) -> T:
    """In a thread: ask, if somebody still waits."""
    if wait.left_s <= 0 or wait.is_given_up():
        raise Overloaded("its turn did not come in time: ask for less at once")
    return question(*arguments, wait)


def _was_closed(future: Future[Any]) -> bool:
    """Whether a question was cancelled by ``aclose``, not by whoever asked it."""
    task = asyncio.current_task()
    return future.cancelled() and (task is None or not task.cancelling())


def _several(items: Sequence[T], what: str) -> Sequence[T]:
    """A list; one text, path or file would else be taken for its characters or bytes."""
    if isinstance(items, str | bytes):
        raise TypeError(f"a list of {what} is needed, not one of them")
    return items


def _of_one(picture: Picture, exc: ImagesUnreadable) -> ImageUnreadable:
    (reason,) = exc.reasons.values()
    if isinstance(picture, str | Path):
        return ImageUnreadable(f"{os.fspath(picture)!r} {reason}")
    return ImageUnreadable(reason)
