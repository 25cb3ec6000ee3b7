"""The HTTP API from end to end: a real server, a real worker, a private Redis, the demo model."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from running import PATIENCE_S, Running, environment_of, eventually, running_worker
from serving import Served, running_server
from warmclip.inference.encoder import Encoder
from warmclip.settings import Settings
from warmclip.work.counters import CounterBuffer
from warmclip.work.metrics_port import read_worker_metrics
from warmclip_export.drawing import write_gallery

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary", "worker")]

HEAVY = ("onnxruntime", "numpy", "PIL", "torch", "qdrant_client", "tokenizers")
DEPLOY = Path(__file__).parents[2] / "deploy"
PROC = Path("/proc")
OLDER = "older"
NEW_YEAR_S = 978_307_200  # 2001
NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes that the demo model was not trained on, one bad file, a note, two links."""
    folder = tmp_path_factory.mktemp("pictures")
    write_gallery(folder, 60, 4)
    (folder / OLDER).mkdir()
    for path in sorted(folder.glob("*.png"))[:9]:
        os.utime(path, (0, NEW_YEAR_S))
        path.rename(folder / OLDER / path.name)
    (folder / "link").symlink_to(OLDER)
    (folder / "out").symlink_to("/etc")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path, pictures: Path
) -> dict[str, str]:
    """What server and worker are told."""
    home = tmp_path_factory.mktemp("serve") / "home"
    return environment_of(home, demo_bundle, WARMCLIP_ROOTS=str(pictures))


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[Served]:
    """A server without a token."""
    with running_server(environment) as served:
        yield served


@pytest.fixture(scope="module")
def worker(served: Served, environment: dict[str, str], pictures: Path) -> Iterator[Running]:
    """A worker of it, after one session."""
    session = served.begin(pictures)
    with running_worker(Settings.from_env(environment), environment) as worker:
        served.wait(session)
        yield worker


def test_folder_is_trained_on(served: Served, pictures: Path) -> None:
    """The session tells what became of every picture, and why one was skipped."""
    (session,) = served.get("/api/v1/training/sessions")["sessions"]
    assert session["training_directory"] == str(pictures)
    assert (session["images"], session["done"], session["indexed"]) == (61, 61, 60)
    assert (session["skipped"], session["state"]) == (1, "finished")
    assert session["ignored"] == {"linked": 2, ".txt": 1}
    assert session["ended_at"] >= session["created_at"]
    detailed = served.get(f"/api/v1/training/sessions/{session['id']}")
    (failure,) = detailed["failures"]
    assert failure["path"] == str(pictures / "broken.jpg")
    assert "is no picture" in failure["reason"]
    listed = served.get(f"/api/v1/training/sessions/{session['id']}/failures")
    assert listed["skipped"] == detailed["failures"]


@pytest.mark.parametrize(
    ("exclude", "told"),
    [
        (["a["], "without its ]"),
        ([""], "exclude"),
        (["x" * 501], "exclude"),
        (["x"] * 101, "exclude"),
        ("x", "exclude"),
    ],
)
def test_patterns_that_are_refused(
    served: Served, pictures: Path, exclude: object, told: str
) -> None:
    """Bounded in number and length, and never taken for nothing."""
    body = {"training_directory": str(pictures), "exclude": exclude}
    answer = served.client.post("/api/v1/training/sessions", json=body)
    assert answer.status_code == 422
    assert told in answer.text


def test_search_by_words(served: Served) -> None:
    """The first hits fit the words, and pages follow each other."""
    query = "/api/v1/search?q=a+large+green+star"
    found = served.get(f"{query}&limit=4")["hits"]
    assert {"green", "star"} <= set(Path(found[0]["path"]).stem.split("-"))
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)
    assert served.get(f"{query}&limit=2&offset=2")["hits"] == found[2:]


