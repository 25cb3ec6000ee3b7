"""The client that an application embeds with: a real worker, a private Redis, the demo model."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from running import Running, environment_of, eventually, outcome, running_worker
from standins.redis_server import redis_server
from warmclip import AsyncClient, Client, Encoder, InProcess, Settings, ThroughQueue
from warmclip.client.backend import Backend
from warmclip.errors import (
    ImagesUnreadable,
    ImageUnreadable,
    JobFailed,
    Overloaded,
    QueueUnreachable,
    SpaceMismatch,
    TextRefused,
)
from warmclip.work.queues import open_queue
from warmclip_export.drawing import write_gallery

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]

TEXTS = [f"a {colour} circle" for colour in ("red", "green", "blue", "yellow", "white")]
_NEAR = 1e-5  # a vector passes through JSON, and a batch of another size


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A few drawn scenes."""
    folder = tmp_path_factory.mktemp("pictures")
    write_gallery(folder, 4, 1)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path, pictures: list[Path]
) -> dict[str, str]:
    """What worker and clients are told."""
    home = tmp_path_factory.mktemp("client") / "home"
    return environment_of(home, demo_bundle, WARMCLIP_ROOTS=str(pictures[0].parent))


@pytest.fixture(scope="module")
def worker(environment: dict[str, str]) -> Iterator[Running]:
    """A worker for all of them."""
    with running_worker(Settings.from_env(environment), environment) as running:
        yield running


@pytest.fixture(scope="module")
def encoder(demo_bundle: Path) -> Encoder:
    """The truth."""
    return Encoder.open(demo_bundle, provider="cpu")


