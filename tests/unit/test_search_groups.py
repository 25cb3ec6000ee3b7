"""Which searches go together, and what each of those who asked is told."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from warmclip.errors import HorseDied, NotStored, QueueUnreachable
from warmclip.serve.search_groups import MOST_TOGETHER, SearchGroups


class Worker:
    """Answers when it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.functions: list[str] = []
        self.unwanted: list[Callable[[], bool]] = []
        self._answers: list[asyncio.Future[None]] = []
        self.failure: Exception | None = None
        self.reply: Any = ...  # to several questions, if it is not to answer them

    async def ask(
        self, function: str, arguments: Mapping[str, Any], is_unwanted: Callable[[], bool]
    ) -> Any:
        """See ``Ask``."""
        questions = arguments["questions"] if function == "search_many" else [arguments]
        self.asked.append([question["text"] for question in questions])
        self.functions.append(function)
        self.unwanted.append(is_unwanted)
        self._answers.append(asyncio.Future())
        await self._answers[-1]
        if function == "search":
            if arguments["text"] == "deadly":
                raise HorseDied("signal 11")
            return _answer(arguments["text"])
        if self.failure is not None:
            raise self.failure
        if self.reply is not ...:
            return self.reply
        return {"answers": [_answer(question["text"]) for question in questions]}

    async def answer(self) -> None:
        """Answer what was asked first, and let those who asked go on."""
        self._answers.pop(0).set_result(None)
        await settle()


def _answer(text: str) -> dict[str, Any]:
    if text == "lost":
        return {"error": "NotStored", "message": "there is no such collection"}
    return {"hits": [text]}


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def ask(groups: SearchGroups, *texts: str) -> list[asyncio.Task[Any]]:
    """Ask for each text at once."""
    return [asyncio.create_task(groups.search({"text": text}, 60)) for text in texts]


def test_lone_search_is_sent_at_once() -> None:
    """It waits for no other, and is the plain job."""

    async def run() -> None:
        worker = Worker()
        (task,) = ask(SearchGroups(worker.ask, lambda: 1), "a")
        await settle()
        assert (worker.asked, worker.functions) == ([["a"]], ["search"])
        await worker.answer()
        assert await task == {"hits": ["a"]}

    asyncio.run(run())


def test_searches_that_come_meanwhile_go_together() -> None:
    """One job for all that waited, up to a batch of the model; each gets its own answer."""

    async def run() -> None:
        worker = Worker()
        texts = [str(number) for number in range(MOST_TOGETHER + 3)]
        tasks = ask(SearchGroups(worker.ask, lambda: 1), *texts)
        await settle()
        for _ in range(3):
            await worker.answer()
        assert worker.asked == [texts[:1], texts[1 : MOST_TOGETHER + 1], texts[MOST_TOGETHER + 1 :]]
        assert [await task for task in tasks] == [{"hits": [text]} for text in texts]

    asyncio.run(run())


def test_most_that_go_together() -> None:
    """As many texts as the model computes in one run."""
    assert MOST_TOGETHER == 32


def test_no_worker_was_seen() -> None:
    """One job is sent all the same: who listened was asked a while ago."""

    async def run() -> None:
        worker = Worker()
        tasks = ask(SearchGroups(worker.ask, lambda: 0), "a", "b")
        await settle()
        assert worker.asked == [["a"]]
        for _ in range(2):
            await worker.answer()
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_worker_that_has_left() -> None:
    """What is asked while more jobs are under way than workers are left waits for both."""

    async def run() -> None:
        worker = Worker()
        workers = 2
        groups = SearchGroups(worker.ask, lambda: workers)
        tasks = ask(groups, "a", "b")
        await settle()
        workers = 1
        tasks += ask(groups, "c", "d")
        await settle()
        assert worker.asked == [["a"], ["b"]]
        await worker.answer()
        assert worker.asked == [["a"], ["b"]]
        for _ in range(2):
            await worker.answer()
        await asyncio.gather(*tasks)
        assert worker.asked[2:] == [["c", "d"]]

    asyncio.run(run())


def test_each_worker_gets_a_job() -> None:
    """With two workers two jobs are under way, so that neither is idle."""

    async def run() -> None:
        worker = Worker()
        tasks = ask(SearchGroups(worker.ask, lambda: 2), "a", "b", "c", "d")
        await settle()
        assert worker.asked == [["a"], ["b"]]
        for _ in range(3):
            await worker.answer()
        assert worker.asked[2:] == [["c", "d"]]
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_an_error_is_one_question_s_own() -> None:
    """Its neighbours get their hits."""

    async def run() -> None:
        worker = Worker()
        _, bad, good = tasks = ask(SearchGroups(worker.ask, lambda: 1), "a", "lost", "b")
        await settle()
        await worker.answer()
        await worker.answer()
        await asyncio.wait(tasks)
        assert good.result() == {"hits": ["b"]}
        with pytest.raises(NotStored, match="no such collection"):
            bad.result()

    asyncio.run(run())


