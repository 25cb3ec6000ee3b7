"""A service that is gone, frozen, or refuses: a 503 that names it soon, and health that tells."""

import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from running import Running, environment_of, eventually, run, running_worker
from serving import SESSIONS, Served, draw, running_server
from standins import qdrant
from standins.qdrant import Fault
from standins.redis_server import RedisServer, free_port, redis_server
from warmclip.settings import Settings
from warmclip.work.queues import open_queue

pytestmark = pytest.mark.usefixtures("server_binary")

# A client waits for no longer: the server has 5 s, and this machine may be busy. Without that bound
# a worker has 30 s, after which the answer would have other words.
SOON_S = 28.0
SEARCH = "/api/v1/search?q=red"


@pytest.fixture
def environment(tmp_path: Path, demo_bundle: Path) -> dict[str, str]:
    """What server and worker are told."""
    draw(tmp_path / "pictures", 3)
    return environment_of(tmp_path / "home", demo_bundle, WARMCLIP_ROOTS=str(tmp_path / "pictures"))


def problem(served: Served, path: str, method: str = "GET") -> str:
    """The sentence of a 503 that comes soon."""
    body = {"training_directory": "/"} if method == "POST" and path == SESSIONS else None
    answer = served.client.request(method, path, json=body, timeout=SOON_S)
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    return str(answer.json()["detail"])


def metric(served: Served, name: str) -> float:
    """One figure of metrics, which always are there."""
    answer = served.client.get("/metrics", timeout=SOON_S)
    assert answer.status_code == 200
    (value,) = re.findall(rf"^{name} (\S+)$", answer.text, re.MULTILINE)
    return float(value)


def health(served: Served) -> tuple[int, dict[str, bool]]:
    """The status, and which service is well."""
    answer = served.client.get("/healthz", timeout=SOON_S + 10)
    return answer.status_code, {
        name: check["ok"] for name, check in answer.json().items() if name != "ok"
    }


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as redis:
        yield redis


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does nothing while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_frozen_redis(environment: dict[str, str], redis: RedisServer) -> None:
    """Every route says so; this process lives, and goes on when Redis does."""
    pid = int(redis.admin.info("server")["process_id"])
    with running_server(environment | {"REDIS_URL": redis.url()}) as served:
        assert metric(served, "warmclip_redis_up") == 1
        with frozen(pid):
            for method, path in (
                *(("GET", SESSIONS), ("GET", SEARCH), ("GET", "/readyz")),
                *(("GET", f"{SESSIONS}/events"), ("POST", f"{SESSIONS}/{'0' * 32}/pause")),
            ):
                assert "Redis" in problem(served, path, method), path
            assert metric(served, "warmclip_redis_up") == 0
            assert served.client.get("/livez", timeout=SOON_S).status_code == 200
            status, checks = health(served)
            assert (status, checks["redis"], checks["worker"]) == (503, False, False)
        eventually(lambda: served.client.get("/readyz").status_code == 200)
        assert served.get(SESSIONS)["total"] == 0


def test_redis_that_is_gone(
    environment: dict[str, str], redis: RedisServer, tmp_path: Path
) -> None:
    """As above; another one in its place is enough."""
    with running_server(environment | {"REDIS_URL": redis.url()}) as served:
        redis.admin.shutdown(nosave=True)
        eventually(lambda: served.client.get("/readyz").status_code == 503)
        for path in (SESSIONS, SEARCH, "/readyz"):
            assert f"127.0.0.1:{redis.port}" in problem(served, path)
        assert metric(served, "warmclip_redis_up") == 0
        with redis_server(tmp_path / "redis", port=redis.port):
            eventually(lambda: served.client.get("/readyz").status_code == 200)
            assert served.get(SESSIONS)["total"] == 0


def out_of_memory(redis: RedisServer) -> None:
    """It takes nothing more."""
    redis.admin.config_set("maxmemory", "1")


def read_only(redis: RedisServer) -> None:
    """It follows another one, which is not there."""
    redis.admin.replicaof("127.0.0.1", free_port())


def forbidden(redis: RedisServer) -> None:
    """Its user may not do what is needed any more."""
    redis.admin.acl_setuser("default", enabled=True, commands=["-hset", "-zadd", "-sadd"])


def disk_full(redis: RedisServer) -> None:
    """Its last snapshot failed, after which it takes no writes."""
    redis.admin.config_set("save", "3600 1")
    shutil.rmtree(redis.log.parent)
    redis.admin.set("a", "b")
    redis.admin.bgsave()
    eventually(lambda: redis.admin.info("persistence")["rdb_last_bgsave_status"] == "err")