def test_search_by_several_terms(served: Served, pictures: Path) -> None:
    """What is subtracted falls behind, named pictures are left out, filters and pages are kept."""
    first, *_, last = served.get("/api/v1/search?q=a+star&limit=60")["hits"]
    only = {"folder": f"{pictures}/{OLDER}", "since": "2001-01-01", "until": "2001-01-01"}

    def found(terms: list[dict[str, object]], **options: object) -> list[str]:
        answer = served.client.post("/api/v1/search", json={"terms": terms, **options})
        assert answer.status_code == 200, answer.text
        assert answer.json()["cut"] is False
        return [hit["id"] for hit in answer.json()["hits"]]

    star: dict[str, object] = {"text": "a star"}
    assert found([star], limit=1) == [first["id"]]
    nearest = found([{"like": last["id"]}, {"text": "a star", "weight": -9}], limit=60)
    assert nearest[-1] == first["id"]
    assert last["id"] not in nearest
    assert len(nearest) == 59
    assert len(found([star], limit=60, **only)) == 9
    assert found([star], limit=2, offset=1) == found([star], limit=3)[1:]
    least = (first["score"] + last["score"]) / 2
    assert 0 < len(found([star], limit=60, min_score=least)) < 60
    passing = served.get(f"/api/v1/search?q=a+star&limit=60&min_score={least}")["hits"]
    assert [hit["id"] for hit in passing] == found([star], limit=60, min_score=least)


def test_text_that_is_longer_than_the_model_reads(served: Served) -> None:
    """The answer says that its end did not count."""
    assert served.get(f"/api/v1/search?q={'star+' * 100}")["cut"] is True
    assert served.get("/api/v1/search?q=star")["cut"] is False


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "terms"),
        ({"terms": []}, "terms"),
        ({"terms": [{"text": "a"}] * 33}, "terms"),
        ({"terms": [{}]}, "exactly one"),
        ({"terms": [{"text": " "}]}, "text"),
        ({"terms": [{"text": "a" * 2001}]}, "text"),
        ({"terms": [{"image": "/etc/passwd"}]}, "image"),
        ({"terms": [{"like": "x"}]}, "like"),
        ({"terms": [{"text": "a", "weight": 0}]}, "the weight"),
        ({"terms": [{"text": "a", "weight": 1001}]}, "weight"),
        ({"terms": [{"text": "a"}, {"text": "a", "weight": -1}]}, "cancel each other out"),
        ({"terms": [{"text": "a"}], "min_score": 2}, "min_score"),
        ({"terms": [{"text": "a"}], "limit": True}, "limit"),
        ({"terms": [{"text": "a"}], "since": "2026-11-25", "until": "2026-11-24"}, "is after"),
    ],
)
def test_terms_that_are_refused(served: Served, body: dict[str, object], told: str) -> None:
    """With the reason, before or by the worker."""
    answer = served.client.post("/api/v1/search", json=body)
    assert answer.status_code == 422, answer.text
    assert told in answer.text


@pytest.mark.parametrize("field", ['"weight": NaN', '"weight": Infinity', '"weight": 1e999'])
def test_weight_that_is_no_number(served: Served, field: str) -> None:
    """JSON as Python writes it has them."""
    answer = served.client.post(
        "/api/v1/search",
        content=f'{{"terms": [{{"text": "a", {field}}}]}}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    assert "weight" in answer.text


def test_search_in_a_folder_and_by_date(served: Served, pictures: Path) -> None:
    """Each way of searching finds only what passes, and as many as were asked for."""
    nearest = served.get("/api/v1/search?q=red&limit=60")["hits"]
    inside = [hit["path"] for hit in nearest if hit["path"].startswith(f"{pictures}/{OLDER}/")]
    assert len(inside) == 9
    id_ = nearest[-1]["id"]
    picture = Path(nearest[0]["path"]).read_bytes()
    filters: tuple[tuple[dict[str, str], list[str]], ...] = (
        ({"folder": f"{pictures}/{OLDER}"}, inside),
        ({"folder": f"{pictures}/link/"}, inside),
        ({"folder": str(pictures), "until": "2001-01-01"}, inside),
        ({"since": "2001-01-01", "until": "2001-01-01"}, inside),
        ({"since": "2001-01-02", "folder": f"{pictures}/{OLDER}"}, []),
        ({"folder": f"{pictures}/{OLDER[:-1]}"}, []),
    )
    for only, passing in filters:
        by_words = served.client.get("/api/v1/search", params={"q": "red", "limit": 60, **only})
        by_picture = served.client.post(
            "/api/v1/search/image", files={"file": picture}, data={"limit": "60", **only}
        )
        similar = served.client.get(f"/api/v1/points/{id_}/similar", params={"limit": 60, **only})
        for answer in (by_words, by_picture, similar):
            assert {hit["path"] for hit in answer.json()["hits"]} == set(passing), answer.url
    page = served.get(f"/api/v1/search?q=red&limit=3&offset=2&folder={pictures}/{OLDER}")["hits"]
    assert [hit["path"] for hit in page] == inside[2:5]


@pytest.mark.parametrize(
    ("only", "status", "told"),
    [
        ({"folder": "/etc"}, 403, "outside the roots"),
        ({"folder": "{pictures}/../nowhere"}, 403, "outside the roots"),
        ({"folder": "{pictures}/out"}, 403, "outside the roots"),
        ({"folder": "older"}, 422, "no absolute path"),
        ({"folder": ""}, 422, "query.folder"),
        ({"since": "2026-11-31"}, 422, "query.since"),
        ({"since": "0"}, 422, "write a day as 2026-11-25"),
        ({"until": "2026-11-25T00:00:00"}, 422, "write a day as 2026-11-25"),
        ({"since": "2026-11-25", "until": "2026-11-24"}, 422, "is after"),
    ],
)
def test_filter_that_does_not_fit(
    served: Served, pictures: Path, only: dict[str, str], status: int, told: str
) -> None:
    """It is refused with the reason, and never passed by."""
    asked = {name: value.format(pictures=pictures) for name, value in only.items()}
    answer = served.client.get("/api/v1/search", params={"q": "red", **asked})
    assert answer.status_code == status
    assert told in answer.json()["detail"]


def test_search_by_a_picture_that_is_sent(served: Served, pictures: Path) -> None:
    """A picture that is indexed finds itself first, and nothing of what was sent is kept."""
    path = next(pictures.glob("*.png"))
    answer = served.client.post(
        "/api/v1/search/image", files={"file": path.read_bytes()}, data={"limit": "3"}
    )
    hits = answer.json()["hits"]
    assert len(hits) == 3
    assert hits[0]["path"] == str(path)
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)


