"""Stores that fail: a server that is away, slow or full; a disk that is full; a held folder."""

import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from standins import qdrant as stand_in
from standins.pixels import PixelEncoder
from standins.qdrant import Fault, QdrantStandIn
from warmclip.errors import SettingsError, StoreError, StoreHeld, StoreUnreachable
from warmclip.indexing.indexer import Indexer
from warmclip.settings import Settings
from warmclip.store.open import open_store
from warmclip.store.qdrant import QdrantStore

SPACE = PixelEncoder().space


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantStandIn]:
    """A stand-in that behaves until it is told otherwise."""
    with stand_in.serve(tmp_path / "server") as server:
        yield server


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """100 pictures, each with its own content."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(100):
        tiles = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(tiles).save(folder / f"{number:03}.png")
    return folder


@contextmanager
def impatient(url: str) -> Iterator[QdrantStore]:
    """A store that waits a second for an answer, and gives up after a few."""
    with QdrantStore.server(url, timeout_s=1, patience_s=8, first_patience_s=1) as store:
        yield store


SURVIVED = {
    "429 with Retry-After": Fault(status=429, headers={"Retry-After": "1"}),
    "429": Fault(status=429),
    "500": Fault(status=500),
    "503": Fault(status=503),
    "reset": Fault(reset=True),
    "reset after the work was done": Fault(reset=True, done_before=True),
    "slower than the timeout": Fault(delay_s=1.5),
}


@pytest.mark.parametrize("fault", SURVIVED.values(), ids=SURVIVED)
def test_fault_that_passes(server: QdrantStandIn, photos: Path, fault: Fault) -> None:
    """Indexing survives it wherever it strikes; nothing is lost or doubled."""
    with impatient(server.url) as store:
        store.ensure_collection("other", SPACE)  # the server has answered once
        for on in ("PUT /collections", "POST /collections/aliases", "/points/scroll"):
            server.fail(fault, on=on)
        server.fail(fault, on="/points", times=2)
        encoder = PixelEncoder()
        indexer = Indexer(encoder, store)
        assert indexer.index([photos]).indexed == 100
        server.fail(fault, on="/points/query")
        assert len(indexer.search("red", limit=200)) == 100
        assert server.faults_to_come == 0
        stored = sorted(point.payload.path for point in store.scroll("images"))
    assert stored == sorted(os.path.realpath(path) for path in photos.iterdir())


def test_retry_after(server: QdrantStandIn) -> None:
    """The server's own pace is kept: no second request before its seconds have passed."""
    with impatient(server.url) as store:
        store.ensure_collection("images", SPACE)
        server.fail(Fault(status=429, headers={"Retry-After": "2"}), on="GET /aliases")
        server.requests.clear()
        started = time.monotonic()
        store.ensure_collection("images", SPACE)
        assert time.monotonic() - started >= 2  # not a speed, but the promise itself
        assert server.requests["GET /aliases"] == 3  # refused, repeated, asked again by ensure


def test_waiting_is_told(server: QdrantStandIn, caplog: pytest.LogCaptureFixture) -> None:
    """A person who watches a still progress bar can read why."""
    with impatient(server.url) as store:
        server.fail(Fault(status=503))
        store.ensure_collection("images", SPACE)
    told = [record.getMessage() for record in caplog.records if "warmclip" in record.name]
    assert told == [f"Qdrant at {server.url}: answers 503; trying again"]


def test_retry_after_longer_than_patience(server: QdrantStandIn) -> None:
    """It is not waited for."""
    with impatient(server.url) as store:
        server.fail(Fault(status=429, headers={"Retry-After": "3600"}))
        with pytest.raises(StoreUnreachable, match="overloaded"):
            store.ensure_collection("images", SPACE)
        assert server.requests.total() == 1


UNENDING = {
    "503": (Fault(status=503), "503"),
    "429": (Fault(status=429), "429"),
    "reset": (Fault(reset=True), "no answer"),
    "slow": (Fault(delay_s=1.2), "no answer"),
}