@pytest.fixture(params=["in process", "through the queue"])
def backend(request: pytest.FixtureRequest, worker: Running, encoder: Encoder) -> Backend:
    """Either backend, to be closed by its client."""
    if request.param == "in process":
        return InProcess(encoder)
    return ThroughQueue(worker.settings)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Under an event loop of its own, for so long at most."""
    return asyncio.run(asyncio.wait_for(work, 60))


def test_vectors(backend: Backend, encoder: Encoder, pictures: list[Path]) -> None:
    """Texts, and pictures in every form, come back as torch code expects: float32, unit length,
    and the encoder's own.
    """
    path = pictures[0]
    with Client(backend) as client, Image.open(path) as opened:
        assert client.space().fingerprint == encoder.fingerprint
        assert client.space().dim == encoder.dim
        text = client.embed_text(TEXTS[0])
        assert text.dtype == np.float32
        assert text.shape == (encoder.dim,)
        assert np.linalg.norm(text) == pytest.approx(1, abs=1e-5)
        assert text == pytest.approx(encoder.encode_texts(TEXTS[:1])[0], abs=_NEAR)
        doubled = client.embed_texts([*TEXTS, TEXTS[0]])
        assert doubled == pytest.approx(encoder.encode_texts([*TEXTS, TEXTS[0]]), abs=_NEAR)
        (expected,) = encoder.encode_images([path])
        for picture in (path, str(path), path.read_bytes(), opened):
            assert client.embed_image(picture) == pytest.approx(expected, abs=_NEAR)
        mixed = client.embed_images([path.read_bytes(), *pictures, path])
        assert mixed == pytest.approx(encoder.encode_images([path, *pictures, path]), abs=_NEAR)
        assert client.embed_texts([]).shape == client.embed_images([]).shape == (0, encoder.dim)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "LAB"])
def test_open_picture_of_any_mode(
    mode: str, worker: Running, encoder: Encoder, pictures: list[Path]
) -> None:
    """A picture that is sent has the vector that it has here, whatever its mode."""
    with Image.open(pictures[1]) as opened:
        picture = opened.convert(mode) if mode != "LAB" else Image.new("LAB", (80, 60), (90, 9, 9))
    (expected,) = encoder.encode_images([picture])
    with Client(ThroughQueue(worker.settings)) as client:
        assert client.embed_image(picture) == pytest.approx(expected, abs=_NEAR)


def test_what_cannot_be_embedded(backend: Backend, pictures: list[Path]) -> None:
    """Each refusal names what it is about; those of a list, by index; neighbours are no matter."""
    nothing = pictures[0].with_name("nothing.png")
    with Client(backend) as client:
        with pytest.raises(ImageUnreadable, match=r"nothing\.png' .*No such file"):
            client.embed_image(nothing)
        with pytest.raises(ImageUnreadable, match="is no picture"):
            client.embed_image(b"no picture")
        with pytest.raises(ImageUnreadable, match="empty"):
            client.embed_image(b"")
        with pytest.raises(ImagesUnreadable) as caught:
            client.embed_images([b"no picture", pictures[0], nothing, pictures[1].read_bytes()])
        assert list(caught.value.reasons) == [0, 2]
        with pytest.raises(TextRefused, match="WARMCLIP_MAX_TEXT_CHARS"):
            client.embed_text("a" * 200_000)
        with pytest.raises(TypeError, match="a list of texts"):
            client.embed_texts("a red circle")
        with pytest.raises(TypeError, match="a list of pictures"):
            client.embed_images(b"no list")  # type: ignore[arg-type]  # that is the mistake


def test_bounds_of_what_is_sent(worker: Running, tmp_path: Path) -> None:
    """A file outside the roots is refused, and what is too large for a job is not sent."""
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    with Client(ThroughQueue(worker.settings)) as client:
        with pytest.raises(ImageUnreadable, match="outside the roots"):
            client.embed_image(tmp_path / "outside.png")
        with pytest.raises(ImageUnreadable, match="name its path"):
            client.embed_image(bytes(11 * 1024 * 1024))


def test_fifty_questions_at_once(backend: Backend, encoder: Encoder, pictures: list[Path]) -> None:
    """Each gets its own answer, and the loop ticks on all the while."""
    texts = [f"{text} number {number}" for text in TEXTS for number in range(10)]
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.001)

    async def ask() -> list[Any]:
        async with AsyncClient(backend) as client:
            assert (await client.space()).dim == encoder.dim
            ticking = asyncio.create_task(tick())
            answers = await asyncio.gather(
                *(client.embed_text(text) for text in texts),
                *(client.embed_image(picture) for picture in pictures),
            )
            ticking.cancel()
            return list(answers)

    answers = run(ask())
    assert np.stack(answers[: len(texts)]) == pytest.approx(encoder.encode_texts(texts), abs=_NEAR)
    assert np.stack(answers[len(texts) :]) == pytest.approx(
        encoder.encode_images(pictures), abs=_NEAR
    )
    assert len(ticks) > 3  # a question that blocks the loop lets it tick once or twice


def test_failures_stay_with_their_question(backend: Backend, pictures: list[Path]) -> None:
    """Beside questions that fail, the others are answered."""

    async def ask() -> Any:
        async with AsyncClient(backend) as client:
            return await asyncio.gather(
                client.embed_image(b"no picture"),
                client.embed_image(pictures[0]),
                client.embed_text("a" * 200_000),
                client.embed_text("red"),
                return_exceptions=True,
            )

    bad, good, long, text = run(ask())
    assert isinstance(bad, ImageUnreadable)
    assert isinstance(long, TextRefused)
    assert good.shape == text.shape


def test_without_a_worker(tmp_path: Path, demo_bundle: Path) -> None:
    """It is told at once, with the command that helps, and nothing stays in the queue."""
    settings = Settings.from_env(environment_of(tmp_path / "home", demo_bundle))

    async def ask() -> None:
        async with AsyncClient(ThroughQueue(settings)) as client:
            with pytest.raises(QueueUnreachable, match="run `warmclip worker`"):
                await client.embed_text("red")

    began = time.monotonic()
    with Client(ThroughQueue(settings)) as client:
        with pytest.raises(QueueUnreachable, match="run `warmclip worker`"):
            client.embed_text("red")
        run(ask())
    assert time.monotonic() - began < 5


def test_redis_that_does_not_answer(tmp_path: Path, demo_bundle: Path) -> None:
    """It is told when the client is made, not at the first question."""
    environment = environment_of(tmp_path, demo_bundle, REDIS_URL="redis://127.0.0.1:9")
    with pytest.raises(QueueUnreachable, match=r"127.0.0.1:9.*start it"):
        ThroughQueue(Settings.from_env(environment))


def test_redis_that_is_frozen(
    tmp_path: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is Redis that does not answer: nobody is told to ask for less, nor to start a worker."""
    from warmclip.client import through_queue

    monkeypatch.setattr(through_queue, "QUICK_ANSWER_S", 0.2)
    with redis_server(tmp_path) as redis:
        environment = environment_of(tmp_path / "home", demo_bundle, REDIS_URL=redis.url())
        pid = redis.admin.info("server")["process_id"]

        queue = ThroughQueue(Settings.from_env(environment))

        async def ask() -> None:
            async with AsyncClient(queue) as client:
                await client.embed_text("red")

        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(QueueUnreachable, match="no answer from Redis at"):
                run(ask())
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def busy(worker: Running) -> Iterator[Running]:
    """The worker, listening but at a job that does not end: its horse is stopped."""
    horse = worker.kill_horse(signal.SIGSTOP)
    try:
        job = worker.enqueue("warmclip.work.jobs.canary")
        eventually(lambda: open_queue(worker.connection).job_ids == [])
        yield worker
    finally:
        os.kill(horse, signal.SIGCONT)
    assert outcome(job).return_value


