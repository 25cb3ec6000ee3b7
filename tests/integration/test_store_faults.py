"""Stores that fail: a server that is away, slow or full; a disk that is full; a held folder."""

import base64
import gzip
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from running import start_python
from standins import qdrant as stand_in
from standins.pixels import PixelEncoder
from standins.qdrant import Fault, QdrantStandIn
from warmclip.errors import (
    NotStored,
    SettingsError,
    StoreError,
    StoreHeld,
    StoreUnreachable,
)
from warmclip.indexing.audit import audit_folders
from warmclip.indexing.indexer import Indexer
from warmclip.settings import Settings
from warmclip.store import bounded_transport
from warmclip.store.filter import Filter
from warmclip.store.open import open_store
from warmclip.store.protocol import Space, collection_of
from warmclip.store.qdrant import QdrantStore
from warmclip.store.question import current_budget, question
from warmclip.work.horse.context import open_context
from warmclip.work.jobs import index_images, search_many

pytestmark = pytest.mark.quick

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
    "no JSON": Fault(text="<html>a proxy</html>"),
    "cut off": Fault(cut=True),
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


def test_retries_are_counted(server: QdrantStandIn) -> None:
    """Each request that is repeated is told, for metrics; one that is not is not."""
    told: list[None] = []
    server.fail(Fault(status=503), times=2)
    with QdrantStore.server(server.url, on_retry=lambda: told.append(None)) as store:
        store.list_names()
        store.list_names()
    assert len(told) == 2


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


def test_switch_of_a_name(server: QdrantStandIn) -> None:
    """It is one request, before and after which the name leads somewhere: no search fails."""
    other = Space(fingerprint="fe" * 32, dim=SPACE.dim)
    with impatient(server.url) as store:
        store.ensure_collection("images", SPACE)
        store.create_collection("images", other)
        server.requests.clear()
        store.switch_alias("images", other.fingerprint)
        changes = {what: n for what, n in server.requests.items() if not what.startswith("GET")}
        assert changes == {"POST /collections/aliases": 1}
        (generation, *_) = store.list_generations("images")
        assert (generation.fingerprint, generation.in_use) == (other.fingerprint, True)


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
    "no JSON": (Fault(text="<html>a proxy</html>"), "no answer.*JSON"),
    "cut off": (Fault(cut=True), "no answer"),
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


