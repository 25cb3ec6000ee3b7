"""A shared Redis as SECURITY.md describes it: users with few rights, TLS, and a quiet password.

The users are read from that page, so what it says is what was tried.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from redis import Redis
from redis.exceptions import NoPermissionError
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from processes import command_lines
from running import eventually
from serving import running_server
from standins.redis_server import RedisServer, redis_server
from standins.tls import Authority, make_authority, tls_before
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.workers import listening

pytestmark = pytest.mark.usefixtures("server_binary")

_PATIENCE_S = 60.0
_PASSWORD = "s3cret-of-a-user"  # noqa: S105 - of servers that live for one test
_SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
_USERS = dict(re.findall(r"^user (\w+) on >PASSWORD (.+)$", _SECURITY, re.MULTILINE))


_FORBIDDEN = (
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG GET requirepass",
    "CONFIG SET dir /tmp",
    "KEYS *",
    "MODULE LIST",
    "ACL SETUSER me on nopass ~* +@all",
    "SHUTDOWN",
    "SCRIPT FLUSH",
    "FUNCTION FLUSH",
    "MONITOR",
    "CLIENT KILL TYPE normal",
    "SUBSCRIBE elsewhere",
    "PUBLISH elsewhere x",
    "GET others:key",
    "SET others:key x",
    "RENAME rq:mine others:key",
    "COPY others:key rq:mine",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis with the users of SECURITY.md, and nobody else but its administrator."""
    with redis_server(tmp_path, password="admin") as running:  # noqa: S106
        for name, rights in _USERS.items():
            running.admin.execute_command(  # type: ignore[no-untyped-call]  # redis-py has none
                "ACL", "SETUSER", name, "on", f">{_PASSWORD}", *rights.split()
            )
        yield running


@pytest.fixture
def worker_environment(tmp_path: Path, demo_bundle: Path, server: RedisServer) -> dict[str, str]:
    """The variables of a worker with a user of its own."""
    return {
        "REDIS_URL": server.url("worker", _PASSWORD),
        "WARMCLIP_HOME": str(tmp_path / "home"),
        "WARMCLIP_BUNDLE": str(demo_bundle),
        "WARMCLIP_ROOTS": str(tmp_path / "pictures"),
    }


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (64, 64), colour).save(folder / f"{colour}.png")
    return folder


def command(*arguments: str | Path) -> list[str]:
    """A command line of warmclip's."""
    return [sys.executable, "-m", "warmclip.cli", *map(str, arguments)]


