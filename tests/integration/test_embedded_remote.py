"""The embedded store used through the process that owns it, and what may go wrong meanwhile."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from running import eventually
from standins.listener import answering
from standins.points import SPACE, point, vector
from warmclip.errors import NotStored, StoreError, StoreHeld, StoreUnreachable
from warmclip.fsutil import private_folder
from warmclip.store import embedded_listener
from warmclip.store.embedded_listener import Listener
from warmclip.store.embedded_lock import lock_store
from warmclip.store.embedded_wire import MOST_ANSWER_BYTES, MOST_QUESTION_BYTES, address_of
from warmclip.store.protocol import Hit
from warmclip.store.qdrant import QdrantStore

COUNT = 600  # points: more than two pages

_OWNER = """
import os
import sys
import time
from pathlib import Path

from standins.points import SPACE, point
from warmclip.store.embedded import EmbeddedEngine
from warmclip.store.qdrant import QdrantStore

folder, how = Path(sys.argv[1]), sys.argv[2]
if how == "stalls":

    def query(*_):
        print("asked", flush=True)
        time.sleep(3600)

    EmbeddedEngine.query = query
store = QdrantStore.embedded(folder)
store.ensure_collection("images", SPACE)
store.upsert("images", [point(number) for number in range(600)])
print("open", flush=True)
if how == "forks" and os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(3600)
sys.stdin.read()
store.close()
"""


@contextmanager
def owner(folder: Path, how: str = "works") -> "Iterator[subprocess.Popen[str]]":
    """A process that has 600 points, and the store open until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(folder), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            assert said_by(process)
            yield process
        finally:
            process.kill()