def test_a_job_that_fails_is_asked_again_one_by_one() -> None:
    """What one text did to the worker, or a worker that does not know the job, costs no answer."""

    async def run() -> None:
        worker = Worker()
        worker.failure = HorseDied("signal 11")
        tasks = ask(SearchGroups(worker.ask, lambda: 1), "a", "b", "c")
        await settle()
        for _ in range(4):
            await worker.answer()
        assert worker.asked == [["a"], ["b", "c"], ["b"], ["c"]]
        assert [await task for task in tasks] == [{"hits": [text]} for text in "abc"]

    asyncio.run(run())


def test_one_of_them_is_deadly() -> None:
    """It alone fails when they are asked one by one."""

    async def run() -> None:
        worker = Worker()
        worker.failure = HorseDied("signal 11")
        tasks = ask(SearchGroups(worker.ask, lambda: 1), "a", "deadly", "b")
        await settle()
        for _ in range(4):
            await worker.answer()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert (found[0], found[2]) == ({"hits": ["a"]}, {"hits": ["b"]})
        assert isinstance(found[1], HorseDied)

    asyncio.run(run())


@pytest.mark.parametrize(
    "reply",
    [None, 7, {}, {"answers": 7}, {"answers": [7, 7]}, {"answers": [{"hits": []}]},
     {"answers": [{"error": "NotStored"}, {}]}],
    ids=str,
)  # fmt: skip
def test_reply_that_is_none(reply: Any) -> None:
    """As of a worker of another version: they are asked one by one."""

    async def run() -> None:
        worker = Worker()
        worker.reply = reply
        tasks = ask(SearchGroups(worker.ask, lambda: 1), "a", "b", "c")
        await settle()
        for _ in range(4):
            if worker._answers:
                await worker.answer()
        found = await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert found[2] == {"hits": ["c"]}
        assert worker.asked[:2] == [["a"], ["b", "c"]]
        assert worker.asked[-1] == ["c"]

    asyncio.run(run())


def test_a_job_is_of_one_collection() -> None:
    """A horse may not hold the models of more; those of another one wait, in order."""

    async def run() -> None:
        worker = Worker()
        groups = SearchGroups(worker.ask, lambda: 1)
        (first,) = ask(groups, "a")
        others = [
            asyncio.create_task(groups.search({"text": text, "collection": name}, 60))
            for text, name in zip("bcdefg", "xyxzyw", strict=True)
        ]
        await settle()
        for _ in range(5):
            await worker.answer()
        await asyncio.gather(first, *others)
        assert worker.asked == [["a"], ["b", "d"], ["c", "f"], ["e"], ["g"]]

    asyncio.run(run())


def test_a_job_is_of_one_model() -> None:
    """Those of another model wait, in order, as a horse may not hold more."""

    async def run() -> None:
        worker = Worker()
        groups = SearchGroups(worker.ask, lambda: 1)
        (first,) = ask(groups, "a")
        others = [
            asyncio.create_task(groups.search({"text": text, "collection": "c", **model}, 60))
            for text, model in (("b", {"model": "x"}), ("c", {}), ("d", {"model": "x"}))
        ]
        await settle()
        for _ in range(3):
            await worker.answer()
        await asyncio.gather(first, *others)
        assert worker.asked == [["a"], ["b", "d"], ["c"]]

    asyncio.run(run())


def test_no_worker() -> None:
    """All who wait are told so, once; nobody asks again."""

    async def run() -> None:
        worker = Worker()
        worker.failure = QueueUnreachable("no worker is listening")
        _, *tasks = ask(SearchGroups(worker.ask, lambda: 1), "a", "b", "c")
        await settle()
        await worker.answer()
        await worker.answer()
        await asyncio.wait(tasks)
        assert worker.asked == [["a"], ["b", "c"]]
        for task in tasks:
            with pytest.raises(QueueUnreachable):
                task.result()

    asyncio.run(run())


def test_those_who_leave() -> None:
    """One that waits is not sent; a job that nobody waits for any more is unwanted."""

    async def run() -> None:
        worker = Worker()
        first, second, third = ask(SearchGroups(worker.ask, lambda: 1), "a", "b", "c")
        await settle()
        assert not worker.unwanted[0]()
        for task in (first, second):
            task.cancel()
        await settle()
        assert worker.unwanted[0]()
        await worker.answer()
        assert worker.asked == [["a"], ["c"]]
        await worker.answer()
        assert await third == {"hits": ["c"]}

    asyncio.run(run())


def test_time_out() -> None:
    """A question that waited for a place in vain ends with a word on workers."""

    async def run() -> None:
        worker = Worker()
        groups = SearchGroups(worker.ask, lambda: 1)
        (lasting,) = ask(groups, "a")
        await settle()
        with pytest.raises(QueueUnreachable, match="no worker answered within 1 s"):
            await groups.search({"text": "b"}, 0)
        await worker.answer()
        assert await lasting == {"hits": ["a"]}
        assert worker.asked == [["a"]]

    asyncio.run(run())