@contextmanager
def worker(environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker that listens; it is asked to leave at the end, and does."""
    with (
        log.open("wb") as stream,
        open_broker(Settings.from_env(environment)) as connection,
    ):
        process = subprocess.Popen(
            command("worker"), env=os.environ | environment, stdout=stream, stderr=stream
        )
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not listening(connection, "default"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield process
            process.terminate()
            assert process.wait(_PATIENCE_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def answer(environment: dict[str, str], *arguments: str | Path) -> Any:
    """What a command answers in JSON."""
    done = subprocess.run(
        command(*arguments, "--json"),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def returned(job: Job) -> Any:
    """Wait for a job's answer."""
    result = job.latest_result(timeout=20)
    assert result is not None
    return result.return_value


def test_both_users_are_documented() -> None:
    """SECURITY.md has a line for workers and one for producers."""
    assert set(_USERS) == {"worker", "producer"}


def test_worker_and_producer_need_no_other_rights(
    server: RedisServer, worker_environment: dict[str, str], pictures: Path, tmp_path: Path
) -> None:
    """A day's work: index by the queue, status, a vector, a search. Redis refuses none of it."""
    producer = {
        "REDIS_URL": server.url("producer", _PASSWORD),
        "WARMCLIP_HOME": str(tmp_path / "producers-home"),
    }
    with worker(worker_environment, tmp_path / "worker.log"):
        report = answer(producer, "index", pictures, "--queue")
        assert (report["indexed"], report["skipped"]) == (3, {})
        status = answer(producer, "status")
        assert [state["state"] for state in status["workers"]] == ["idle"]
        (query,) = answer(worker_environment, "search", "red", "-n", "1")["queries"]
        assert len(query["hits"]) == 1
        redis = Redis.from_url(producer["REDIS_URL"])
        queue = Queue(connection=redis, serializer=JSONSerializer)
        job = queue.enqueue("warmclip.work.jobs.embed_texts", ["a red bicycle"])
        assert list(returned(job)["vectors"]) == ["a red bicycle"]
    assert server.admin.acl_log() == []


@pytest.mark.parametrize("user", ["worker", "producer"])
def test_what_neither_may_do(server: RedisServer, user: str) -> None:
    """Whoever steals a user's password can spoil queues, and nothing else in that Redis."""
    server.admin.set("others:key", "secret")
    assert [attempt for attempt in _FORBIDDEN if _may(server, user, attempt)] == []
    assert server.admin.get("others:key") == b"secret"


def test_producer_cannot_command_workers(
    server: RedisServer, worker_environment: dict[str, str], tmp_path: Path
) -> None:
    """RQ's own commands, such as shutdown, travel by PUBLISH: refused, and the worker stays."""
    with worker(worker_environment, tmp_path / "worker.log") as process:
        eventually(lambda: server.admin.pubsub_channels("rq:pubsub:*"))
        (channel,) = server.admin.pubsub_channels("rq:pubsub:*")
        assert isinstance(channel, bytes)
        order = json.dumps({"command": "shutdown"})
        redis = Redis.from_url(server.url("producer", _PASSWORD))
        with pytest.raises(NoPermissionError):
            redis.publish(channel.decode(), order)
        assert process.poll() is None


def _may(server: RedisServer, user: str, attempt: str) -> bool:
    with Redis(port=server.port, username=user, password=_PASSWORD) as redis:
        try:
            redis.execute_command(*attempt.split())
        except NoPermissionError:
            return False
    return True


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that no system trusts."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI"):
            pytest.fail("no openssl command to make a certificate with")
        pytest.skip("no openssl command to make a certificate with")
    return make_authority(tmp_path_factory.mktemp("tls") / "authority")


