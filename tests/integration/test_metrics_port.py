"""A worker's own metrics, for whoever watches each machine."""

import re
import socket
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from running import PATIENCE_S, environment_of, eventually, running_worker, start_worker
from serving import draw
from standins.redis_server import free_port, redis_server
from warmclip.cli import app
from warmclip.errors import SettingsError
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.settings import Settings
from warmclip.work.counters import read_counters
from warmclip.work.metrics_port import metrics_port

pytestmark = pytest.mark.usefixtures("server_binary")


def figure(port: int, name: str) -> float:
    """One figure of a worker."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=PATIENCE_S).text
    (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(value)


def is_alive(port: int) -> bool:
    """Whether it answers."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False, timeout=PATIENCE_S)
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def test_metrics_of_a_worker(tmp_path: Path, demo_bundle: Path) -> None:
    """It tells what it has done, and which providers its machine does not use."""
    port = free_port()
    environment = environment_of(tmp_path / "home", demo_bundle)
    settings = Settings.from_env(environment)
    with running_worker(settings, environment, "--metrics-port", str(port)) as worker:
        paths = [str(path) for path in draw(tmp_path / "pictures", 2)]
        assert worker.run("warmclip.work.jobs.index_images", paths, "images").return_value
        done = 'warmclip_worker_job_runs_total{outcome="success"}'
        eventually(lambda: figure(port, done) == 1)
        assert figure(port, "warmclip_worker_decode_seconds_count") >= 2
        eventually(lambda: read_counters(worker.connection).get("points:images") == 2)
        assert figure(port, "warmclip_worker_horse_up") == 1
        assert figure(port, "process_resident_memory_bytes") > 0
        Quarantine(settings.home).add("coreml", "it was wrong")
        assert figure(port, 'warmclip_provider_quarantined{provider="coreml"}') == 1
        answer = httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=PATIENCE_S)
        assert answer.status_code == 404


def test_worker_that_waits_for_redis(tmp_path: Path, demo_bundle: Path) -> None:
    """It lives, and says that it has no horse yet."""
    port, metrics = free_port(), free_port()
    url = f"redis://127.0.0.1:{port}/0"
    environment = environment_of(tmp_path / "home", demo_bundle, REDIS_URL=url)
    process = start_worker(environment, "--metrics-port", str(metrics), log=tmp_path / "worker.log")
    try:
        eventually(lambda: is_alive(metrics))
        assert figure(metrics, "warmclip_worker_horse_up") == 0
        (tmp_path / "redis").mkdir()
        with redis_server(tmp_path / "redis", port=port):
            eventually(lambda: figure(metrics, "warmclip_worker_horse_up") == 1)
            process.terminate()
            assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_addresses_of_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor starts each with the next port, on the host that was named."""
    started: list[list[str]] = []

    class Recorder:
        def __init__(self, workers: list[list[str]]) -> None:
            started.extend(workers)

        def run(self) -> int:
            return 0

    monkeypatch.setattr("warmclip.work.supervisor.Supervisor", Recorder)
    command = ["worker", "--reserve", "high", "--metrics-port", "[::1]:9100"]
    assert CliRunner().invoke(app, command).exit_code == 0
    told = [it for worker in started for it in worker if it.startswith("--metrics-port")]
    assert told == ["--metrics-port=[::1]:9100", "--metrics-port=[::1]:9101"]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is hung up on for being slow."""
    monkeypatch.setattr("warmclip.work.metrics_port._REQUEST_S", 2 * PATIENCE_S)


def connect(port: int, begin: bytes = b"GET /") -> socket.socket:
    """A client that sends the beginning of a request."""
    client = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    client.sendall(begin)
    return client


def gets_answer(client: socket.socket) -> bool:
    """Whether the rest of its request is answered."""
    client.sendall(b"livez HTTP/1.0\r\n\r\n")
    return client.recv(12) == b"HTTP/1.0 200"


@pytest.mark.usefixtures("patient")
def test_slow_client() -> None:
    """It delays neither others nor the worker's end: both come before its own answer."""
    with metrics_port(("127.0.0.1", 0), list) as (_, port):
        slow = connect(port)
        assert is_alive(port)
    with slow:
        assert gets_answer(slow)


@pytest.mark.usefixtures("patient")
def test_too_many_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than there are places for is hung up on; a place that is left is free again."""
    monkeypatch.setattr("warmclip.work.metrics_port._MOST_AT_ONCE", 1)
    with metrics_port(("127.0.0.1", 0), list) as (_, port):
        with connect(port) as first, connect(port, b"") as second:
            assert second.recv(1) == b""
            assert gets_answer(first)
        eventually(lambda: is_alive(port))


def test_client_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hung up on when its time is up, however often it sends a byte."""
    monkeypatch.setattr("warmclip.work.metrics_port._REQUEST_S", 0.1)

    def is_hung_up_on(client: socket.socket) -> bool:
        try:
            client.sendall(b"a")
        except ConnectionError:
            return True
        return False

    with metrics_port(("127.0.0.1", 0), list) as (_, port), connect(port) as client:
        eventually(lambda: is_hung_up_on(client))


def has_ipv6() -> bool:
    """Whether one can listen on the loopback of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_loopback_of_ipv6() -> None:
    """It is an address like another one."""
    with metrics_port(("::1", 0), list) as (host, port):
        url = f"http://[{host}]:{port}/livez"
        assert httpx.get(url, trust_env=False, timeout=PATIENCE_S).status_code == 200


def test_port_that_is_taken() -> None:
    """The error names it."""
    with (
        metrics_port(("127.0.0.1", 0), list) as (host, port),
        pytest.raises(SettingsError, match=f"{host}:{port}"),
        metrics_port((host, port), list),
    ):
        pass