# The last five would last for a minute, or without end, which is the patience of other work.
QUESTIONED = {
    "500": (Fault(status=500), "keeps answering 500.*its disk"),
    "429 with Retry-After": (Fault(status=429, headers={"Retry-After": "30"}), "overloaded"),
    "no JSON": (Fault(text="<html>a proxy</html>"), "no answer.*JSON.*QDRANT_URL"),
    "cut off": (Fault(cut=True), "no answer.*start it.*load.*QDRANT_URL"),
    "reset": (Fault(reset=True), "no answer.*QDRANT_URL"),
    "slow": (Fault(delay_s=40.0), "no answer.*timed out.*load"),
    "a byte now and then": (
        Fault(drip=b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"),
        "no answer.*timed out.*load",
    ),
    "the same in its head": (Fault(drip=b"HTTP/1.1 200 OK\r\nA: "), "no answer.*timed out.*load"),
}
_NEVER_S = 25.0  # less than any of these waited for before there were budgets


@pytest.mark.parametrize(("fault", "said"), QUESTIONED.values(), ids=QUESTIONED)
def test_question_in_an_outage(server: QdrantStandIn, fault: Fault, said: str) -> None:
    """It ends soon, in a sentence, also with a server that has answered before."""
    with QdrantStore.server(server.url) as store:
        store.ensure_collection("images", SPACE)
        server.fail(fault, times=500)
        began = time.monotonic()
        with question(4.0), pytest.raises(StoreUnreachable, match=said) as caught:
            store.count_points("images")
        assert time.monotonic() - began < _NEVER_S
        assert server.url in str(caught.value)
        assert caught.value.exit_code == 3


def test_budget_of_a_question(server: QdrantStandIn) -> None:
    """All its requests share one; the next question has its own, and so has what is none."""
    with QdrantStore.server(server.url) as store:
        store.ensure_collection("images", SPACE)
        server.fail(Fault(delay_s=0.6), on="GET /aliases")
        server.fail(Fault(delay_s=40.0), on="/points/count")
        with question(5.0):
            store.list_names()
            with question(60.0), pytest.raises(StoreUnreachable, match="no answer"):
                store.count_points("images")
            server.requests.clear()
            with pytest.raises(StoreUnreachable, match=r"too slowly: a question has 5 s.*load"):
                store.list_names()
            assert server.requests.total() == 0
        with question(60.0):
            assert store.count_points("images") == 0
        server.fail(Fault(delay_s=1.1), on="GET /aliases")
        assert store.list_names() == ("images",)


def test_time_that_is_not_the_servers(server: QdrantStandIn) -> None:
    """A model that computes for long, or a lengthy pause, costs nothing of the budget."""
    with QdrantStore.server(server.url) as store, question(30.0):
        budget = current_budget()
        assert budget is not None
        store.list_names()
        spent_s = budget.spent_s
        time.sleep(0.05)
        assert budget.spent_s == spent_s > 0


def test_questions_of_several_threads() -> None:
    """One thread's question is no matter of another one's work."""
    with question(1.0), ThreadPoolExecutor(1) as pool:
        assert current_budget() is not None
        assert pool.submit(current_budget).result() is None


def test_searches_of_one_job(
    server: QdrantStandIn, photos: Path, tmp_path: Path, demo_bundle: Path
) -> None:
    """An outage is found by one of them, and is the answer to those that follow."""
    environment = {"WARMCLIP_HOME": str(tmp_path / "home"), "QDRANT_URL": server.url}
    settings = replace(Settings.from_env(environment), bundle=demo_bundle)
    with open_context(settings):
        index_images([str(path) for path in sorted(photos.iterdir())[:3]], "images")
        asked = [{"collection": name, "text": "red"} for name in ("none", *["images"] * 20)]
        found = search_many(asked[:2])["answers"]
        assert (found[0]["error"], len(found[1]["hits"])) == ("NotStored", 3)
        server.fail(Fault(status=500), on="/points/query", times=1000)
        server.requests.clear()
        first, *rest = search_many(asked)["answers"]
        assert first["error"] == "NotStored"
        assert [it["error"] for it in rest] == ["StoreUnreachable"] * 20
        assert 1 <= server.requests["POST /collections/*/points/query"] < 20


def test_answer_in_json_of_another_program(server: QdrantStandIn) -> None:
    """It is said at once: to ask again would not help."""
    with impatient(server.url) as store:
        server.fail(Fault(text='{"hello": "world"}'), times=9)
        with pytest.raises(StoreError, match="not Qdrant's; check QDRANT_URL") as caught:
            store.list_names()
    assert not isinstance(caught.value, StoreUnreachable)
    assert server.faults_to_come == 8


@pytest.mark.parametrize(
    "fault",
    [
        Fault(text=" " * 5000),
        Fault(coded=gzip.compress(b" " * 5000)),
        Fault(coded=gzip.compress(gzip.compress(b" " * 5000)), coding="gzip, gzip"),
    ],
    ids=["", "gzip", "gzip twice"],
)
def test_answer_without_end(
    server: QdrantStandIn, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read no further than any answer of Qdrant is long, and not asked for again."""
    monkeypatch.setattr(bounded_transport, "LARGEST_ANSWER_BYTES", 4000)
    with impatient(server.url) as store:
        server.fail(fault, times=9)
        with pytest.raises(StoreError, match="not Qdrant's; check QDRANT_URL"):
            store.list_names()
        assert server.faults_to_come == 8
        server.clear_faults()
        assert store.list_names() == ()


def test_answer_nested_too_deeply(server: QdrantStandIn) -> None:
    """It is another program's, as what is no JSON at all: asked for again, as that may go."""
    with impatient(server.url) as store:
        server.fail(Fault(text="[" * 10**6), times=9)
        with pytest.raises(StoreUnreachable, match="that is JSON: another program answers"):
            store.list_names()
        assert server.faults_to_come < 8
        server.clear_faults()
        server.fail(Fault(text="[" * 10**6))
        assert store.list_names() == ()


def test_compressed_answer(server: QdrantStandIn) -> None:
    """A server, or a proxy before it, may compress what it sends."""
    with impatient(server.url) as store:
        content = b'{"result": {"aliases": []}, "status": "ok", "time": 0.0}'
        server.fail(Fault(coded=gzip.compress(content)))
        assert store.list_names() == ()
        assert server.faults_to_come == 0


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


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize(
    "bounds",
    [
        {"max_query_limit": 10},
        {"upsert_max_batchsize": 3},
        {"filter_max_conditions": 4},
        {"condition_max_size": 5},
        {
            "max_query_limit": 7,
            "upsert_max_batchsize": 1,
            "filter_max_conditions": 4,
            "condition_max_size": 1,
        },
    ],
    ids=",".join,
)
def test_strict_mode(
    server: QdrantStandIn, photos: Path, bounds: dict[str, int], status: int
) -> None:
    """A server's bounds are found by halving: indexing, auditing, pruning and searching by folder
    work, and no request is refused twice for the same reason more often than halving needs.
    """
    server.engine.strict_mode = stand_in.StrictMode(status=status, **bounds)
    with impatient(server.url) as store:
        indexer = Indexer(PixelEncoder(), store)
        assert indexer.index([photos]).indexed == 100
        assert indexer.index([photos]).unchanged == 100
        assert len(audit_folders(store, "images", [photos]).missing) == 0
        assert len(indexer.search("red", limit=5, only=Filter(folder=str(photos)))) == 5
        points = list(store.scroll("images", with_vectors=True))
        assert len(points) == 100
        store.mark_verified("images", points)
        server.requests.clear()
        assert store.delete_unchanged("images", points[:60]) == frozenset()
        assert server.requests["POST /collections/*/points/delete"] <= 60 + 8
        assert len(list(store.scroll("images"))) == 40


def test_more_hits_than_the_server_allows(server: QdrantStandIn, photos: Path) -> None:
    """The server's own words say how many may be asked for."""
    with impatient(server.url) as store:
        indexer = Indexer(PixelEncoder(), store)
        indexer.index([photos])
        server.engine.strict_mode = stand_in.StrictMode(max_query_limit=10)
        with pytest.raises(StoreError, match="to or below 10"):
            indexer.search("red", limit=11)


def test_key_that_may_only_read(server: QdrantStandIn, photos: Path) -> None:
    """It searches, by folder too, and audits; indexing says what the key lacks."""
    with impatient(server.url) as store:
        Indexer(PixelEncoder(), store).index([photos])
    server.engine.read_only = True
    with impatient(server.url) as store:
        indexer = Indexer(PixelEncoder(), store)
        assert len(indexer.search("red", limit=5, only=Filter(folder=str(photos)))) == 5
        assert audit_folders(store, "images", [photos]).points == 100
        store.list_names()
        store.revision("images")
        (photos / "000.png").touch()
        with pytest.raises(StoreError, match="may only read can search"):
            indexer.index([photos])


def test_key_for_some_collections(server: QdrantStandIn) -> None:
    """It sees no alias at all, so the name leads nowhere: the key is named as what may lack."""
    with impatient(server.url) as store:
        store.ensure_collection("images", SPACE)
    server.engine.hides_aliases = True
    with (
        QdrantStore.server(server.url, "a-key", first_patience_s=1) as store,
        pytest.raises(NotStored, match="QDRANT_API_KEY"),
    ):
        list(store.scroll("others"))


def test_alias_to_a_collection_that_is_gone(server: QdrantStandIn, photos: Path) -> None:
    """A search names it, and the command that mends it; that command does."""
    with impatient(server.url) as store:
        indexer = Indexer(PixelEncoder(), store)
        indexer.index([photos])
        aliases = dict(server.engine._aliases)
        server.engine.drop(aliases["images"])
        server.engine._aliases = aliases
        with pytest.raises(NotStored, match="warmclip index"):
            indexer.search("red")
        assert indexer.index([photos]).indexed == 100
        assert len(indexer.search("red", limit=5)) == 5


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ({"size": 3, "distance": "Cosine"}, "one vector of 3 numbers, Cosine"),
    ],
)
def test_collection_of_another_make(
    server: QdrantStandIn, vectors: dict[str, object], said: str
) -> None:
    """A collection of our name that has other vectors is refused with the difference."""
    collection = collection_of("images", SPACE.fingerprint)
    server.engine.create(collection, {"vectors": vectors})
    with (
        impatient(server.url) as store,
        pytest.raises(StoreError, match=f"{said}.*one vector of {SPACE.dim} numbers"),
    ):
        store.ensure_collection("images", SPACE)


