"""Training sessions: joined, paused, given up, tried again, and not lost by any death."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import pytest
from redis import Redis
from rq.queue import Queue

from running import (
    PATIENCE_S,
    Running,
    environment_of,
    eventually,
    running_worker,
    start_worker,
    wait_for_worker,
)
from serving import SESSIONS, Served, draw, running_server
from standins.redis_server import redis_server
from warmclip.settings import Settings
from warmclip.work.broker import open_broker
from warmclip.work.call import call
from warmclip.work.naming import DEFAULT_CHUNK
from warmclip.work.queues import open_queue
from warmclip.work.sessions.commands import SessionCommands
from warmclip.work.sessions.leases import ScanLeases
from warmclip.work.sessions.scanner import Scan, ScanResults

pytestmark = pytest.mark.usefixtures("server_binary")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A home and a folder of pictures, for as many processes as a test needs."""

    environment: dict[str, str]
    folder: Path

    @property
    def settings(self) -> Settings:
        """What all of them are told."""
        return Settings.from_env(self.environment)


@pytest.fixture
def place(tmp_path: Path, demo_bundle: Path) -> Place:
    """A private Redis, an embedded store, and no picture yet."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    home = tmp_path / "home"
    return Place(
        environment=environment_of(home, demo_bundle, WARMCLIP_ROOTS=str(folder)), folder=folder
    )


@pytest.fixture
def connection(place: Place) -> Iterator[Redis]:
    """A client that keeps the private Redis running while others come and go."""
    with open_broker(place.settings) as connection:
        yield connection


def is_beyond(served: Served, session: str, done: int) -> bool:
    """Whether more pictures are done by now."""
    return bool(served.get(session)["done"] > done)


def has_pictures(served: Served, session: str, images: int) -> bool:
    """Whether its folder was searched, and has so many pictures."""
    found = served.get(session)
    assert found["state"] != "failed", found["error"]
    return bool(found["images"] == images)


def test_worker_is_killed_on_the_way(place: Place, connection: Redis) -> None:
    """Two workers are killed with their horses; the session's outcome is as if none had been."""
    draw(place.folder, 768)
    log = place.folder.parent / "worker.log"
    with running_server(place.environment) as served:
        session = served.begin(place.folder)
        for _ in range(2):
            process = start_worker(place.environment, log=log)
            wait_for_worker(process, connection, log)
            so_far = served.get(session)["done"]
            eventually(partial(is_beyond, served, session, so_far))
            worker = Running(
                process=process, connection=connection, settings=place.settings, log=log
            )
            worker.kill_horse()
            process.kill()
            process.wait(PATIENCE_S)
            assert served.get(session)["state"] == "running"
        with running_worker(place.settings, place.environment):
            ended = served.wait(session)
        assert (ended["images"], ended["done"], ended["skipped"]) == (768, 768, 0)
        assert ended["indexed"] + ended["unchanged"] == 768
        assert ended["failures"] == []


@pytest.mark.usefixtures("connection")
def test_folder_that_is_posted_twice(place: Place) -> None:
    """The running session is joined, also by many at once; after its end a new one begins."""
    draw(place.folder, 3)
    with running_server(place.environment) as served:
        order = {"training_directory": str(place.folder)}
        answers = []

        def post(directory: str) -> None:
            answers.append(
                served.client.post(SESSIONS, json=order | {"training_directory": directory})
            )

        spellings = [str(place.folder), f"{place.folder}/", f"{place.folder}/."] * 4
        threads = [threading.Thread(target=post, args=(each,)) for each in spellings]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} == {202}
        (first,) = {answer.headers["Location"] for answer in answers}
        assert sorted(answer.json()["joined"] for answer in answers) == [False] + [True] * 11
        eventually(lambda: served.get(first)["images"] == 3)
        draw(place.folder, 1, start=3)
        assert served.begin(place.folder) == first  # and the folder is searched again
        other = served.begin(place.folder, collection="other")
        assert other != first
        with running_worker(place.settings, place.environment):
            assert served.wait(first)["indexed"] == 4
            assert served.wait(other)["indexed"] == 4
            second = served.begin(place.folder)
            assert second != first
            assert served.wait(second)["unchanged"] == 4
        assert served.get(first)["indexed"] == 4  # what later sessions do does not change it
        listed = [each["id"] for each in served.get(SESSIONS)["sessions"]]
        assert listed == [it.rpartition("/")[2] for it in (second, other, first)]