def test_many_search_at_once(served: Served) -> None:
    """Fifty searches wait for one worker, and all are answered; readiness does not wait."""
    with ThreadPoolExecutor(51) as pool:
        found = [
            pool.submit(served.client.get, "/api/v1/search", params={"q": f"{number} stars"})
            for number in range(50)
        ]
        assert pool.submit(served.client.get, "/readyz").result().status_code == 200
        assert {each.result().status_code for each in found} == {200}


def test_similar_to_a_stored_picture(served: Served) -> None:
    """Its nearest neighbours are found without itself, as many as are asked for, page by page."""
    hit = served.get("/api/v1/search?q=red&limit=1")["hits"][0]

    def similar(limit: int, offset: int = 0) -> list[str]:
        path = f"/api/v1/points/{hit['id']}/similar?limit={limit}&offset={offset}"
        return [it["id"] for it in served.get(path)["hits"]]

    others = similar(60)
    assert len(others) == 59
    assert hit["id"] not in others
    assert similar(5) == others[:5]
    assert similar(5, offset=5) == others[5:10]


def test_thumbnail(served: Served, environment: dict[str, str]) -> None:
    """A hit's thumbnail is small, and is not sent again to whoever has it."""
    hit = served.get("/api/v1/search?q=red&limit=1")["hits"][0]
    answer = served.client.get(hit["thumbnail"], params={"side_px": 64})
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(BytesIO(answer.content)).size == (64, 64)
    again = served.client.get(
        hit["thumbnail"], params={"side_px": 64}, headers={"If-None-Match": answer.headers["ETag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    larger = served.client.get(
        hit["thumbnail"], params={"side_px": 65}, headers={"If-None-Match": answer.headers["ETag"]}
    )
    assert larger.status_code == 200
    kept = Path(environment["WARMCLIP_HOME"]) / "thumbnails"
    assert {path.name for path in kept.iterdir()} >= {answer.headers["ETag"].strip('"')}
    repeated = served.client.get(hit["thumbnail"], params={"side_px": 64})
    assert repeated.content == answer.content


def test_original(served: Served, pictures: Path) -> None:
    """A hit's file is sent byte by byte, to be saved under its name; the roots are told."""
    hit = served.get("/api/v1/search?q=red&limit=1")["hits"][0]
    answer = served.client.get(f"/api/v1/points/{hit['id']}/original")
    path = Path(hit["path"])
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{path.name}"
    aside = path.rename(path.with_suffix(".aside"))
    try:
        gone = served.client.get(f"/api/v1/points/{hit['id']}/original")
    finally:
        aside.rename(path)
    assert gone.status_code == 404
    assert path.name in gone.json()["detail"]
    assert served.get("/api/v1/roots") == {"folders": [str(pictures)]}


def test_home_folder(served: Served) -> None:
    """~ is that of the server's user, and has to lie in the roots as any other."""
    body = {"training_directory": "~/x"}
    answer = served.client.post("/api/v1/training/sessions", json=body)
    assert answer.status_code in (403, 422)
    assert f"{Path.home()}/x" in answer.json()["detail"]
    assert "outside the roots" in answer.json()["detail"]


@pytest.mark.parametrize("route", ["similar", "thumbnail", "original"])
def test_picture_that_is_not_stored(served: Served, route: str) -> None:
    """It is 404, and the problem names it."""
    answer = served.client.get(f"/api/v1/points/{NOWHERE}/{route}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert NOWHERE in answer.json()["detail"]


def test_collection_that_is_not_there(served: Served) -> None:
    """It is 404, and the problem says how one is made."""
    answer = served.client.get("/api/v1/search?q=red&collection=other")
    assert answer.status_code == 404
    assert "there is no collection 'other' yet" in answer.json()["detail"]
    misspelt = served.client.get("/api/v1/search?q=red&collection=imagse")
    assert misspelt.status_code == 404
    assert "there is no collection 'imagse'; did you mean 'images'?" in misspelt.json()["detail"]


def test_vectors(served: Served, demo_bundle: Path, pictures: Path) -> None:
    """Texts and a picture get the vectors of an Encoder here, in the order in which they came."""
    encoder = Encoder.open(demo_bundle, provider="cpu")
    texts = ["a red star", "a blue circle", "a red star"]
    answer = served.client.post("/api/v1/embed/text", json={"texts": texts}).json()
    assert (answer["fingerprint"], answer["dim"]) == (encoder.fingerprint, encoder.dim)
    np.testing.assert_allclose(answer["vectors"], encoder.encode_texts(texts), atol=1e-6)
    path = next(pictures.glob("*.png"))
    answer = served.client.post("/api/v1/embed/image", files={"file": path.read_bytes()}).json()
    np.testing.assert_allclose(answer["vector"], encoder.encode_images([path])[0], atol=1e-5)
    assert (answer["width_px"], answer["height_px"]) == (256, 256)


def test_picture_that_is_named(served: Served, pictures: Path) -> None:
    """A file in the roots has the vector that it has when it is sent, by a link to it as well."""
    path = next(pictures.glob("*.png"))
    sent = served.client.post("/api/v1/embed/image", files={"file": path.read_bytes()}).json()
    link = pictures / "a-link.png"
    link.symlink_to(path)
    for name in (path, link):
        named = served.client.post("/api/v1/embed/image", json={"path": str(name)}).json()
        np.testing.assert_allclose(named.pop("vector"), sent["vector"], atol=1e-6)
        assert named == {key: value for key, value in sent.items() if key != "vector"}
    link.unlink()


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"path": "/etc/passwd"}, 403, "outside the roots"),
        ({"path": "/nowhere.png"}, 403, "outside the roots"),
        ({"path": "{pictures}/../a.png"}, 403, "outside the roots"),
        ({"path": "{pictures}/out/passwd"}, 403, "outside the roots"),
        ({"path": "{pictures}/older/../broken.jpg"}, 403, "without '..'"),
        ({"path": "{pictures}/none.png"}, 422, "cannot be opened"),
        ({"path": "{pictures}/broken.jpg"}, 422, "is no picture"),
        ({"path": "{pictures}/older"}, 422, "directory"),
        ({"path": "a.png"}, 422, "no absolute path"),
        ({"path": ""}, 422, "body.path"),
        ({"path": "/a.png", "file": "x"}, 422, "body.file"),
        ({}, 422, "body.path"),
        ([], 422, "body"),
    ],
    ids=str,
)
def test_named_picture_that_cannot_be_embedded(
    served: Served, pictures: Path, body: Any, status: int, told: str
) -> None:
    """It is refused as everywhere, and nothing is told of what lies outside the roots."""
    if body and "path" in body:
        body = body | {"path": body["path"].format(pictures=pictures)}
    answer = served.client.post("/api/v1/embed/image", json=body)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["detail"]