def said_by(process: "subprocess.Popen[str]") -> str:
    """The next line of its output."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def best(store: QdrantStore, number: int = 7) -> list[Hit]:
    """The hits for the very vector of a point."""
    return store.search("images", SPACE, vector(number), limit=3)


def check(store: QdrantStore) -> None:
    """Everything that the owner has is read."""
    assert store.list_names() == ("images",)
    (generation,) = store.list_generations("images")
    assert (generation.points, generation.in_use) == (COUNT, True)
    read = sorted(store.scroll("images", with_vectors=True), key=lambda it: it.id)
    assert [it.payload for it in read] == [point(number).payload for number in range(COUNT)]
    assert [it.id for it in best(store)][:1] == [point(7).id]


def test_read_through_the_owner(tmp_path: Path) -> None:
    """Another process reads all there is, while the owner goes on."""
    with owner(tmp_path / "qdrant"), QdrantStore.remote(tmp_path / "qdrant") as store:
        check(store)
        with pytest.raises(NotStored, match="no collection 'others'"):
            list(store.scroll("others"))
        with pytest.raises(NotStored, match="no collection 'images__gone'"):
            store.describe("images__gone")


def test_writing_through_the_owner(tmp_path: Path) -> None:
    """What two processes write is there, whoever of them owns the store."""
    folder = tmp_path / "qdrant"
    with owner(folder) as process, QdrantStore.remote(folder, take_over=True) as store:
        store.ensure_collection("images", SPACE)
        store.upsert("images", [point(number) for number in range(COUNT, COUNT + 100)])
        assert not store.delete_unchanged("images", [point(COUNT + 1)])
        process.kill()
        process.wait()
        store.upsert("images", [point(number) for number in range(COUNT + 100, COUNT + 200)])
        assert len(list(store.scroll("images"))) == COUNT + 199
    with QdrantStore.embedded(folder) as store:
        assert len(list(store.scroll("images"))) == COUNT + 199


def test_owner_is_killed_while_it_is_written_to(tmp_path: Path) -> None:
    """Whoever had no answer writes again, and nothing that was acknowledged is lost."""
    folder = tmp_path / "qdrant"
    with (
        owner(folder) as process,
        QdrantStore.remote(folder, take_over=True) as store,
        ThreadPoolExecutor() as threads,
    ):
        written = threads.submit(
            lambda: store.upsert("images", [point(number) for number in range(COUNT, 5000)])
        )
        with QdrantStore.remote(folder) as reader:
            eventually(lambda: len(list(reader.scroll("images"))) > COUNT + 100)
        process.kill()
        written.result()
        read = sorted(store.scroll("images"), key=lambda it: it.id)
        assert [it.payload for it in read] == [point(number).payload for number in range(5000)]


def test_written_while_the_owner_stands_still(tmp_path: Path) -> None:
    """What was given up is not written later, when the owner goes on."""
    with owner(tmp_path / "qdrant") as process:
        process.send_signal(signal.SIGSTOP)
        with (
            QdrantStore.remote(tmp_path / "qdrant", patience_s=0.5) as store,
            pytest.raises(StoreUnreachable),
        ):
            store.upsert("images", [point(COUNT)])
        process.send_signal(signal.SIGCONT)
        with QdrantStore.remote(tmp_path / "qdrant") as store:
            check(store)


@pytest.mark.parametrize(
    "stops",
    [
        lambda store: store.rebuild_collection("images", SPACE),
        lambda store: store.optimize_collection("images"),
    ],
    ids=["rebuild", "optimize"],
)
def test_what_would_stop_the_owner(tmp_path: Path, stops: Callable[[QdrantStore], object]) -> None:
    """It is refused with a sentence that names the owner and the way out."""
    with (
        owner(tmp_path / "qdrant") as process,
        QdrantStore.remote(tmp_path / "qdrant") as store,
    ):
        with pytest.raises(StoreHeld, match=rf"process {process.pid} owns.*stop it, then"):
            stops(store)
        check(store)


def test_owner_is_killed_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    """The reader becomes the owner, and has its answer as if nothing had been."""
    with (
        owner(tmp_path / "qdrant", "stalls") as process,
        QdrantStore.remote(tmp_path / "qdrant", take_over=True) as store,
        ThreadPoolExecutor() as threads,
    ):
        hits = threads.submit(best, store)
        assert said_by(process) == "asked"
        process.kill()
        assert hits.result()[0].id == point(7).id
        check(store)
        with pytest.raises(StoreHeld, match=f"process {os.getpid()}"):
            lock_store(tmp_path / "qdrant")


def test_owner_stands_still_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    """A sentence names it after the time that the reader has; it is not waited for for ever."""
    with (
        owner(tmp_path / "qdrant") as process,
        QdrantStore.remote(tmp_path / "qdrant", take_over=True, patience_s=1) as store,
    ):
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreUnreachable, match=f"process {process.pid}.*not answered for 1 s"):
            best(store)
        process.send_signal(signal.SIGCONT)
        check(store)


def test_next_owner_is_waited_for(tmp_path: Path) -> None:
    """As while a worker replaces its horse: who asks meanwhile is answered by the next one."""
    folder = tmp_path / "qdrant"
    with owner(folder) as process:
        process.kill()
    with QdrantStore.remote(folder) as store, ThreadPoolExecutor() as threads:
        asked = threads.submit(check, store)
        with owner(folder):
            asked.result()


def test_nobody_owns_it(tmp_path: Path) -> None:
    """Whoever may not open the store says so, and what to start."""
    with owner(tmp_path / "qdrant") as process:
        process.kill()
    with (
        QdrantStore.remote(tmp_path / "qdrant", patience_s=0.2) as store,
        pytest.raises(StoreUnreachable, match="`warmclip worker`"),
    ):
        store.list_names()
    os.close(lock_store(tmp_path / "qdrant"))


def test_closed_while_it_is_asked(tmp_path: Path) -> None:
    """An owner that leaves, as every command does, costs those who ask nothing."""
    folder = tmp_path / "qdrant"
    with owner(folder) as process, ThreadPoolExecutor(8) as threads:
        readers = [QdrantStore.remote(folder, take_over=True) for _ in range(8)]
        asked = [threads.submit(check, reader) for reader in readers]
        assert process.stdin is not None
        process.stdin.close()
        for each in asked:
            each.result()
        for reader in readers:
            reader.close()


def test_fifty_at_once(tmp_path: Path) -> None:
    """All are answered, each with its own hits."""
    with (
        owner(tmp_path / "qdrant"),
        QdrantStore.remote(tmp_path / "qdrant") as store,
        ThreadPoolExecutor(50) as threads,
    ):
        asked = [threads.submit(best, store, number % COUNT) for number in range(500)]
        found = [each.result()[0].id for each in asked]
    assert found == [point(number % COUNT).id for number in range(500)]


def message(content: object) -> bytes:
    """JSON with its length before it."""
    body = json.dumps(content).encode()
    return struct.pack(">I", len(body)) + body


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", MOST_QUESTION_BYTES + 1) + b"{}",
        struct.pack(">I", 2**32 - 1),
        struct.pack(">I", 4) + b"\xff\xfe{}",
        struct.pack(">I", 200_000) + b"[" * 200_000,
        message(None),
        message([]),
        message({"protocol": 1}),
        message({"protocol": 2, "verb": "list_collections"}),
        message({"protocol": 1, "verb": "upsert", "collection": "images", "records": [{}]}),
        message({"protocol": 1, "verb": "delete", "collection": "images", "only": {"any": 1}}),
        message({"protocol": 1, "verb": "create_collection", "collection": "../..", "dim": 8}),
        message({"protocol": 1, "verb": "delete_collection", "collection": "../.."}),
        message({"protocol": 1, "verb": "rebuild_collection", "collection": "images", "dim": 8}),
        message({"protocol": 1, "verb": "__class__"}),
        message({"protocol": 1, "verb": "count", "collection": ["images"], "only": 3}),
        message({"protocol": 1, "verb": "count", "collection": "../..", "only": None}),
        message({"protocol": 1, "verb": "query", "collection": "images"}),
    ],
)
def test_nonsense_is_sent(tmp_path: Path, sent: bytes) -> None:
    """It gets an error or nothing, and the owner answers everybody else as before."""
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        store.ensure_collection("images", SPACE)
        store.upsert("images", [point(number) for number in range(10)])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(address_of(tmp_path / "qdrant")))
            client.sendall(sent)
            with suppress(OSError):  # it may have hung up, which macOS tells here
                client.shutdown(socket.SHUT_WR)
            reply = b""
            with suppress(ConnectionResetError):  # it was not read to its end
                reply = b"".join(iter(lambda: client.recv(65536), b""))
        assert not reply or "error" in json.loads(reply[4:])
        with QdrantStore.remote(tmp_path / "qdrant") as reader:
            assert len(list(reader.scroll("images"))) == 10


def test_many_who_ask_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections on which nothing comes are closed, and others have their turn."""
    monkeypatch.setattr(embedded_listener, "_QUESTION_S", 0.5)
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        store.ensure_collection("images", SPACE)
        silent = [socket.socket(socket.AF_UNIX) for _ in range(80)]
        for it in silent:
            it.connect(str(address_of(tmp_path / "qdrant")))
        with QdrantStore.remote(tmp_path / "qdrant") as reader:
            assert reader.list_names() == ("images",)
        for it in silent:
            it.close()