JOBS = ceil(300 / DEFAULT_CHUNK)


def turn_twice(served: Served, turn: str, state: str, queue: Queue, *, left: int) -> None:
    """Each time it is so, and so many jobs wait."""
    for _ in range(2):
        answer = served.client.post(turn)
        assert (answer.status_code, answer.json()["state"]) == (200, state)
        eventually(lambda: queue.count == left)


def test_pause_and_resume(place: Place, connection: Redis) -> None:
    """What waits leaves the queue and comes back, once, however often it is asked for."""
    draw(place.folder, 300)
    queue = open_queue(connection)
    with running_server(place.environment) as served:
        session = served.begin(place.folder)
        eventually(lambda: queue.count == JOBS)
        turn_twice(served, f"{session}/pause", "paused", queue, left=0)
        turn_twice(served, f"{session}/resume", "running", queue, left=JOBS)
        served.client.post(f"{session}/pause")
    with (
        running_server(place.environment) as served,
        running_worker(place.settings, place.environment),
    ):
        assert served.get(session)["state"] == "paused"
        assert served.get(session)["done"] == 0
        served.client.post(f"{session}/resume")
        assert served.wait(session)["indexed"] == 300


def test_cancel(place: Place, connection: Redis) -> None:
    """What waits is forgotten, and the folder may be posted again at once."""
    draw(place.folder, 300)
    queue = open_queue(connection)
    with running_server(place.environment) as served:
        session = served.begin(place.folder)
        eventually(lambda: queue.count == JOBS)
        turn_twice(served, f"{session}/cancel", "cancelled", queue, left=0)
        eventually(lambda: not list(connection.scan_iter("rq:job:session-*")))
        for turn in ("pause", "resume", "retry"):
            assert served.client.post(f"{session}/{turn}").status_code == 409
        again = served.begin(place.folder)
        assert again != session
        with running_worker(place.settings, place.environment):
            assert served.wait(again)["indexed"] == 300
        assert served.get(session)["state"] == "cancelled"
        assert served.client.post(f"{again}/cancel").status_code == 409


@pytest.mark.usefixtures("connection")
def test_retry(place: Place) -> None:
    """Skipped pictures that were mended are indexed; doing it again changes nothing."""
    draw(place.folder, 3)
    broken = place.folder / "broken.png"
    broken.write_bytes(b"no picture")
    with (
        running_server(place.environment) as served,
        running_worker(place.settings, place.environment),
    ):
        session = served.begin(place.folder)
        assert served.wait(session)["skipped"] == 1
        (mended,) = draw(place.folder / "elsewhere", 1, start=9)
        mended.replace(broken)
        assert served.client.post(f"{session}/retry").status_code == 200
        ended = served.wait(session)
        assert (ended["images"], ended["indexed"], ended["skipped"]) == (4, 4, 0)
        assert served.client.post(f"{session}/retry").json()["state"] == "finished"


@pytest.mark.usefixtures("connection")
def test_jobs_that_fail(place: Place) -> None:
    """Their pictures are skipped with the job's own reason, and may be tried again."""
    draw(place.folder, 3)
    away = place.environment | {"WARMCLIP_ROOTS": str(place.folder.parent / "elsewhere")}
    with running_server(place.environment) as served:
        session = served.begin(place.folder)
        with running_worker(Settings.from_env(away), away):
            ended = served.wait(session)
        assert ended["skipped"] == 3
        assert "outside the roots" in ended["failures"][0]["reason"]
        with running_worker(place.settings, place.environment):
            served.client.post(f"{session}/retry")
            assert served.wait(session)["indexed"] == 3


