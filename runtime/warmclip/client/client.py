"""The clients of an application: Client, and AsyncClient for code under an event loop."""

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

_GRACE_S = 2.0  # in which a backend raises an error of its own, which tells more than ours

T = TypeVar("T")


class Client:
    """Embeds texts and pictures; used from any thread, and closed after use.

    Vectors are float32, of unit length, as ``features / features.norm(dim=-1, keepdim=True)`` of
    open_clip's model gives them.
    """

    def __init__(self, backend: Backend, *, timeout_s: float = ANSWER_S) -> None:
        """Make a client.

        Args:
            backend: ``InProcess(encoder)`` or ``ThroughQueue(settings)``; closed with the client.
            timeout_s: for one call, waiting for a worker included. A model in this process
                completes what it has begun.
        """
        self._backend = backend
        self._timeout_s = timeout_s

    def space(self) -> Space:
        """The embedding space of the vectors: its ``fingerprint``, and ``dim``, their length."""
        return self._backend.space(self._deadline())

    def embed_text(self, text: str) -> Vector:
        """Embed a text as a unit vector, shape (dim,).

        Raises:
            TextRefused: it is no str, or longer than the limit.
            QueueUnreachable: through the queue, no worker is listening, or none answered in time.
        """
        vector: Vector = self.embed_texts([text])[0]
        return vector

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed texts as unit vectors, shape (n, dim), in their order.

        Raises:
            TextRefused, QueueUnreachable: as ``embed_text``.
        """
        return self._backend.embed_texts(_require_list(texts, "texts"), self._deadline())

    def embed_image(self, picture: Picture) -> Vector:
        """Embed a picture as a unit vector, shape (dim,).

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
            raise _as_one(picture, exc) from exc
        return vector

    def embed_images(self, pictures: Sequence[Picture]) -> Vectors:
        """Embed pictures as unit vectors, shape (n, dim), in their order.

        Raises:
            ImagesUnreadable: one or more could not be read; it names each with its reason.
            JobRefused, QueueUnreachable: as ``embed_image``.
        """
        return self._backend.embed_images(_require_list(pictures, "pictures"), self._deadline())

    def close(self) -> None:
        """Close the connection to Redis, or release the model."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deadline(self) -> Deadline:
        return Deadline.after(self._timeout_s)


class AsyncClient:
    """A ``Client`` for code under an event loop, which it never blocks.

    Threads make the calls, as many at once as the backend is good for; further calls wait for
    their turn within their own time-out. A call that is cancelled is taken back: at once if it
    waits for its turn, from the queue within a second if no worker has begun with it. A model
    completes what it has begun.
    """

    def __init__(self, backend: Backend, *, timeout_s: float = ANSWER_S) -> None:
        """See ``Client``; make it in the process that uses it, after any fork."""
        self._backend = backend
        self._timeout_s = timeout_s
        self._owner = os.getpid()
        self._pool = ThreadPoolExecutor(backend.concurrency, thread_name_prefix="warmclip-client")
        self._deadlines: set[Deadline] = set()

    async def space(self) -> Space:
        """See ``Client.space``."""
        return await self._run(self._backend.space)

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
        return await self._run(self._backend.embed_texts, _require_list(texts, "texts"))

    async def embed_image(self, picture: Picture) -> Vector:
        """See ``Client.embed_image``; raises as ``embed_text`` does."""
        try:
            vector: Vector = (await self.embed_images([picture]))[0]
        except ImagesUnreadable as exc:
            raise _as_one(picture, exc) from exc
        return vector

    async def embed_images(self, pictures: Sequence[Picture]) -> Vectors:
        """See ``Client.embed_images``; raises as ``embed_text`` does."""
        return await self._run(self._backend.embed_images, _require_list(pictures, "pictures"))

    async def aclose(self) -> None:
        """Take back the calls that wait, let the others end, and close the backend."""
        for deadline in list(self._deadlines):
            deadline.cancel()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._backend.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _run(self, call: Callable[..., T], *arguments: Any) -> T:
        if os.getpid() != self._owner:  # its threads are not here: it would wait for ever
            raise ForkedSessionError(
                f"this client was made in process {self._owner} and is used in its forked child "
                f"{os.getpid()}: make it there, in the application's lifespan"
            )
        deadline = Deadline.after(self._timeout_s)
        future = self._pool.submit(_run_in_turn, call, arguments, deadline)
        self._deadlines.add(deadline)
        try:
            async with asyncio.timeout(self._timeout_s + _GRACE_S):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Overloaded(
                f"no answer within {self._timeout_s:g} s: {_advice(len(self._deadlines))}"
            ) from None
        except asyncio.CancelledError:
            if _was_closed(future):
                raise RuntimeError("the client was closed before it could answer") from None
            raise
        finally:
            deadline.cancel()
            self._deadlines.discard(deadline)


def _advice(calls: int) -> str:
    """What to do about a call that was not answered, while so many were under way."""
    if calls > 1:
        return (
            f"{calls} calls are under way in this process; ask for less at once, or let more "
            "workers answer"
        )
    return (
        "no other call is under way, so Redis or the workers are slow or frozen; `warmclip status` "
        "shows whether they answer"
    )


def _run_in_turn(call: Callable[..., T], arguments: Sequence[Any], deadline: Deadline) -> T:
    """Make a call in a thread of the pool, if somebody still waits for it."""
    if deadline.left_s <= 0 or deadline.is_cancelled():
        raise Overloaded("its turn did not come in time: ask for less at once")
    return call(*arguments, deadline)


def _was_closed(future: Future[Any]) -> bool:
    """Whether ``aclose`` cancelled a call, not whoever made it."""
    task = asyncio.current_task()
    return future.cancelled() and (task is None or not task.cancelling())


def _require_list(items: Sequence[T], what: str) -> Sequence[T]:
    """Return the items if they are a list: a str or bytes would be taken for its characters."""
    if isinstance(items, str | bytes | Path):
        raise TypeError(f"a list of {what} is needed, not one of them")
    return items


def _as_one(picture: Picture, exc: ImagesUnreadable) -> ImageUnreadable:
    (reason,) = exc.reasons.values()
    if isinstance(picture, str | Path):
        return ImageUnreadable(f"{os.fspath(picture)!r} {reason}")
    return ImageUnreadable(reason)