def test_how_collections_are_made(server: QdrantStandIn, tmp_path: Path) -> None:
    """It is said once, in Qdrant's words, and shown as the server has it."""
    options = {
        "replication_factor": 2,
        "write_consistency_factor": 1,
        "shard_number": 3,
        "on_disk": True,
        "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
    }
    environment = {
        "WARMCLIP_HOME": str(tmp_path / "home"),
        "QDRANT_URL": server.url,
        "WARMCLIP_QDRANT_COLLECTION": json.dumps(options),
    }
    with open_store(Settings.from_env(environment)) as store:
        store.ensure_collection("images", SPACE)
        params = store.describe("images")["config"]["params"]
        assert params["replication_factor"] == 2
        assert params["shard_number"] == 3
        assert params["vectors"]["on_disk"] is True
        store.search("images", SPACE, np.eye(SPACE.dim, dtype=np.float32)[0], limit=1)
    (made,) = server.engine._configs.values()
    assert made["quantization_config"] == options["quantization_config"]
    assert server.last_query["params"] == {"quantization": {"rescore": True}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON object"),
        ("[1]", "no JSON object"),
        ('{"replicas": 2}', "'replicas' is none of"),
        ('{"replication_factor": "two"}', "replication_factor"),
        ('{"quantization_config": {"scalar": {"type": "int3"}}}', "quantization_config"),
    ],
)
def test_options_that_qdrant_does_not_know(text: str, said: str) -> None:
    """They are refused before anything is sent, with the variable's name."""
    settings = Settings.from_env(
        {"QDRANT_URL": "http://127.0.0.1:1", "WARMCLIP_QDRANT_COLLECTION": text}
    )
    with pytest.raises(SettingsError, match=f"WARMCLIP_QDRANT_COLLECTION.*{said}"):
        open_store(settings)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://qdrant.example:6333", True),
        ("http://10.0.0.1:6333", True),
        ("https://qdrant.example:6333", False),
        ("http://localhost:6333", False),
        ("http://127.0.0.1:6333", False),
        ("http://[::1]:6333", False),
    ],
)
def test_key_without_encryption(url: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, in our words, where somebody may listen."""
    QdrantStore.server(url, "a-key").close()
    told = [it.getMessage() for it in caplog.records]
    assert len(told) == warned
    assert all("without encryption" in it and "a-key" not in it for it in told)


_HOLD = """
import sys
from pathlib import Path
from warmclip.store.qdrant import QdrantStore

store = QdrantStore.embedded(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_held_by_another_process(tmp_path: Path) -> None:
    """It is refused at once, naming the process and the way out; a killed holder holds nothing."""
    folder = tmp_path / "qdrant"
    with start_python(_HOLD, folder) as child:
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
    """It is refused before anything in it is read: others could have put anything there."""
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