@pytest.mark.usefixtures("connection")
def test_retry_in_small_jobs(place: Place) -> None:
    """Pictures that are tried again go into jobs of no more than workers take."""
    draw(place.folder, 3)
    small = place.environment | {"WARMCLIP_MAX_JOB_ITEMS": "2"}
    away = small | {"WARMCLIP_ROOTS": str(place.folder.parent / "elsewhere")}
    with running_server(small) as served:
        session = served.begin(place.folder)
        with running_worker(Settings.from_env(away), away):
            assert served.wait(session)["skipped"] == 3
        with running_worker(Settings.from_env(small), small):
            served.client.post(f"{session}/retry")
            assert served.wait(session)["indexed"] == 3


@pytest.mark.usefixtures("connection")
def test_empty_folder(place: Place) -> None:
    """Its session is finished at once, with no picture."""
    with running_server(place.environment) as served:
        ended = served.wait(served.begin(place.folder))
        assert (ended["images"], ended["done"]) == (0, 0)


def test_server_dies_before_pictures_were_found(place: Place, connection: Redis) -> None:
    """The next one finds them: what the first had found so far does not count twice."""
    draw(place.folder, 100)
    session, _ = SessionCommands(connection).start(str(place.folder), "images")
    killed = ScanLeases(connection)
    killed.beat()
    assert killed.acquire(session.id)
    ScanResults(connection, killed).add_chunk(session.id, Scan(), [str(place.folder / "00000.png")])
    where = f"{SESSIONS}/{session.id}"
    with (
        running_server(place.environment) as served,
        running_worker(place.settings, place.environment),
    ):
        ended = served.wait(where)
        assert (ended["images"], ended["indexed"]) == (100, 100)


@pytest.mark.usefixtures("connection")
def test_server_is_killed_again_and_again(place: Place) -> None:
    """Whenever it dies, every picture is found, queued and counted exactly once."""
    draw(place.folder, 400)
    sessions = set()
    for _ in range(3):
        with running_server(place.environment) as served:
            sessions.add(served.begin(place.folder))
            served.process.kill()
            served.process.wait(PATIENCE_S)
    (session,) = sessions
    with running_worker(place.settings, place.environment):
        for _ in range(2):
            with running_server(place.environment) as served:
                served.process.kill()
                served.process.wait(PATIENCE_S)
        with running_server(place.environment) as served:
            ended = served.wait(session)
    assert (ended["images"], ended["done"], ended["skipped"]) == (400, 400, 0)
    assert ended["indexed"] == 400


def test_folder_vanishes_before_it_was_searched(place: Place, connection: Redis) -> None:
    """The session fails with the reason; when the folder is back, it may be tried again."""
    session, _ = SessionCommands(connection).start(str(place.folder), "images")
    where = f"{SESSIONS}/{session.id}"
    place.folder.rmdir()
    with running_server(place.environment) as served:
        assert "no folder" in served.wait(where, "failed")["error"]
        draw(place.folder, 2)
        served.client.post(f"{where}/retry")
        with running_worker(place.settings, place.environment):
            assert served.wait(where)["indexed"] == 2


@pytest.mark.usefixtures("connection")
def test_server_with_other_roots(place: Place, tmp_path: Path) -> None:
    """It leaves folders that it cannot search to the server that can."""
    draw(place.folder, 3)
    away = place.environment | {"WARMCLIP_ROOTS": str(tmp_path / "elsewhere")}
    with running_server(away) as other, running_server(place.environment) as able:
        assert other.get("/readyz") == {"ok": True}
        for number in range(5):  # whichever of the two looks first
            session = able.begin(place.folder, collection=f"c{number}")
            eventually(partial(has_pictures, able, session, 3))


@pytest.mark.usefixtures("connection")
def test_nothing_could_be_stored(place: Place) -> None:
    """The session says why, and forgets it when a retry goes well."""
    for drawn in draw(place.folder, 3):
        drawn.write_bytes(b"")
    with (
        running_server(place.environment) as served,
        running_worker(place.settings, place.environment),
    ):
        session = served.begin(place.folder)
        ended = served.wait(session)
        assert (ended["images"], ended["skipped"]) == (3, 3)
        assert "nothing was stored: is empty" in ended["error"]
        draw(place.folder, 3)
        served.client.post(f"{session}/retry")
        eventually(lambda: served.get(session)["done"] == 3)
        ended = served.wait(session)
        assert (ended["indexed"], ended["error"]) == (3, None)


