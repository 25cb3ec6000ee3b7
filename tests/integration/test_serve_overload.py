"""More requests than the workers answer: who left makes room, and uploads are bounded."""

import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from running import (
    PATIENCE_S,
    PATIENT,
    Running,
    environment_of,
    eventually,
    occupied,
    running_worker,
)
from serving import Served, draw, running_server
from warmclip.settings import Settings
from warmclip.work.queues import open_queue

pytestmark = pytest.mark.usefixtures("server_binary")

MOST_WAITING = 64
PICTURE_BYTES = 10_000_000
MOST_PICTURES = 6  # of that size, of the bodies that may be in flight
SIMILAR = f"/api/v1/points/{uuid.UUID(int=1)}/similar"
SEARCH = f"GET {SIMILAR} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()  # each is a job of its own


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> dict[str, str]:
    """What server and worker are told."""
    folder = tmp_path_factory.mktemp("overload")
    draw(folder / "pictures", 3)
    roots = str(folder / "pictures")
    return environment_of(folder / "home", demo_bundle, WARMCLIP_ROOTS=roots, **PATIENT)


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[Served]:
    """A server."""
    with running_server(environment) as served:
        yield served


@pytest.fixture(scope="module")
def worker(served: Served, environment: dict[str, str]) -> Iterator[Running]:
    """Its worker, after one session."""
    session = served.begin(Path(environment["WARMCLIP_ROOTS"]))
    with running_worker(Settings.from_env(environment), environment) as worker:
        served.wait(session)
        yield worker


def waiting(worker: Running) -> int:
    """Calls in the queue."""
    return int(open_queue(worker.connection, "high").count)


def abandoned(served: Served) -> float:
    """Searches whose clients did not wait for the answer, as the metrics count them."""
    text = served.client.get("/metrics").text
    found = re.search(
        r'_count\{[^}]*route="/api/v1/points/{id}/similar",status="499"\} (\S+)', text
    )
    return float(found[1]) if found else 0.0


def test_abandoned_searches(served: Served, worker: Running) -> None:
    """Their places are free as soon as their clients have gone, and their jobs are taken back."""
    port = served.client.base_url.port
    with occupied(worker):
        with ExitStack() as stack:
            for _ in range(MOST_WAITING):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                connection.sendall(SEARCH)
            eventually(lambda: waiting(worker) == MOST_WAITING)
            answer = served.client.get("/api/v1/search?q=red")
            assert answer.status_code == 503
            assert "requests wait for workers already" in answer.json()["detail"]
        # The server learns one by one that they have gone, while the next request comes already.
        eventually(lambda: abandoned(served) == MOST_WAITING)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(served.client.get, "/api/v1/search?q=red")
            eventually(lambda: waiting(worker) == 1, timeout_s=10)
            os.kill(worker.horse, signal.SIGCONT)
            assert asked.result().status_code == 200


def is_full(served: Served) -> bool:
    """Whether all places of those who wait for workers are taken; if not, none is taken here."""
    try:
        return served.client.get(SIMILAR, timeout=3).status_code == 503
    except httpx.TimeoutException:
        return False


def test_searches_that_arrive_together(served: Served, worker: Running) -> None:
    """They are one job at a time, however many wait, and each gets its own answer or error."""
    queries = [f"/api/v1/search?q=picture+{number}" for number in range(MOST_WAITING - 1)]
    queries.append("/api/v1/search?q=picture&collection=nowhere")

    def search(query: str) -> httpx.Response:
        while (answer := served.client.get(query)).status_code == 503:  # `is_full` has its place
            time.sleep(0.1)
        return answer

    with ThreadPoolExecutor(MOST_WAITING) as pool:
        with occupied(worker):
            asked = [pool.submit(search, query) for query in queries]
            eventually(lambda: is_full(served))
            eventually(lambda: waiting(worker) == 1)
        *found, lost = [each.result(PATIENCE_S) for each in asked]
    assert lost.status_code == 404, lost.text
    assert "nowhere" in lost.json()["detail"]
    for query, answer in zip(queries, found, strict=False):
        assert answer.status_code == 200, answer.text
        assert answer.json() == served.client.get(query).json()


def test_uploads_while_workers_are_busy(served: Served, worker: Running) -> None:
    """So many as fit into a bound wait; the others are told at once to come again. What waits in
    Redis is bounded with them, and whoever sends no picture is answered as ever.
    """
    picture = bytes(PICTURE_BYTES)

    def upload(_: int) -> httpx.Response:
        return served.client.post("/api/v1/embed/image", files={"file": picture})

    with ThreadPoolExecutor(3 * MOST_PICTURES) as pool:
        with occupied(worker):
            sent = [pool.submit(upload, number) for number in range(3 * MOST_PICTURES)]
            eventually(lambda: sum(each.done() for each in sent) == 2 * MOST_PICTURES)
            refused = [each.result() for each in sent if each.done()]
            assert {each.status_code for each in refused} == {503}
            assert all(int(each.headers["Retry-After"]) > 0 for each in refused)
            assert "try again" in refused[0].json()["detail"]
            eventually(lambda: waiting(worker) == MOST_PICTURES)
            assert served.client.get("/livez").status_code == 200
        answered = [each.result(PATIENCE_S) for each in sent if each.result() not in refused]
        assert {each.status_code for each in answered} == {422}, answered[
            0
        ].text  # zeros are no picture
    small = served.client.post("/api/v1/embed/image", files={"file": b"no picture"})
    assert small.status_code == 422


def test_upload_without_a_length(served: Served, worker: Running) -> None:
    """It counts as the largest that there may be."""
    picture = bytes(1000)
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        + picture
        + b"\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}

    def upload(_: int) -> httpx.Response:
        return served.client.post("/api/v1/embed/image", content=iter([form]), headers=headers)

    with ThreadPoolExecutor(MOST_PICTURES + 1) as pool:
        with occupied(worker):
            sent = [pool.submit(upload, number) for number in range(MOST_PICTURES + 1)]
            eventually(lambda: waiting(worker) == MOST_PICTURES)
        assert sorted(each.result().status_code for each in sent) == [422] * MOST_PICTURES + [503]