@pytest.mark.parametrize(
    "kind", ["application/octet-stream", "application/x-www-form-urlencoded", ""]
)
def test_body_of_another_type(served: Served, kind: str) -> None:
    """It is 415, and the problem names the two that there are."""
    answer = served.client.post(
        "/api/v1/embed/image", content=b"abc", headers={"Content-Type": kind}
    )
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["detail"]


@pytest.mark.parametrize("route", ["search/image", "embed/image"])
@pytest.mark.parametrize(
    ("sent", "reason"), [(b"no picture", "is no picture"), (b"", "is empty")], ids=["text", "empty"]
)
def test_bad_picture_is_sent(served: Served, route: str, sent: bytes, reason: str) -> None:
    """It is 422, with the reason."""
    answer = served.client.post(f"/api/v1/{route}", files={"file": ("a.jpg", sent)})
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]


def test_picture_of_too_many_pixels(served: Served) -> None:
    """It is refused by its header, undecoded, and the problem names the limit."""
    bomb = BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    answer = served.client.post("/api/v1/embed/image", files={"file": bomb.getvalue()})
    assert answer.status_code == 422
    assert "WARMCLIP_MAX_IMAGE_PIXELS" in answer.json()["detail"]


def test_health(served: Served) -> None:
    """A worker has embedded something just now, and tells on what."""
    health = served.get("/healthz")
    assert health["ok"]
    assert "image on cpu" in health["worker"]["detail"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_monitor_that_wants_no_body(served: Served, path: str) -> None:
    """It asks for the status alone, which is that of the whole answer."""
    assert served.client.head(path).status_code == served.client.get(path).status_code == 200
    assert served.client.head(path).content == b""


def test_doctor(served: Served, worker: Running) -> None:
    """A worker tells what each tower computes on, and why; it and its queues are listed."""
    served.client.get("/api/v1/search?q=a")  # by the other queue
    found = served.get("/api/v1/doctor")
    towers = {each["tower"]: each for each in found["verdict"]["towers"]}
    assert {(each["chosen"], each["now"]) for each in towers.values()} == {("cpu", "cpu")}
    assert towers.keys() == {"image", "text"}
    if "WARMCLIP_PROVIDER" in os.environ:  # "auto" would have a choice, as on a Mac
        assert towers["image"]["why"] == "asked for by name"
    else:
        assert "no other provider" in towers["image"]["why"]
        assert "CoreMLExecutionProvider" in found["verdict"]["passed_over"]["coreml-fp16"]
    assert found["verdict"]["quarantine"] == []
    assert found["verdict"]["pid"] == worker.horse
    assert [each["pid"] for each in found["workers"]] == [worker.process.pid]
    assert {each["name"] for each in found["queues"]} == {"default", "high"}
    assert found["dead_letters"] == 0


def figures(served: Served) -> dict[str, float]:
    """Every metric, by its name and labels."""
    text = served.client.get("/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)}


def test_metrics(served: Served) -> None:
    """Pictures by outcome, jobs, workers, requests by route, the process, and what is up."""
    served.get("/api/v1/search?q=metrics")
    eventually(lambda: figures(served)["warmclip_horses_started_total"] == 1)
    found = figures(served)
    assert found['warmclip_images_total{outcome="indexed"}'] == 60
    assert found['warmclip_images_total{outcome="skipped"}'] == 1
    assert (found["warmclip_workers"], found["warmclip_workers_busy"]) == (1, 0)
    assert found['warmclip_jobs{queue="default",state="queued"}'] == 0
    assert found['warmclip_queue_oldest_seconds{queue="default"}'] == 0
    asked = '{method="GET",route="/api/v1/search",status="200"}'
    assert found[f"warmclip_request_seconds_count{asked}"] >= 1
    assert found["warmclip_redis_up"] == 1
    assert "warmclip_qdrant_up" not in found  # the store is embedded
    assert any(name.startswith("warmclip_build_info{") for name in found)
    if PROC.exists():
        assert found["process_resident_memory_bytes"] > 1_000_000


def test_metrics_of_workers(served: Served) -> None:
    """What they did, and how long it took: each picture was decoded once, in some batches."""
    eventually(lambda: figures(served)['warmclip_job_runs_total{outcome="success"}'] >= 2)
    found = figures(served)
    assert found["warmclip_decode_seconds_count"] >= 60
    assert (
        found['warmclip_decode_seconds_bucket{le="+Inf"}'] == found["warmclip_decode_seconds_count"]
    )
    assert 0 < found["warmclip_inference_seconds_sum"] < 600
    assert found['warmclip_horse_deaths_total{kind="hung"}'] == 0


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
def test_deployed_metrics(served: Served, name: str) -> None:
    """Every metric that the alerts and the dashboard name is served."""
    served.get("/api/v1/search?q=deployed")  # a request's histogram begins with the first one
    shown = served.client.get("/metrics").text
    names = set(re.findall(r"^([a-z_]+)", shown, re.MULTILINE))
    names |= set(re.findall(r"^# TYPE (\S+)", shown, re.MULTILINE))  # without a sample yet
    names |= {it.name for it in read_worker_metrics(Settings.from_env({}), CounterBuffer(), None)}
    names |= {f"{name}_total" for name in names}
    named = set(re.findall(r"\b(?:warmclip|process)_[a-z_]+", (DEPLOY / name).read_text()))
    assert len(named) > 5
    only_with_a_server = {"warmclip_qdrant_up"}  # test_serve_outages reads it
    on_linux = set() if PROC.exists() else {"process_resident_memory_bytes"}
    assert named - names - only_with_a_server - on_linux == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_by_promtool() -> None:
    """Prometheus takes the rules."""
    subprocess.run(["promtool", "check", "rules", DEPLOY / "alerts.yml"], check=True)


def test_labels_of_routes(served: Served) -> None:
    """There are no more of them than routes, whatever is asked for."""
    for path in (
        "/page/app.js",
        "/page/style.css",
        "/nowhere",
        "/page/none",
        "/api/v1/points/x/similar",
    ):
        served.client.get(path)
    served.client.request("BREW", "/readyz")
    text = served.client.get("/metrics").text
    routes = set(re.findall(r'route="([^"]*)"', text))
    assert {"/page/*", "none", "/api/v1/points/{id}/similar"} <= routes
    assert not {route for route in routes if route.endswith((".js", ".css"))}
    assert "/nowhere" not in text
    assert 'method="other"' in text


def test_searches_are_not_logged(served: Served, worker: Running) -> None:
    """What people look for is in no log, neither the server's nor the worker's."""
    served.get("/api/v1/search?q=somethingprivate")
    assert "somethingprivate" not in served.log.read_text() + worker.log.read_text()


@pytest.mark.skipif(not PROC.exists(), reason="only Linux shows processes in /proc")
def test_server_stays_light(served: Served) -> None:
    """It maps no library that embeds or stores, has no child, and takes less than 100 MB."""
    pid = served.process.pid
    served.get("/api/v1/search?q=light")
    mapped = (PROC / str(pid) / "maps").read_text()
    assert [name for name in HEAVY if f"/{name}/" in mapped] == []
    assert (PROC / str(pid) / "task" / str(pid) / "children").read_text() == ""
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+)", (PROC / str(pid) / "status").read_text())
    assert int(kilobytes) < 100_000


def test_horse_is_killed_during_a_search(served: Served, worker: Running) -> None:
    """The search is answered nevertheless: the next horse does it."""
    worker.process.send_signal(signal.SIGSTOP)  # so that the job waits until the horse is dead
    try:
        os.kill(worker.horse, signal.SIGKILL)
    finally:
        worker.process.send_signal(signal.SIGCONT)
    assert served.get("/api/v1/search?q=red&limit=1")["hits"]


def test_no_worker_listens(served: Served, worker: Running) -> None:
    """A search is a 503 that says what to start, and so is health; a session waits."""
    worker.process.terminate()
    assert worker.process.wait(PATIENCE_S) == 0
    paths = ("/api/v1/search?q=red", "/api/v1/doctor")
    with ThreadPoolExecutor() as pool:  # each waits a while for a worker
        search, doctor = pool.map(served.client.get, paths)
    assert search.status_code == 503
    assert "run `warmclip worker`" in search.json()["detail"]
    assert int(search.headers["Retry-After"]) > 0
    # An answer is shared for two seconds: it may be one from before.
    eventually(lambda: served.client.get("/healthz").status_code == 503)
    health = served.client.get("/healthz")
    assert "no worker is listening" in health.json()["worker"]["detail"]
    assert health.json()["redis"]["ok"]
    assert doctor.status_code == 200
    assert doctor.json()["verdict"] is None
    assert "run `warmclip worker`" in doctor.json()["verdict_missing"]
    assert doctor.json()["workers"] == []
    assert served.client.get("/readyz").status_code == 200