def test_jobs_that_were_deleted(place: Place, connection: Redis) -> None:
    """A session whose jobs somebody deleted ends, and says so of their pictures."""
    draw(place.folder, 3)
    queue = open_queue(connection)
    with running_server(place.environment) as served:
        session = served.begin(place.folder)
        eventually(lambda: queue.count == 1)
        (job,) = queue.jobs
        job.delete()
        ended = served.wait(session)
        assert ended["skipped"] == 3
        assert "gone from Redis" in ended["failures"][0]["reason"]


@pytest.mark.skipif(sys.platform == "darwin", reason="APFS takes no such name")
@pytest.mark.usefixtures("connection")
def test_name_that_is_no_utf8(place: Place) -> None:
    """Such a picture is found, indexed and told of, with its bytes escaped."""
    (good,) = draw(place.folder, 1)
    os.rename(good, os.fsencode(place.folder) + b"/caf\xe9.png")  # noqa: PTH104 - a name in bytes
    broken = os.fsencode(place.folder) + b"/bad\xe9.png"
    with open(broken, "wb") as stream:  # noqa: PTH123 - a name in bytes
        stream.write(b"no picture")
    with (
        running_server(place.environment) as served,
        running_worker(place.settings, place.environment),
    ):
        ended = served.wait(served.begin(place.folder))
        assert (ended["indexed"], ended["skipped"]) == (1, 1)
        assert ended["failures"][0]["path"].endswith(r"/bad\udce9.png")
        (hit,) = served.get("/api/v1/search?q=a")["hits"]
        assert hit["path"].endswith(r"/caf\udce9.png")


def test_redis_is_restarted(place: Place, tmp_path: Path) -> None:
    """While it is away, answers are problems; with it the session comes back and is finished."""
    draw(place.folder, 200)
    (tmp_path / "redis").mkdir()
    keep = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path / "redis", *keep) as redis:
        environment = place.environment | {"REDIS_URL": redis.url()}
        with running_server(environment) as served:
            session = served.begin(place.folder)
            eventually(lambda: served.get(session)["state"] == "running")
            redis.admin.shutdown(nosave=True)
            eventually(lambda: served.client.get("/readyz").status_code == 503)
            answer = served.client.get(session)
            assert answer.status_code == 503
            assert "no answer from Redis" in answer.json()["detail"]
            with redis_server(tmp_path / "redis", *keep, port=redis.port):
                eventually(lambda: served.client.get("/readyz").status_code == 200)
                with running_worker(Settings.from_env(environment), environment) as worker:
                    assert served.wait(session)["indexed"] == 200
                    answer = call(
                        worker.connection, "search", {"collection": "images", "text": "a"}
                    )
                    assert len(answer["hits"]) == 10


def test_record_that_is_none(place: Place, connection: Redis) -> None:
    """What somebody else wrote there is passed by, and the other sessions go on."""
    for number, state in enumerate(("mad", "running", "\xff")):
        id_ = f"{number:032x}"
        connection.hset(f"rq:warmclip:session:{id_}", "state", state)
        connection.sadd("rq:warmclip:sessions:open", id_)
        connection.zadd("rq:warmclip:sessions", {id_: number})
    connection.sadd("rq:warmclip:sessions:open", b"\xff")
    with running_server(place.environment) as served:
        assert served.wait(served.begin(place.folder))["images"] == 0
        assert served.get(SESSIONS)["total"] == 1


def test_server_that_is_asked_to_stop(place: Place) -> None:
    """It leaves at once with exit code 0, and with it the private Redis that it had started."""
    for signum, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with running_server(place.environment) as served:
            served.begin(place.folder)
            served.process.send_signal(signum)
            assert served.process.wait(PATIENCE_S) == code
        found = subprocess.run(
            ["pgrep", "-f", str(place.settings.home / "redis")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout == ""