def prepared_address(folder: Path) -> Path:
    """Where the owner of a folder would listen, not always inside it: on macOS paths are long."""
    folder.mkdir(mode=0o700)
    address = address_of(folder)
    private_folder(address.parent, private=True)
    return address


@contextmanager
def impostor(folder: Path, reply: bytes) -> Iterator[None]:
    """Something that listens where an owner would, and says the same to everybody."""
    address = prepared_address(folder)
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()

        def serve(connection: socket.socket) -> None:
            with connection, suppress(ConnectionError):  # of a client that has given up
                connection.recv(65536)
                connection.sendall(reply)

        with answering(listening, serve):
            yield


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack(">I", MOST_ANSWER_BYTES + 1),
        struct.pack(">I", 3) + b"\xff{}",
        message("nothing"),
        message({"neither": 1}),
        message({"error": "a text"}),
        message({"error": {"kind": "StoreError"}}),
    ],
)
def test_answer_of_something_else(tmp_path: Path, reply: bytes) -> None:
    """It is said what answered, and where."""
    with (
        impostor(tmp_path / "qdrant", reply),
        QdrantStore.remote(tmp_path / "qdrant") as store,
        pytest.raises(StoreError, match=r"\.socket gave an answer that is none of warmclip's"),
    ):
        store.list_names()