@pytest.mark.parametrize(
    ("refuse", "told"),
    [
        (out_of_memory, "OOM|maxmemory"),
        (read_only, "READONLY|read only"),
        (forbidden, "NOPERM|permission"),
        (disk_full, "MISCONF"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_redis_that_refuses(
    environment: dict[str, str],
    redis: RedisServer,
    refuse: Callable[[RedisServer], None],
    told: str,
) -> None:
    """What must be written is a 503 with Redis' own reason; what is read is answered."""
    root = environment["WARMCLIP_ROOTS"]
    with running_server(environment | {"REDIS_URL": redis.url()}) as served:
        refuse(redis)
        answer = served.client.post(SESSIONS, json={"training_directory": root}, timeout=SOON_S)
        assert answer.status_code == 503, answer.text
        assert re.search(told, answer.json()["detail"]), answer.text
        assert "Redis" in answer.json()["detail"]
        assert served.get(SESSIONS)["total"] == 0


@pytest.fixture
def searched(
    environment: dict[str, str], tmp_path: Path
) -> Iterator[tuple[Served, Running, qdrant.QdrantStandIn, ExitStack]]:
    """A server and a worker with a Qdrant server, and pictures in it; what ends the latter."""
    with ExitStack() as stack:
        store = stack.enter_context(qdrant.serve(tmp_path / "qdrant"))
        variables = environment | {"QDRANT_URL": store.url}
        served = stack.enter_context(running_server(variables))
        worker = stack.enter_context(running_worker(Settings.from_env(variables), variables))
        served.wait(served.begin(Path(environment["WARMCLIP_ROOTS"])))
        with ExitStack() as after:
            yield served, worker, store, after


class _Broken(BaseHTTPRequestHandler):
    """A server that fails at whatever it is asked."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_error(500)

    do_POST = do_PUT = do_GET  # noqa: N815 - names of http.server

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def broken_server(port: int) -> Iterator[None]:
    """Answers 500 to all."""
    with ThreadingHTTPServer(("127.0.0.1", port), _Broken) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("how", ["gone", "frozen", "broken"])
def test_qdrant_that_does_not_answer(
    searched: tuple[Served, Running, qdrant.QdrantStandIn, ExitStack], how: str
) -> None:
    """A search says so at once, and not that a job took too long."""
    served, _, store, after = searched
    assert served.client.get(SEARCH).status_code == 200
    assert health(served) == (200, dict.fromkeys(("redis", "worker", "qdrant", "sessions"), True))
    assert metric(served, "warmclip_qdrant_up") == 1
    port = int(store.url.rpartition(":")[2])
    store.close()
    if how == "broken":
        after.enter_context(broken_server(port))
    if how == "frozen":  # connections are taken, and that is all
        after.enter_context(socket.create_server(("127.0.0.1", port), backlog=100))
    for path in (SEARCH, "/readyz"):
        told = problem(served, path)
        assert f"Qdrant at http://127.0.0.1:{port}" in told
    # An answer is shared for two seconds: it may be one from before.
    eventually(lambda: metric(served, "warmclip_qdrant_up") == 0)
    assert metric(served, "warmclip_redis_up") == 1
    eventually(lambda: health(served)[0] == 503)
    _, checks = health(served)
    assert (checks["redis"], checks["qdrant"]) == (True, False)


FAULTS = {
    "500": (Fault(status=500), "500"),
    "no JSON": (Fault(text="<html>a proxy</html>"), "JSON"),
    "cut off": (Fault(cut=True), "no answer"),
    "slow": (Fault(delay_s=20.0), "timed out"),
}


def test_qdrant_that_answers_badly(
    searched: tuple[Served, Running, qdrant.QdrantStandIn, ExitStack],
) -> None:
    """To all requests, or only where health does not look: a 503 that says what is wrong."""
    served, _, store, _ = searched
    (hit, *_) = served.get(SEARCH)["hits"]
    similar = f"/api/v1/points/{hit['id']}/similar"
    for name, (fault, words) in FAULTS.items():
        for on, paths in (("", (SEARCH, "/readyz")), ("/points/query", (similar,))):
            store.fail(fault, on=on, times=1000)
            for path in paths:
                told = problem(served, path)
                assert f"Qdrant at {store.url}" in told, (name, on)
                assert words in told, (name, on)
            store.clear_faults()
            # A worker that waits for a slow answer has done so when its question's seconds end.
            eventually(lambda: served.client.get(SEARCH, timeout=60).status_code == 200)


def test_commands_while_qdrant_answers_badly(
    searched: tuple[Served, Running, qdrant.QdrantStandIn, ExitStack], environment: dict[str, str]
) -> None:
    """They end with 3 and a sentence; so long an answer would be waited for by other work."""
    _, worker, store, _ = searched
    variables = environment | {"QDRANT_URL": store.url}
    slow = Fault(delay_s=20.0)
    for fault, on, words, command in (
        (Fault(status=500), "", "500", ("search", "red", "--queue")),
        (slow, "/points/query", "timed out", ("search", "red", "--queue")),
        (slow, "/points/query", "timed out", ("search", "red")),
        (slow, "GET /aliases", "timed out", ("search", "red")),
        (slow, "GET /aliases", "timed out", ("collections", "list")),
        (slow, "GET /aliases", "timed out", ("collections", "info")),
    ):
        store.fail(fault, on=on, times=1000)
        done = run(*command, **variables)
        store.clear_faults()
        assert done.returncode == 3, (command, on, done.stderr)
        assert re.search(f"Qdrant at {store.url}.*{words}", done.stderr), done.stderr
    status = run("status", **variables)
    assert status.returncode == 0, status.stderr
    assert worker.process.poll() is None


def test_many_searches_while_qdrant_is_away(
    searched: tuple[Served, Running, qdrant.QdrantStandIn, ExitStack],
) -> None:
    """Those that no worker has begun with are taken back from the queue."""
    served, worker, store, _ = searched
    store.close()
    for _ in range(3):
        assert "Qdrant" in problem(served, SEARCH)
    eventually(lambda: open_queue(worker.connection, "high").count == 0)