def test_worker_over_tls(
    server: RedisServer,
    worker_environment: dict[str, str],
    authority: Authority,
    tmp_path: Path,
) -> None:
    """With its CA named in REDIS_URL, a worker works through TLS, and so does its producer."""
    with tls_before(server.port, authority) as port:
        address = f"127.0.0.1:{port}/0?ssl_ca_certs={authority.ca}"
        worker_environment["REDIS_URL"] = f"rediss://worker:{_PASSWORD}@{address}"
        with worker(worker_environment, tmp_path / "worker.log"):
            redis = Redis.from_url(f"rediss://producer:{_PASSWORD}@{address}")
            queue = Queue(connection=redis, serializer=JSONSerializer)
            job = queue.enqueue("warmclip.work.jobs.embed_texts", ["a"])
            assert returned(job)["vectors"]["a"]
        assert _PASSWORD not in (tmp_path / "worker.log").read_text()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("rediss://{user}@127.0.0.1:{port}/0", "ssl_ca_certs="),  # nobody vouches for it
        ("rediss://{user}@localhost:{port}/0?ssl_ca_certs={ca}", "localhost"),  # another's name
        ("redis://{user}@127.0.0.1:{port}/0", "no answer"),  # plain text to a TLS port
    ],
)
def test_tls_that_cannot_be_trusted(
    address: str, said: str, server: RedisServer, authority: Authority
) -> None:
    """An unknown authority, another host's certificate: refused with what to do, at once."""
    with tls_before(server.port, authority) as port:
        url = address.format(user=f"producer:{_PASSWORD}", port=port, ca=authority.ca)
        done = subprocess.run(
            command("status"),
            env=os.environ | {"REDIS_URL": url},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    assert done.returncode == 3, done.stderr
    assert said in done.stderr
    assert _PASSWORD not in done.stderr


def test_password_is_in_no_argv(
    worker_environment: dict[str, str], tmp_path: Path, server: RedisServer
) -> None:
    """Neither the worker nor any process that it started shows the password in its argv."""
    with worker(worker_environment, tmp_path / "worker.log") as process:
        redis = Redis.from_url(server.url("producer", _PASSWORD))
        queue = Queue(connection=redis, serializer=JSONSerializer)
        job = queue.enqueue("warmclip.work.jobs.embed_texts", ["a"])
        assert returned(job)
        shown = command_lines(process.pid)
        assert "worker" in shown
        assert _PASSWORD not in shown


_WRONG_URLS = {
    "redis://worker:{wrong}@127.0.0.1:{port}/0": 3,  # a wrong password
    "redis://nobody:{wrong}@127.0.0.1:{port}/0": 3,  # a user who is not there
    "redis://worker:{wrong}@127.0.0.1:1/0": 3,  # nobody listens
    "redis://worker:{wrong}@127.0.0.1:{port}/0?socket_timeout=soon": 2,
    "redis://worker:{wrong}@127.0.0.1:no-port/0": 2,
    "redis://worker:{wrong}#x@127.0.0.1:{port}/0": 2,  # not percent-encoded
    "http://worker:{wrong}@127.0.0.1:{port}/0": 2,
    "rediss://worker:{wrong}@127.0.0.1:{port}/0?ssl_ca_certs=/none.pem": 3,
}


@pytest.mark.parametrize(
    ("what", "url"),
    [
        *itertools.product(["worker", "status"], _WRONG_URLS),
        # The doctor takes its time: one of a kind.
        *itertools.product(["doctor"], list(_WRONG_URLS)[2:5]),
    ],
)
def test_failure_tells_no_password(
    what: str, url: str, server: RedisServer, tmp_path: Path, demo_bundle: Path
) -> None:
    """However REDIS_URL is wrong, the command ends with a sentence, and nowhere is the password."""
    wrong = "wr0ng-but-secret"
    environment = {
        "REDIS_URL": url.format(wrong=wrong, port=server.port),
        "WARMCLIP_HOME": str(tmp_path / "home"),
        "WARMCLIP_BUNDLE": str(demo_bundle),
    }
    options = ["--quick"] if what == "doctor" else []
    done = subprocess.run(
        command(what, *options),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    assert done.returncode == _WRONG_URLS[url], done.stderr + done.stdout
    assert "REDIS_URL" in done.stderr + done.stdout
    assert wrong not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_http_api_as_a_producer(
    server: RedisServer,
    worker_environment: dict[str, str],
    pictures: Path,
    tmp_path: Path,
) -> None:
    """`warmclip serve` needs no more than a producer may, and neither user met a refusal."""
    environment = worker_environment | {
        "REDIS_URL": server.url("producer", _PASSWORD),
        "WARMCLIP_HOME": str(tmp_path / "api"),
    }
    with running_server(environment) as served:
        session = served.begin(pictures)
        for turn in ("pause", "resume"):
            assert served.client.post(f"{session}/{turn}").status_code == 200
        with worker(worker_environment, tmp_path / "worker.log"):
            assert served.wait(session)["indexed"] == 3
            assert len(served.get("/api/v1/search?q=red")["hits"]) == 3
            assert served.get("/healthz")["ok"]
            assert "warmclip_workers 1.0" in served.client.get("/metrics").text
        assert served.client.post(f"{session}/retry").status_code == 200
        assert _PASSWORD not in served.log.read_text()
        assert _PASSWORD not in command_lines(served.process.pid)
    assert server.admin.execute_command("ACL", "LOG") == []  # type: ignore[no-untyped-call]  # redis-py has none
