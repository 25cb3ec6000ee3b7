"""The service files as supervisors would use them: their own command line, nothing substituted."""

import json
import os
import plistlib
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from processes import command_lines
from standins.redis_server import RedisServer, redis_server
from warmclip.fsutil import file_lock
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.call import call
from warmclip.work.workers import listening

pytestmark = pytest.mark.usefixtures("server_binary")

_DEPLOY = Path(__file__).parents[2] / "deploy"
_PASSWORD = "pa55-of-the-unit"  # noqa: S105 - of a server that lives for one test
_TOKEN = "0123456789abcdef-of-the-unit"  # noqa: S105 - as above
_PORT = 8000  # the command's own default, as the files have none
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a supervisor takes from its file."""

    command: list[str]
    environment: dict[str, str]


def systemd_unit(name: str = "worker") -> dict[str, list[str]]:
    """A unit's directives; one may stand several times."""
    directives = defaultdict(list)
    for line in (_DEPLOY / f"warmclip-{name}.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            directives[name].append(value)
    return directives


def of_systemd(name: str = "worker") -> Service:
    """A service as systemd starts it, without a shell."""
    unit = systemd_unit(name)
    (line,) = unit["ExecStart"]
    environment = dict(pair.split("=", 1) for pair in unit["Environment"])
    return Service(command=shlex.split(line), environment=environment)


def of_launchd(name: str = "worker") -> Service:
    """A service as launchd starts it."""
    plist = plistlib.loads((_DEPLOY / f"io.warmclip.{name}.plist").read_bytes())
    return Service(command=plist["ProgramArguments"], environment=plist["EnvironmentVariables"])


def of_compose(name: str = "worker") -> Service:
    """A service as compose.yaml starts it in the image."""
    file = yaml.safe_load((_DEPLOY.parent / "compose.yaml").read_text())
    service = file["services"][name]
    # The servers and the token are the test's own.
    others = {"REDIS_URL", "QDRANT_URL", "WARMCLIP_TOKEN_FILE"}
    environment = {k: v for k, v in service["environment"].items() if k not in others}
    return Service(command=["warmclip", *service["command"]], environment=environment)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis with a password."""
    with redis_server(tmp_path, password=_PASSWORD) as running:
        yield running


@pytest.fixture
def turns() -> Iterator[ExitStack]:
    """Holds what a test took until it is over."""
    with ExitStack() as stack:
        yield stack


_FILES = [of_systemd, of_launchd, of_compose]


@contextmanager
def started(service: Service, log: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run its command with its environment, the paths being this machine's."""
    here = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"} | environment
    if "PYTHONPATH" in os.environ:  # a checkout that is not installed
        here["PYTHONPATH"] = os.environ["PYTHONPATH"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            service.command, env=service.environment | here, stdout=stream, stderr=stream
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("file", _FILES, ids=["systemd", "launchd", "compose"])
def test_command_line_of_the_service_file(
    file: Callable[[], Service], server: RedisServer, tmp_path: Path, demo_bundle: Path
) -> None:
    """The worker listens, does a job, keeps the password to itself, and ends with 0 on SIGTERM.

    All that it logs is JSON, one object a line.
    """
    settings = Settings.from_env(
        {"REDIS_URL": server.url(password=_PASSWORD), "WARMCLIP_HOME": str(tmp_path / "home")}
    )
    environment = {
        "REDIS_URL": server.url(password=_PASSWORD),
        "WARMCLIP_HOME": str(tmp_path / "home"),
        "WARMCLIP_BUNDLE": str(demo_bundle),
    }
    log = tmp_path / "worker.log"
    with started(file(), log, **environment) as process, open_broker(settings) as connection:
        deadline = time.monotonic() + _PATIENCE_S
        while not listening(connection, "default"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        answer = call(connection, "embed_texts", {"texts": ["a red circle"]})
        assert len(answer["vectors"]["a red circle"]) == answer["dim"]
        assert _PASSWORD not in command_lines(process.pid)
        process.terminate()
        assert process.wait(_PATIENCE_S) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    assert "worker_ready" in {line.get("action") for line in lines}
    assert _PASSWORD not in log.read_text()


def test_wrong_setting_ends_with_what_systemd_does_not_repeat(tmp_path: Path) -> None:
    """A model that is missing ends with the exit code that the unit excepts from restarting."""
    log = tmp_path / "worker.log"
    with started(
        of_systemd(),
        log,
        WARMCLIP_HOME=str(tmp_path / "home"),
        WARMCLIP_BUNDLE=str(tmp_path / "none"),
    ) as process:
        code = process.wait(_PATIENCE_S)
    assert [str(code)] == systemd_unit()["RestartPreventExitStatus"]
    # Of two workers either may be the last to speak.
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    errors = [line["message"] for line in lines if line["level"] == "error"]
    assert errors
    assert all("make export-model" in error for error in errors)


@pytest.mark.parametrize("file", _FILES, ids=["systemd", "launchd", "compose"])
def test_command_line_of_the_server(
    file: Callable[[str], Service], server: RedisServer, tmp_path: Path, turns: ExitStack
) -> None:
    """It answers on loopback, keeps password and token to itself, and ends with 0 on SIGTERM."""
    # Tests at once take turns: the port is one.
    turns.enter_context(file_lock(Path(tempfile.gettempdir()) / f"warmclip-port-{_PORT}.lock"))
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", _PORT)) == 0:
            pytest.skip(f"something listens on port {_PORT} already")
    log = tmp_path / "serve.log"
    environment = {
        "REDIS_URL": server.url(password=_PASSWORD),
        "WARMCLIP_HOME": str(tmp_path / "home"),
        "WARMCLIP_TOKEN": _TOKEN,
        "WARMCLIP_ROOTS": str(tmp_path),
    }
    with (
        started(file("serve"), log, **environment) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{_PORT}", trust_env=False) as client,
    ):
        deadline = time.monotonic() + _PATIENCE_S
        while not is_ready(client):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        sessions = "/api/v1/training/sessions"
        assert client.get(sessions).status_code == 401
        authorized = {"Authorization": f"Bearer {_TOKEN}"}
        order = {"training_directory": str(tmp_path)}
        assert client.post(sessions, json=order, headers=authorized).status_code == 202
        shown = command_lines(process.pid)
        assert _PASSWORD not in shown
        assert _TOKEN not in shown
        process.terminate()
        assert process.wait(_PATIENCE_S) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "server_ready" in {line.get("action") for line in lines}
    assert _PASSWORD not in log.read_text()
    assert _TOKEN not in log.read_text()


def is_ready(client: httpx.Client) -> bool:
    """Whether the server takes requests."""
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_wrong_setting_of_the_server(tmp_path: Path) -> None:
    """It ends with the exit code that its unit excepts from restarting."""
    log = tmp_path / "serve.log"
    home = str(tmp_path / "home")
    with started(of_systemd("serve"), log, WARMCLIP_HOME=home, WARMCLIP_TOKEN="short") as process:  # noqa: S106 - that it is none is the point
        code = process.wait(_PATIENCE_S)
    assert [str(code)] == systemd_unit("serve")["RestartPreventExitStatus"]
    assert "at least 16" in log.read_text()


@pytest.mark.parametrize("name", ["worker", "serve"])
def test_secrets_have_a_file_of_their_own(name: str) -> None:
    """No address with a password belongs into the unit, which everybody may read."""
    unit = systemd_unit(name)
    assert unit["EnvironmentFile"] == [f"/etc/warmclip/{name}.env"]
    assert not any("URL" in pair or "TOKEN" in pair for pair in unit["Environment"])
    guide = (_DEPLOY.parent / "docs" / "guides" / "deployment.md").read_text(encoding="utf-8")
    assert f"install -m 0600 /dev/null /etc/warmclip/{name}.env" in guide


def test_stopping_leaves_time_for_a_job() -> None:
    """All supervisors wait longer than a job may run, and systemd signals the worker alone."""
    from warmclip.work import producer

    unit = systemd_unit()
    plist = plistlib.loads((_DEPLOY / "io.warmclip.worker.plist").read_bytes())
    assert unit["KillMode"] == ["mixed"]
    assert int(unit["TimeoutStopSec"][0]) > producer._JOB_TIMEOUT_S
    assert plist["ExitTimeOut"] > producer._JOB_TIMEOUT_S
    service = yaml.safe_load((_DEPLOY.parent / "compose.yaml").read_text())["services"]["worker"]
    assert int(service["stop_grace_period"].removesuffix("s")) > producer._JOB_TIMEOUT_S


def test_image_starts_what_compose_starts() -> None:
    """The image's own command is the worker of compose.yaml, and it runs as nobody's user."""
    lines = (_DEPLOY.parent / "Dockerfile").read_text().splitlines()
    commands = dict(line.split(" ", 1) for line in lines if line.startswith(("CMD", "ENTRY", "US")))
    assert json.loads(commands["ENTRYPOINT"]) + json.loads(commands["CMD"]) == of_compose().command
    assert int(commands["USER"]) > 0