def test_time_out(busy: Running) -> None:
    """No answer in time: an error that says where to look, and the job is taken back."""
    queue = open_queue(busy.connection, "high")

    async def ask() -> None:
        async with AsyncClient(ThroughQueue(busy.settings), timeout_s=1.4) as client:
            with pytest.raises(QueueUnreachable, match="`warmclip status` shows"):
                await client.embed_text("red")

    run(ask())
    with (
        Client(ThroughQueue(busy.settings), timeout_s=1.4) as client,
        pytest.raises(QueueUnreachable, match="`warmclip status` shows"),
    ):
        client.embed_text("red")
    assert queue.job_ids == []


def test_cancellation(busy: Running) -> None:
    """A question that is cancelled ends at once; its job leaves the queue, and closing is quick."""
    queue = open_queue(busy.connection, "high")

    async def ask() -> float:
        async with AsyncClient(ThroughQueue(busy.settings), timeout_s=50) as client:
            asked = asyncio.create_task(client.embed_text("red"))
            while not queue.job_ids:
                await asyncio.sleep(0.02)
            began = time.monotonic()
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            return time.monotonic() - began

    began = time.monotonic()
    assert run(ask()) < 1
    assert time.monotonic() - began < 10
    assert queue.job_ids == []


class Slow:
    """A backend that answers when it is let, and counts what it was asked."""

    concurrency = 2

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let = threading.Event()
        self.closed = False

    def space(self, _wait: object) -> Any:
        """Never asked."""

    def embed_texts(self, texts: Any, _wait: object) -> Any:
        """After a while."""
        self.asked += texts
        self.let.wait(20)
        return np.ones((len(texts), 1), np.float32)

    embed_images = embed_texts

    def close(self) -> None:
        """Once."""
        self.closed = True


def test_questions_that_wait_for_their_turn() -> None:
    """No more are asked at once than the backend is good for. One that is cancelled while it waits,
    or whose turn comes too late, is never asked; one that waits on and on is told.
    """
    slow = Slow()

    async def ask() -> None:
        async with AsyncClient(slow, timeout_s=1) as client:
            first = [asyncio.create_task(client.embed_text(text)) for text in "ab"]
            while len(slow.asked) < slow.concurrency:
                await asyncio.sleep(0.01)
            cancelled = asyncio.create_task(client.embed_text("cancelled"))
            late = asyncio.create_task(client.embed_text("late"))
            await asyncio.sleep(1.2)  # beyond their deadlines
            assert sorted(slow.asked) == ["a", "b"]
            cancelled.cancel()
            slow.let.set()
            with pytest.raises(Overloaded, match="ask for less at once"):
                await late
            await asyncio.gather(*first)
            slow.let.clear()
            with pytest.raises(Overloaded, match=r"within 1 s: no other .* slow or frozen"):
                await client.embed_text("c")
            slow.let.set()

    run(ask())
    assert sorted(slow.asked) == ["a", "b", "c"]