@pytest.mark.parametrize(("fault", "said"), UNENDING.values(), ids=UNENDING)
def test_fault_that_does_not_pass(server: QdrantStandIn, fault: Fault, said: str) -> None:
    """After the deadline it ends in one sentence with the address, and exit code 3."""
    with impatient(server.url) as store:
        server.fail(fault, times=500)
        with pytest.raises(StoreUnreachable, match=said) as caught:
            store.ensure_collection("images", SPACE)
        assert 1 <= server.requests.total() < 100  # repeated, and not for ever
        assert server.url in str(caught.value)
        assert caught.value.exit_code == 3


def test_server_away() -> None:
    """It is said soon, without the password, and with what to do."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with (
        impatient(f"http://me:secret@127.0.0.1:{port}") as store,
        pytest.raises(StoreUnreachable, match="no answer") as caught,
    ):
        store.ensure_collection("images", SPACE)
    message = str(caught.value)
    assert "secret" not in message
    assert f"***@127.0.0.1:{port}" in message
    assert "QDRANT_URL" in message


def test_server_restarted(tmp_path: Path, photos: Path) -> None:
    """One that comes back within patience is waited for, once it was there."""
    engine = stand_in.Engine(tmp_path / "server")
    first = QdrantStandIn(engine)
    port = int(first.url.rpartition(":")[2])
    with impatient(first.url) as store:
        store.ensure_collection("images", SPACE)
        first.close()
        later: list[QdrantStandIn] = []
        timer = threading.Timer(2, lambda: later.append(QdrantStandIn(engine, port)))
        timer.start()
        try:
            assert Indexer(PixelEncoder(), store).index([photos]).indexed == 100
        finally:
            timer.join()
            later[0].close()
            engine.close()


@pytest.mark.parametrize(
    ("status", "said"), [(400, "injected 400"), (401, "QDRANT_API_KEY"), (403, "QDRANT_API_KEY")]
)
def test_request_refused(server: QdrantStandIn, status: int, said: str) -> None:
    """The server's reason is passed on at once; asking again would not help."""
    with impatient(server.url) as store:
        store.ensure_collection("images", SPACE)
        server.requests.clear()
        server.fail(Fault(status=status), times=9, on="GET /aliases")
        with pytest.raises(StoreError, match=said) as caught:
            store.ensure_collection("images", SPACE)
    assert not isinstance(caught.value, StoreUnreachable)
    assert server.requests["GET /aliases"] == 1


def test_collection_of_somebody_else(server: QdrantStandIn) -> None:
    """A name that is taken is refused, and left as it is."""
    with impatient(server.url) as store:
        server.engine.create("images", {"vectors": {"size": 4, "distance": "Cosine"}})
        with pytest.raises(StoreError, match="did not make"):
            store.ensure_collection("images", SPACE)


def test_collection_made_by_two_at_once(server: QdrantStandIn) -> None:
    """Both go on, with the same collection."""
    failures: list[BaseException] = []

    def ensure() -> None:
        try:
            with QdrantStore.server(server.url) as store:
                store.ensure_collection("images", SPACE)
        except StoreError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=ensure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(server.engine.list_collections()["collections"]) == 1


def test_credentials(server: QdrantStandIn) -> None:
    """User and password in the address are sent as basic authentication."""
    with impatient(server.url.replace("//", "//me:p%40ss@")) as store:
        store.ensure_collection("images", SPACE)
    basic = "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert server.credentials == {(basic, None)}


def test_store_of_the_settings(server: QdrantStandIn, tmp_path: Path) -> None:
    """QDRANT_URL leads to the server; without it there is a private folder under home."""
    environment = {"WARMCLIP_HOME": str(tmp_path / "home")}
    with open_store(Settings.from_env(environment | {"QDRANT_URL": server.url})) as store:
        store.ensure_collection("images", SPACE)
    assert server.requests["GET /aliases"] > 0
    with open_store(Settings.from_env(environment)) as store:
        store.ensure_collection("images", SPACE)
    folder = tmp_path / "home" / "qdrant"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700


_HOLD = """
import sys
from pathlib import Path
from warmclip.store.qdrant import QdrantStore

store = QdrantStore.embedded(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""

_FILL_THE_DISK = """
import resource
import sys
from pathlib import Path
from standins.pixels import PixelEncoder
from warmclip.errors import StoreError
from warmclip.indexing.indexer import Indexer
from warmclip.store.qdrant import QdrantStore

