"""Searches by text that arrive together are one job: the model computes their texts in one run."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from warmclip.errors import QueueUnreachable, WarmclipError, revive
from warmclip.work.call import CallCancelled, no_answer

MOST_TOGETHER = 32
"""Texts that the model computes in one run."""

Ask: TypeAlias = Callable[[str, Mapping[str, Any], Callable[[], bool]], Awaitable[Any]]
"""Has a worker run a function with arguments, until nobody wants its answer any more."""


@dataclass(slots=True, eq=False)
class _Question:
    arguments: Mapping[str, Any]  # of ``search``
    answer: asyncio.Future[Any] = field(default_factory=asyncio.Future)

    @property
    def where(self) -> tuple[Any, Any]:
        return self.arguments.get("collection"), self.arguments.get("model")

    def fail(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)

    def end(self, answer: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class SearchGroups:
    """Sends a search at once while a worker is free; those that come meanwhile go together.

    It belongs to the event loop.
    """

    def __init__(self, ask: Ask, count_workers: Callable[[], int]) -> None:
        """Make it.

        Args:
            ask: a worker.
            count_workers: how many listened when one was last asked.
        """
        self._ask = ask
        self._count_workers = count_workers
        self._waiting: list[_Question] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def search(self, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """What the job ``search`` returns for these arguments.

        Raises:
            QueueUnreachable: no worker answered in time.
            WarmclipError: what ``search`` raises.
        """
        question = _Question(arguments)
        self._waiting.append(question)
        self._send()
        try:
            async with asyncio.timeout(timeout_s):
                return await question.answer
        except TimeoutError:
            raise no_answer(timeout_s) from None
        finally:
            question.answer.cancel()  # whoever asked has left

    def _send(self) -> None:
        """Send what waits, a job for each worker."""
        while len(self._under_way) < max(1, self._count_workers()):
            group = self._take_group()
            if not group:
                return
            task = asyncio.create_task(self._answer(group))
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _take_group(self) -> list[_Question]:
        """Those who wait longest; of one collection and model: a horse may not hold more models."""
        waiting = [it for it in self._waiting if not it.answer.done()]
        group = [it for it in waiting if it.where == waiting[0].where][:MOST_TOGETHER]
        self._waiting = [it for it in waiting if it not in group]
        return group

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._send()

    async def _answer(self, group: Sequence[_Question]) -> None:
        try:
            await (self._answer_one(group[0]) if len(group) == 1 else self._answer_all(group))
        except Exception as exc:  # whatever it was, those who asked are told
            for question in group:
                question.fail(exc)

    async def _answer_one(self, question: _Question) -> None:
        try:
            question.end(await self._ask("search", question.arguments, question.answer.done))
        except WarmclipError as exc:
            question.fail(exc)

    async def _answer_all(self, group: Sequence[_Question]) -> None:
        arguments = {"questions": [question.arguments for question in group]}
        try:
            answer = await self._ask(
                "search_many", arguments, lambda: all(it.answer.done() for it in group)
            )
            answers = answer["answers"]
            for question, found in zip(group, answers, strict=True):
                if "error" in found:
                    question.fail(revive(str(found["error"]), str(found["message"])))
                else:
                    question.end(found)
        except (QueueUnreachable, CallCancelled):
            raise
        except (WarmclipError, LookupError, TypeError, ValueError):
            # None is to blame for what another did, or the worker knows no such job yet.
            for question in group:
                if not question.answer.done():
                    await self._answer_one(question)
