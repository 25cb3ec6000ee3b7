"""The one thread that uses the embedded store: what it lets in, and what it gives back."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from warmclip.errors import StoreError
from warmclip.store.embedded_thread import Postponed, StoreThread

PATIENCE_S = 60.0


@pytest.fixture
def thread() -> Iterator[StoreThread]:
    """One that has nothing to do when it is idle."""
    thread = StoreThread(lambda: None, 3600.0)
    yield thread
    thread.stop(lambda: None)


def test_one_call_at_a_time(thread: StoreThread) -> None:
    """A second caller waits until the first call has ended, which any thread may have asked for."""
    has_begun, may_end = threading.Event(), threading.Event()
    second_ran = threading.Event()

    def first() -> bool:
        has_begun.set()
        may_end.wait(PATIENCE_S)
        return second_ran.is_set()

    found: list[bool] = []
    one = threading.Thread(target=lambda: found.append(thread.run(first)))
    other = threading.Thread(target=lambda: thread.run(second_ran.set))
    one.start()
    assert has_begun.wait(PATIENCE_S)
    other.start()
    assert not second_ran.wait(0.3)  # never, as long as the first has not ended
    may_end.set()
    one.join(PATIENCE_S)
    other.join(PATIENCE_S)
    assert found == [False]
    assert second_ran.is_set()


def test_all_calls_are_of_one_thread(thread: StoreThread) -> None:
    """The engine sees none but that one, whoever calls."""
    seen: set[int] = set()
    callers = [
        threading.Thread(target=lambda: seen.add(thread.run(threading.get_ident))) for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_S)
    assert len(seen) == 1
    assert threading.get_ident() not in seen


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_what_a_call_raises(thread: StoreThread, error: BaseException) -> None:
    """It comes home as it is, and the next call is carried out."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        thread.run(fail)
    assert raised.value is error
    assert thread.run(lambda: 5) == 5


def test_idle() -> None:
    """Once after some calls, and not before there was one."""
    idle = threading.Event()
    times: list[str] = []

    def when_idle() -> None:
        times.append("idle")
        idle.set()

    thread = StoreThread(when_idle, 0.01)
    assert not idle.wait(0.1)  # never, without a call
    thread.run(lambda: times.append("call"))
    assert idle.wait(PATIENCE_S)
    thread.stop(lambda: times.append("last"))
    assert times == ["call", "idle", "last"]


def test_closed() -> None:
    """A call after the end is refused, and a second end is none."""
    times: list[str] = []
    thread = StoreThread(lambda: None, 3600.0)
    for _ in range(2):
        thread.stop(lambda: times.append("last"))
    with pytest.raises(StoreError, match="is closed"):
        thread.run(lambda: times.append("call"))
    assert times == ["last"]


def test_forked_child(thread: StoreThread) -> None:
    """It has no such thread, and is told so at once; nothing is there to be ended."""
    child = os.fork()
    if child == 0:
        thread.stop(lambda: os._exit(3))
        try:
            thread.run(lambda: None)
        except StoreError as exc:
            os._exit(0 if "forked child" in str(exc) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("offset", [-1, 1])
def test_number_of_a_forked_child(
    thread: StoreThread, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    """Any other number is another process: below its parent's, where they have begun anew."""
    ours = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: ours + offset)
        with pytest.raises(StoreError, match="forked child"):
            thread.run(lambda: None)


def test_process_that_ends_without_closing_the_store() -> None:
    """It ends: the thread does not keep it."""
    program = (
        "from warmclip.store.embedded_thread import StoreThread\n"
        "print(StoreThread(lambda: None, 3600.0).run(lambda: 'done'))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=PATIENCE_S, check=True
    )
    assert child.stdout == b"done\n"


@pytest.mark.parametrize("count", [1, 2])
def test_calls_that_are_postponed(thread: StoreThread, count: int) -> None:
    """They keep their order, others pass by, and who waits is told when the store is closed."""
    may_go, ran = threading.Event(), list[int]()
    tried = [threading.Event() for _ in range(3)]
    refused: list[str] = []

    def late(number: int) -> None:
        tried[number].set()
        if not may_go.is_set():
            raise Postponed
        ran.append(number)

    def ask(number: int) -> None:
        try:
            thread.run(lambda: late(number))
        except StoreError as exc:
            refused.append(str(exc))

    def begin(number: int) -> threading.Thread:
        asking = threading.Thread(target=ask, args=(number,))
        asking.start()
        assert tried[number].wait(PATIENCE_S)
        return asking

    asking = [begin(number) for number in range(count)]
    assert thread.run(lambda: "at once") == "at once"
    assert ran == []
    thread.run(may_go.set)  # they are tried again once it has run
    for it in asking:
        it.join(PATIENCE_S)
    assert ran == list(range(count))
    may_go.clear()
    last = begin(count)
    thread.stop(lambda: None)
    last.join(PATIENCE_S)
    assert refused == ["the embedded store is closed"]
