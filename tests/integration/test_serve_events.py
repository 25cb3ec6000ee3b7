"""Server-sent events of training sessions: what is told, when, to how many, and how it ends."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from running import PATIENCE_S, environment_of, eventually
from serving import SESSIONS, Served, draw, running_server
from standins.redis_server import redis_server
from warmclip.serve import events
from warmclip.serve.streams import Streams
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.sessions.commands import SessionCommands

pytestmark = pytest.mark.usefixtures("server_binary")

EVENTS = f"{SESSIONS}/events"


@pytest.fixture
def environment(tmp_path: Path, demo_bundle: Path) -> dict[str, str]:
    """What a server is told."""
    root = tmp_path / "root"
    draw(root, 3)
    return environment_of(tmp_path / "home", demo_bundle, WARMCLIP_ROOTS=str(root))


@pytest.fixture
def served(environment: dict[str, str]) -> Iterator[Served]:
    """A server, with no worker."""
    with running_server(environment) as served:
        yield served


@contextmanager
def listening(served: Served, **headers: str) -> Iterator[Iterator[tuple[str, Any]]]:
    """A stream's events, by name and data; what takes too long is an error."""
    with served.client.stream("GET", EVENTS, headers=headers, timeout=20) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield parsed(answer)


def open_streams(stack: ExitStack, served: Served, count: int) -> list[Iterator[tuple[str, Any]]]:
    """So many, each after its first event; one that is not kept is closed."""
    streams = [stack.enter_context(listening(served)) for _ in range(count)]
    for stream in streams:
        next(stream)
    return streams


def parsed(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Events as they come."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def metric(served: Served, name: str) -> float:
    """One figure."""
    lines = served.client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_changes_are_told(served: Served, environment: dict[str, str]) -> None:
    """First everything, then each change by itself, until it is over; an id is no matter."""
    root = Path(environment["WARMCLIP_ROOTS"])
    first = served.begin(root)
    told: dict[str, dict[str, Any]] = {}

    def hear_until(session: str, state: str) -> dict[str, Any]:
        id_ = session.rpartition("/")[2]
        while id_ not in told or told[id_]["state"] != state:
            name, page = next(stream)
            assert name == "sessions"
            for each in page["sessions"]:
                assert told.get(each["id"]) != each
                told[each["id"]] = each
            assert page["total"] == len(told)
        return told[id_]

    with listening(served, **{"Last-Event-ID": "17"}) as stream:
        hear_until(first, "running")
        assert len(told) == 1
        hear_until(served.begin(root, collection="other"), "running")
        served.client.post(f"{first}/pause")
        heard = hear_until(first, "paused")
        seen = served.get(first)
        assert heard == {name: seen[name] for name in heard}


def test_end_of_the_server(served: Served) -> None:
    """Its streams end as answers do, and none has to be cancelled after a while."""
    with ExitStack() as stack:
        streams = open_streams(stack, served, 3)
        served.process.terminate()
        assert served.process.wait(PATIENCE_S) == 0
        for stream in streams:
            assert list(stream) == []
    assert "Cancel" not in served.log.read_text()
    assert "Traceback" not in served.log.read_text()


def test_many_streams(served: Served) -> None:
    """They are counted, one more than 32 is a 503, and who leaves makes room."""
    with ExitStack() as stack:
        streams = open_streams(stack, served, 32)
        assert metric(served, "warmclip_event_streams") == 32
        answer = served.client.get(EVENTS)
        assert answer.status_code == 503
        assert "32 event streams" in answer.json()["detail"]
        assert served.client.get("/readyz").status_code == 200
        assert len(streams) == 32
    eventually(lambda: metric(served, "warmclip_event_streams") == 0)
    timed = [line for line in served.client.get("/metrics").text.splitlines() if EVENTS in line]
    assert all('status="503"' in line for line in timed)  # how long one listens is no latency


def test_redis_is_asked_once_a_second(tmp_path: Path, environment: dict[str, str]) -> None:
    """However many listen."""
    (tmp_path / "redis").mkdir()
    with (
        redis_server(tmp_path / "redis") as redis,
        running_server(environment | {"REDIS_URL": redis.url()}) as served,
        ExitStack() as stack,
    ):

        def pages() -> int:
            stats = redis.admin.info("commandstats")
            return int(stats.get("cmdstat_zrevrange", {"calls": 0})["calls"])

        streams = open_streams(stack, served, 8)
        before, began = pages(), time.monotonic()
        time.sleep(3)
        read, passed = pages() - before, time.monotonic() - began
        assert 1 <= read <= 1.2 * passed + 1
        assert len(streams) == 8


def test_redis_goes_away(tmp_path: Path, environment: dict[str, str]) -> None:
    """The stream stays, tells the problem once, and then what has changed."""
    (tmp_path / "redis").mkdir()
    keep = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path / "redis", *keep) as redis:
        settings = environment | {"REDIS_URL": redis.url()}
        with running_server(settings) as served, listening(served) as stream:
            next(stream)
            redis.admin.shutdown(nosave=True)
            name, problem = next(stream)
            assert (name, problem["status"]) == ("problem", 503)
            assert "no answer from Redis" in problem["detail"]
            with redis_server(tmp_path / "redis", *keep, port=redis.port):
                name, page = next(stream)
                assert (name, page) == ("sessions", {"total": 0, "sessions": []})


def test_old_session_that_is_under_way(environment: dict[str, str]) -> None:
    """It is told of, however many younger ones are over."""
    with open_broker(Settings.from_env(environment)) as connection:
        commands = SessionCommands(connection)
        old, _ = commands.start("/pictures", "images")
        for number in range(51):
            commands.cancel(commands.start(f"/pictures/{number}", "images")[0].id)
        page = events.SessionFeed(commands).read()
    assert (page.total, len(page.sessions)) == (52, 51)
    assert old.id in {each.id for each in page.sessions}


def test_silence_is_broken(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing happens a comment comes from time to time, and the end is no error."""
    monkeypatch.setattr(events, "_INTERVAL_S", 0.01)
    monkeypatch.setattr(events, "_HEARTBEAT_S", 0.05)
    settings = Settings.from_env(environment)

    async def listen() -> list[str]:
        streams, heard = Streams(), []
        feed = events.SessionFeed(SessionCommands(connection))
        async for text in events.send_events(feed, streams, settings, feed.read()):
            heard.append(text)
            assert streams.open == 1
            if text.startswith(":"):
                streams.end()
        assert streams.open == 0
        return heard

    with open_broker(settings) as connection:
        heard = asyncio.run(listen())
    assert heard == [
        "retry: 2000\n\n",
        'event: sessions\ndata: {"total":0,"sessions":[]}\n\n',
        ": still here\n\n",
    ]
