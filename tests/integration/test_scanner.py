"""The search of a session's folder, on a real Redis: what people do in the middle of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from standins.clock import Clock
from warmclip.indexing.walk import Walk
from warmclip.settings import Settings
from warmclip.work.sessions import scanner as scanning
from warmclip.work.sessions.commands import SessionCommands
from warmclip.work.sessions.leases import ScanLeases
from warmclip.work.sessions.progress import SessionProgress
from warmclip.work.sessions.scanner import Scanner
from warmclip.work.sessions.session import Session

pytestmark = [pytest.mark.usefixtures("server_binary"), pytest.mark.quick]

FILES = 20


class Search:
    """The search of a folder of twenty pictures, of which each takes a second to be found.

    Attributes:
        scanner: who searches.
        commands: what people do.
        found: the pictures that the disk was asked for.
        meanwhile: what happens when the fifth has been found.
    """

    def __init__(self, connection: Redis, folder: Path, clock: Clock) -> None:
        leases = ScanLeases(connection)
        leases.beat()
        settings = Settings.from_env({"WARMCLIP_ROOTS": str(folder.parent)})
        self.scanner = Scanner(connection, leases, settings)
        self.commands = SessionCommands(connection)
        self.found: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self._progress = SessionProgress(connection)
        self._folder, self._clock = folder, clock

    def start(self) -> Session:
        """A session of the folder."""
        session, _ = self.commands.start(str(self._folder), "images")
        return session

    def run(self, session: Session) -> Session:
        """Search; returns what the session is then."""
        self.scanner.scan_all()
        now = self._progress.get(session.id)
        assert now is not None
        return now

    def on_found(self, path: str) -> None:
        """The disk has told one."""
        self._clock.sleep(1.0)
        self.found.append(path)
        if len(self.found) == 5:
            self.meanwhile()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The scanner's."""
    clock = Clock()
    monkeypatch.setattr(scanning, "time", clock)
    return clock


@pytest.fixture
def search(
    connection: Redis, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Search:
    """It has not begun."""
    folder = tmp_path / "roots" / "pictures"
    folder.mkdir(parents=True)
    for number in range(FILES):
        (folder / f"{number:02}.png").write_bytes(b"x")
    search = Search(connection, folder, clock)

    class SlowWalk(Walk):
        """On a slow disk."""

        def __iter__(self) -> Iterator[str]:
            for path in super().__iter__():
                search.on_found(path)
                yield path

    monkeypatch.setattr(scanning, "Walk", SlowWalk)
    return search


def test_search_that_takes_long(search: Search) -> None:
    """It goes on to its end as long as it is wanted."""
    session = search.run(search.start())
    assert (session.state, session.images, len(search.found)) == ("running", FILES, FILES)


def test_session_that_is_cancelled_meanwhile(search: Search) -> None:
    """Its folder is not searched to the end: after a few seconds the scanner has seen it."""
    session = search.start()
    search.meanwhile = lambda: search.commands.cancel(session.id)
    assert search.run(session).state == "cancelled"
    assert len(search.found) in range(6, 10)


def test_server_that_ends_meanwhile(search: Search) -> None:
    """Its search ends within a few seconds, and the next one finds all."""

    def stop() -> None:
        search.scanner.stopped = True

    search.meanwhile = stop
    session = search.run(search.start())
    assert (session.state, session.images) == ("finding", None)
    assert len(search.found) in range(6, 10)
    search.scanner.stopped, search.meanwhile = False, lambda: None
    assert search.run(session).images == FILES


def test_session_that_is_paused_meanwhile(search: Search) -> None:
    """What was found is kept, and it stays paused."""
    session = search.start()
    search.meanwhile = lambda: search.commands.pause(session.id)
    session = search.run(session)
    assert (session.state, session.images) == ("paused", FILES)


def test_folder_that_is_away(
    search: Search, connection: Redis, tmp_path: Path, clock: Clock
) -> None:
    """Where other servers may see it, it is left to them, and looked at again after 5 s."""
    ScanLeases(connection).beat()
    session = search.start()
    folder = tmp_path / "roots" / "pictures"
    folder.rename(tmp_path / "away")
    assert search.run(session).state == "finding"
    (tmp_path / "away").rename(folder)
    for passed_s, images in ((4.0, None), (1.0, FILES)):
        clock.sleep(passed_s)
        assert search.run(session).images == images