def test_answer_that_is_torn(tmp_path: Path) -> None:
    """An answer that ends in the middle is none: it is asked again, and not for ever."""
    with (
        impostor(tmp_path / "qdrant", struct.pack(">I", 100) + b"{"),
        QdrantStore.remote(tmp_path / "qdrant", patience_s=0.3) as store,
        pytest.raises(StoreUnreachable),
    ):
        store.list_names()


def test_forked_child_of_the_owner(tmp_path: Path) -> None:
    """It does not answer, and keeps nobody waiting on the socket that it was born with."""
    with owner(tmp_path / "qdrant", "forks") as process:
        child = int(said_by(process))
        with QdrantStore.remote(tmp_path / "qdrant") as store:
            check(store)
        process.kill()
        process.wait()
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(address_of(tmp_path / "qdrant")))
        os.kill(child, signal.SIGKILL)


def test_socket_that_a_killed_owner_left(tmp_path: Path) -> None:
    """The next owner replaces it, and removes it at the end."""
    address = address_of(tmp_path / "qdrant")
    with owner(tmp_path / "qdrant") as process:
        process.kill()
    assert address.is_socket()
    with QdrantStore.embedded(tmp_path / "qdrant"), QdrantStore.remote(tmp_path / "qdrant") as it:
        check(it)
        assert address.stat().st_mode & 0o077 == 0
    assert not address.exists()


def test_long_path(tmp_path: Path) -> None:
    """A folder whose path does not fit into a socket's address is read as well, however it is
    spelt.
    """
    folder = tmp_path.joinpath(*["a-long-name-with spaces" * 4] * 2)
    folder.parent.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    with owner(folder):
        for spelt in (folder, tmp_path / "link"):
            with QdrantStore.remote(spelt.resolve()) as store:
                check(store)
        place = address_of(folder).parent
        assert not place.is_relative_to(tmp_path)
        assert place.stat().st_mode & 0o777 == 0o700
    with QdrantStore.embedded(folder):  # the former owner was killed
        assert place.exists()
    assert not place.exists()


def test_no_socket_can_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The store is of use to its owner all the same, who is told."""
    folder = tmp_path / "qdrant"
    address = prepared_address(folder)
    address.mkdir()
    with QdrantStore.embedded(folder) as store:
        store.ensure_collection("images", SPACE)
        store.upsert("images", [point(1)])
        assert best(store, 1)[0].id == point(1).id
    assert "no socket can be made" in caplog.text
    address.rmdir()


def test_closing_is_not_held_up(tmp_path: Path) -> None:
    """An owner that closes waits for nobody who is connected; the socket's threads end."""
    before = set(threading.enumerate())
    with socket.socket(socket.AF_UNIX) as silent:
        with QdrantStore.embedded(tmp_path / "qdrant"):
            silent.connect(str(address_of(tmp_path / "qdrant")))
        os.close(lock_store(tmp_path / "qdrant"))
    eventually(lambda: not set(threading.enumerate()) - before)


def test_thread_that_ends_before_it_is_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is asked at the moment of closing sees by itself that it shall end; closing goes well."""
    sent: list[int] = []
    send = socket.socket.send

    class Slow(socket.socket):
        """The thread ends between the decision to close and this."""

        def send(self, data: bytes) -> int:  # type: ignore[override]  # it is sent a byte only
            with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
                asking.connect(os.fspath(address))
            eventually(lambda: not listener._thread.is_alive())
            sent.append(send(self, data))
            return 1

    folder = tmp_path / "qdrant"
    folder.mkdir(mode=0o700)
    address = address_of(folder)
    listener = Listener(folder, lambda _: None)
    monkeypatch.setattr(type(address), "unlink", lambda *_, **__: None)  # so that it can be asked
    listener._wake = Slow(fileno=listener._wake.detach())
    listener.close()
    assert sent == [1]