store = QdrantStore.embedded(Path(sys.argv[1]))
store.ensure_collection("images", PixelEncoder().space)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Indexer(PixelEncoder(), store).index([sys.argv[2]])
except StoreError as exc:
    print(exc)
    sys.exit(7)
"""


def python(program: str, *arguments: Path) -> "subprocess.Popen[str]":
    """Start a program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_held_by_another_process(tmp_path: Path) -> None:
    """It is refused at once, naming the process and the way out; a killed holder holds nothing."""
    folder = tmp_path / "qdrant"
    with python(_HOLD, folder) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(StoreHeld, match=f"process {child.pid}.*QDRANT_URL"):
            QdrantStore.embedded(folder)
        child.send_signal(signal.SIGKILL)
        child.wait()
        QdrantStore.embedded(folder).close()


def test_opened_again_in_one_process(tmp_path: Path) -> None:
    """It is refused while open, and possible after close, which may be called twice."""
    store = QdrantStore.embedded(tmp_path / "qdrant")
    with pytest.raises(StoreHeld):
        QdrantStore.embedded(tmp_path / "qdrant")
    store.close()
    store.close()
    QdrantStore.embedded(tmp_path / "qdrant").close()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o755])
def test_folder_open_to_others(tmp_path: Path, mode: int) -> None:
    """It is refused before anything in it is read: points are pickled."""
    folder = tmp_path / "qdrant"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(SettingsError, match="chmod 700"):
        QdrantStore.embedded(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user(tmp_path: Path) -> None:
    """It is refused."""
    folder = tmp_path / "qdrant"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(SettingsError, match="12345"):
        QdrantStore.embedded(folder)


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    """A file in its place is told as what it is."""
    (tmp_path / "qdrant").write_text("no folder")
    with pytest.raises(SettingsError, match="qdrant"):
        QdrantStore.embedded(tmp_path / "qdrant")


def test_damaged_store(tmp_path: Path) -> None:
    """It is refused with the store's folder, and not taken for an empty one."""
    folder = tmp_path / "qdrant"
    with QdrantStore.embedded(folder) as store:
        store.ensure_collection("images", SPACE)
    (folder / "meta.json").write_text('{"collections": {')
    with pytest.raises(StoreError, match=str(folder)):
        QdrantStore.embedded(folder)


def test_disk_full(tmp_path: Path, photos: Path) -> None:
    """The command fails with one sentence; what it had stored is whole; a rerun completes it."""
    folder = tmp_path / "qdrant"
    with python(_FILL_THE_DISK, folder, photos) as child:
        said, _ = child.communicate()
    assert child.returncode == 7, said
    assert "free space" in said
    assert str(folder) in said
    encoder = PixelEncoder()
    with QdrantStore.embedded(folder) as store:
        before = list(store.scroll("images", with_vectors=True))
        assert 0 < len(before) < 100
        for point in before:
            alone = encoder.encode_images([point.payload.path])[0]
            assert point.vector is not None
            np.testing.assert_allclose(point.vector, alone, atol=1e-6)
        report = Indexer(encoder, store).index([photos])
        assert report.unchanged == len(before)
        assert report.indexed == 100 - len(before)
        assert len(list(store.scroll("images"))) == 100


def test_several_threads(tmp_path: Path, photos: Path) -> None:
    """Four writers into one embedded store lose nothing."""
    paths = sorted(photos.iterdir())
    failures: list[BaseException] = []
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        store.ensure_collection("images", SPACE)

        def write(quarter: int) -> None:
            try:
                Indexer(PixelEncoder(), store).index(paths[quarter::4])
            except StoreError as exc:
                failures.append(exc)

        threads = [threading.Thread(target=write, args=(quarter,)) for quarter in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(list(store.scroll("images"))) == 100
    with QdrantStore.embedded(tmp_path / "qdrant") as store:
        assert len(list(store.scroll("images"))) == 100
        assert len({uuid.UUID(point.id) for point in store.scroll("images")}) == 100