def test_closing() -> None:
    """What is at work is answered; what waits is told; and the backend is closed after both."""
    slow = Slow()

    async def ask() -> list[Any]:
        client = AsyncClient(slow)
        asked = [asyncio.create_task(client.embed_text(text)) for text in "abc"]
        while len(slow.asked) < slow.concurrency:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0.05)
        assert not slow.closed
        slow.let.set()
        await closing
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third = run(ask())
    assert first.shape == second.shape == (1,)
    assert isinstance(third, RuntimeError)
    assert slow.closed
    assert sorted(slow.asked) == ["a", "b"]


def test_many_threads(backend: Backend, encoder: Encoder) -> None:
    """One client serves them all, each with its own answer."""
    texts = TEXTS * 4
    with Client(backend) as client, ThreadPoolExecutor(20) as pool:
        answers = np.stack(list(pool.map(client.embed_text, texts)))
    assert answers == pytest.approx(encoder.encode_texts(texts), abs=_NEAR)


_FORKS = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the test
from warmclip import AsyncClient, Client, Encoder, InProcess, Settings, ThroughQueue
from warmclip.errors import ForkedSessionError
settings = Settings.from_env(os.environ)
if sys.argv[1] == "in":
    backend = InProcess(Encoder.from_settings(settings))
else:
    backend = ThroughQueue(settings)
client = Client(backend) if sys.argv[2] == "sync" else AsyncClient(backend)
def ask():
    answer = client.embed_text("red")
    return (asyncio.run(answer) if sys.argv[2] == "async" else answer).shape
print(ask(), flush=True)
if os.fork() == 0:
    try:
        print(ask(), flush=True)
    except ForkedSessionError as exc:
        print("refused:", exc, flush=True)
    os._exit(0)
os.wait()
print("onnxruntime" in sys.modules)
"""


@pytest.mark.parametrize(
    ("where", "how", "expected"),
    [
        ("in", "sync", "refused: this Encoder was made in process"),
        ("in", "async", "refused: this client was made in process"),
        ("queue", "async", "refused: this client was made in process"),
        ("queue", "sync", "("),
    ],
)
def test_forked_child(
    where: str, how: str, expected: str, worker: Running, environment: dict[str, str]
) -> None:
    """A model, and threads, that a child inherits are refused at once. A connection is not: the
    child makes its own. And who asks through the queue never loads onnxruntime.
    """
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, where, how],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, in_child, loaded = done.stdout.splitlines()
    assert before.startswith("(")
    assert in_child.startswith(expected)
    assert loaded == str(where == "in")
    assert worker.process.poll() is None


def forge_answers(monkeypatch: pytest.MonkeyPatch, forge: Callable[[Any], Any]) -> None:
    """Let workers' answers arrive altered, as somebody who may write to Redis could do it."""
    from warmclip.client import through_queue
    from warmclip.work.call import call

    monkeypatch.setattr(through_queue, "call", lambda *a, **k: forge(call(*a, **k)))


@pytest.mark.parametrize(
    "vector",
    [None, 5, [], [0.0], "text", [[1.0]], {"a": 1}, ["x"] * 128, [0.0] * 128, [float("nan")] * 128],
)
def test_forged_answers(vector: Any, worker: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no unit vector of the space is an error, never an answer."""
    backend = ThroughQueue(worker.settings)
    forge_answers(monkeypatch, lambda answer: answer | {"vectors": {"red": vector}})
    with Client(backend) as client, pytest.raises(JobFailed, match="a worker answered with"):
        client.embed_text("red")


def test_workers_of_another_model(worker: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of two embedding spaces never come out of one client."""
    backend = ThroughQueue(worker.settings)
    with Client(backend) as client:
        client.embed_text("red")
        forge_answers(monkeypatch, lambda answer: answer | {"fingerprint": "f" * 64})
        with pytest.raises(SpaceMismatch, match="WARMCLIP_BUNDLE"):
            client.embed_text("green")
