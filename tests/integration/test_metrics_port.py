"""A worker's own metrics, for whoever watches each machine."""

import re
from pathlib import Path

import httpx
import pytest

from running import PATIENCE_S, environment_of, eventually, running_worker, start_worker
from serving import draw
from standins.redis_server import free_port, redis_server
from warmclip.errors import SettingsError
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.settings import Settings
from warmclip.work.counters import read_counters
from warmclip.work.metrics_port import metrics_port, parse_address

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


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:9100", ("0.0.0.0", 9100)),  # noqa: S104 - it is only read
        ("[::1]:9100", ("::1", 9100)),
        ("0", ("127.0.0.1", 0)),
    ],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    """A port is on loopback; a host is said."""
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "x", "-1", "65536", "host:", "9100:host"])
def test_address_that_is_none(text: str) -> None:
    """It is named."""
    with pytest.raises(SettingsError, match="--metrics-port"):
        parse_address(text)


def test_port_that_is_taken() -> None:
    """The error names it."""
    with (
        metrics_port(("127.0.0.1", 0), list) as (host, port),
        pytest.raises(SettingsError, match=f"{host}:{port}"),
        metrics_port((host, port), list),
    ):
        pass
