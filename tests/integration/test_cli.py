"""The commands as people start them: real processes, an embedded store, the demo model."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from running import eventually, run
from warmclip.settings import Settings
from warmclip.store.open import share_store
from warmclip.store.qdrant import COMPACTED_FROM
from warmclip_export import drawing


@pytest.fixture(autouse=True)
def demo_model(monkeypatch: pytest.MonkeyPatch, demo_bundle: Path) -> None:
    """Every command here runs the demo model."""
    monkeypatch.setenv("WARMCLIP_BUNDLE", str(demo_bundle))


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Twelve drawn pictures, named after what is in them."""
    drawing.write_gallery(tmp_path / "pictures", 12, seed=0)
    return tmp_path / "pictures"


def answer(*arguments: str | Path, expected: int = 0, **environment: str) -> Any:
    """A command's answer in JSON."""
    done = run(*arguments, "--json", **environment)
    assert done.returncode == expected, done.stderr
    return json.loads(done.stdout)


def names(hits: Sequence[dict[str, Any]]) -> list[str]:
    """The files' names, best hit first."""
    return [Path(hit["path"]).name for hit in hits]


def test_damaged_collection_is_rebuilt(gallery: Path) -> None:
    """The error names the command that keeps what can be read; indexing again brings the rest."""
    assert answer("collections", "list") == {"collections": []}
    answer("index", gallery)
    (listed,) = answer("collections", "list")["collections"]
    assert (listed["name"], listed["points"], listed["in_use"]) == ("images", 12, True)
    (file,) = Path(os.environ["WARMCLIP_HOME"]).rglob("edge_config.json")
    os.truncate(file, 20)
    done = run("search", "a star")
    assert done.returncode == 2
    assert "`warmclip collections rebuild images`" in " ".join(done.stderr.split())
    salvage = answer("collections", "rebuild", "images", expected=1)
    assert (salvage["kept"], salvage["lost"]) == (0, 12)
    assert Path(salvage["set_aside"]).is_dir()
    assert answer("index", gallery)["indexed"] == 12
    assert answer("collections", "rebuild", "images")["lost"] == 0


def test_collection_is_compacted(gallery: Path) -> None:
    """It says what was done, also for people, and what is stored stays found."""
    answer("index", gallery)
    optimized = answer("collections", "optimize", "images")
    assert (optimized["collection"], optimized["points"]) == ("images", 12)
    assert (optimized["optimized"], optimized["has_graph"]) == (True, False)
    assert answer("index", gallery)["unchanged"] == 12
    again = run("collections", "optimize", "images")
    assert "there was nothing to do: 12 pictures" in again.stdout
    graph = run("collections", "optimize", "images", "--approximate")
    assert "may miss pictures" in graph.stdout
    assert answer("collections", "info", "images")["engine"]["graph"]
    exact = run("collections", "optimize", "images")
    assert "its graph is gone" in exact.stdout
    assert "Searches are exact" in exact.stdout
    assert not answer("collections", "info", "images")["engine"]["graph"]
    assert len(answer("search", "a star")["queries"][0]["hits"]) == 10


def test_index_compacts_when_much_is_new(gallery: Path) -> None:
    """It says so beside its answer, and everything is found."""
    answer("index", gallery)
    with share_store(Settings.from_env(os.environ)) as store:
        (there, *_) = store.scroll("images", with_vectors=True)
        store.upsert(
            "images",
            [
                replace(there, id=str(uuid.UUID(int=number)), payload=payload)
                for number in range(COMPACTED_FROM)
                for payload in [replace(there.payload, path=f"/photos/{number}.jpg")]
            ],
        )
        assert store.wants_compaction("images")
    done = run("index", gallery)
    assert done.returncode == 0
    assert "12 unchanged" in done.stdout
    assert "compacted in" in done.stderr
    told = answer("collections", "info", "images")
    assert told["points"] == told["engine"]["indexed_vectors"] == COMPACTED_FROM + 12
    assert run("index", gallery).stderr == ""
    assert len(answer("search", "a star")["queries"][0]["hits"]) == 10


@pytest.mark.parametrize("by", ["option", "variable"])
def test_provider_that_nobody_knows(gallery: Path, by: str) -> None:
    """The names are listed before anything is loaded."""
    done = (
        run("index", gallery, "--provider", "rocm")
        if by == "option"
        else run("index", gallery, WARMCLIP_PROVIDER="rocm")
    )
    assert done.returncode == 2
    assert "auto, coreml" in " ".join(done.stderr.split())


def test_precision_that_the_bundle_does_not_have(gallery: Path) -> None:
    """Asked for before anything is read, and answered with the command that makes it."""
    done = run("index", gallery, WARMCLIP_PROVIDER="cpu-int8")
    said = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert "'cpu-int8' cannot serve" in said
    assert "no image graph in int8; it has: fp16, fp32" in said
    assert "make export-model PRECISION=int8" in said


def test_names_that_would_be_read_otherwise(gallery: Path) -> None:
    """Of a locale without UTF-8 the way out is told: one file would be stored under two paths."""
    ascii_names = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = run("index", gallery, PYTHONUTF8="0", **ascii_names)
    assert (done.returncode, "PYTHONUTF8=1" in done.stderr) == (2, True), done.stderr
    assert run("index", gallery, PYTHONUTF8="1", **ascii_names).returncode == 0


def test_letters_that_the_output_has_not(gallery: Path) -> None:
    """They are escaped."""
    assert run("index", gallery).returncode == 0
    done = run("search", "étoile", PYTHONIOENCODING="ascii")
    assert done.stdout.startswith("\\xe9toile"), done.stderr


def test_names_that_are_no_pictures(gallery: Path) -> None:
    """They are counted by suffix, and what is excluded as such."""
    for name in ("a.mov", "b.MOV", "c.psd", ".d.png"):
        (gallery / name).write_bytes(b"no picture")
    some = len(list(gallery.glob("*star*.png")))
    done = run("index", gallery, "--exclude", "*star*")
    assert done.returncode == 0, done.stderr
    assert f"{some} excluded, 2 .mov, 1 .psd, 1 hidden ignored" in done.stdout
    report = answer("index", gallery, "--exclude", "*star*")
    assert report["ignored"] == {"excluded": some, ".mov": 2, ".psd": 1, "hidden": 1}


def test_search_in_a_folder(gallery: Path) -> None:
    """Only what lies below it is found; a folder that is not there is told of."""
    (gallery / "some").mkdir()
    moved = sorted(gallery.glob("*.png"))[:4]
    for path in moved:
        path.rename(gallery / "some" / path.name)
    answer("index", gallery)
    (query,) = answer("search", "a star", "--folder", f"{gallery}/some/")["queries"]
    assert sorted(names(query["hits"])) == [path.name for path in moved]
    done = run("search", "a star", "--folder", gallery / "sone")
    assert done.returncode == 0
    assert "there is none" in done.stderr


def test_index_then_search_by_words(gallery: Path) -> None:
    """A picture is among the first three hits for its own description."""
    report = answer("index", gallery)
    assert (report["indexed"], report["skipped"]) == (12, {})
    wanted = sorted(gallery.iterdir())[3].name
    words = wanted.rsplit("-", 1)[0].replace("-", " ")
    (query,) = answer("search", words, "--limit", "3")["queries"]
    assert query["text"] == words
    assert wanted in names(query["hits"])
    scores = [hit["score"] for hit in query["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_search_by_picture(gallery: Path) -> None:
    """A picture is most like itself."""
    answer("index", gallery)
    picture = sorted(gallery.iterdir())[0]
    (query,) = answer("search", "--image", picture, "-n", "1")["queries"]
    assert names(query["hits"]) == [picture.name]
    assert query["hits"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_search_by_words_and_pictures(gallery: Path) -> None:
    """Unquoted words are one query; what is subtracted falls behind; each can be a query."""
    answer("index", gallery)
    first, *_, last = sorted(gallery.iterdir())
    (query,) = answer("search", "a", "star", "-", "0.5:a circle", "+", first)["queries"]
    assert (query["text"], query["image"]) == (None, None)
    assert query["terms"] == [
        {"text": "a star", "image": None, "weight": 1.0},
        {"text": "a circle", "image": None, "weight": -0.5},
        {"text": None, "image": str(first), "weight": 1.0},
    ]
    (query,) = answer("search", "a", "star", "--image", last, "--image", first)["queries"]
    assert [term["image"] for term in query["terms"]] == [None, str(last), str(first)]
    for options in (["-", first], ["a star", "-", f"3:{first}"]):
        (query,) = answer("search", *options, "-n", "12")["queries"]
        assert names(query["hits"])[-1] == first.name
    queries = answer("search", "--each", "star", "circle", "--image", first)["queries"]
    assert [query["text"] or query["image"] for query in queries] == ["star", "circle", str(first)]


def test_search_by_a_picture_from_standard_input(gallery: Path) -> None:
    """It is found as its file is."""
    answer("index", gallery)
    picture = sorted(gallery.iterdir())[5]
    command = [sys.executable, "-m", "warmclip.cli", "search", "--image", "-", "-n", "1", "-f"]
    with picture.open("rb") as stdin:
        found = subprocess.run(command, stdin=stdin, capture_output=True, check=True)
    assert found.stdout == os.fsencode(picture) + b"\n"
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"there is nothing on standard input" in done.stderr
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, check=False
    )
    assert closed.returncode == 2
    assert b"standard input is closed" in closed.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(gallery: Path, closed: str) -> None:
    """A command does its work; no file of the store takes their numbers."""
    command = [sys.executable, "-m", "warmclip", "index", str(gallery)]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    done = subprocess.run([*shell, *command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert answer("search", "a star", "-n", "1")["queries"][0]["hits"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="macOS has no /dev/full")
@pytest.mark.parametrize("options", [(), ("--json",), ("--paths",)])
def test_answer_that_has_no_room(gallery: Path, options: tuple[str, ...]) -> None:
    """One sentence says so, as Python ends as well; and an error is told beside it."""
    answer("index", gallery)
    command = [sys.executable, "-m", "warmclip", "search", *options]
    for words, told in (("red", "No space left on device"), ("", "say what to look for")):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [*command, *words.split()], stdout=full, stderr=subprocess.PIPE, check=False
            )
        assert done.returncode == 2
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("error: ")
        assert told in line


def test_paths_that_no_file_can_have(gallery: Path) -> None:
    """Others may have stored such ones: they are shown as not there, and kept from `xargs -0`."""
    answer("index", gallery)
    settings = Settings.from_env(os.environ)
    with share_store(settings) as store:
        some = next(iter(store.scroll("images", with_vectors=True)))
        odd = replace(some, payload=replace(some.payload, path=f"{gallery}/no\0name.png"))
        store.upsert("images", [odd])
    done = run("search", "a star", "-n", "12")
    assert done.returncode == 0, done.stderr
    assert "no\\x00name.png  (not there)" in done.stdout
    done = run("search", "a star", "-n", "12", "-0")
    assert len(done.stdout.split("\0")) == 12
    assert "left out, as no file can have such a path: 1" in done.stderr


def test_search_whose_answer_nobody_reads_on(gallery: Path) -> None:
    """Its reader has paused, as `less` does: the store is free for `collections rebuild`."""
    answer("index", gallery)
    words = [f"star {number}" for number in range(60)]  # more than a pipe holds
    command = [sys.executable, "-m", "warmclip", "search", "--each", *words, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as search:
        assert search.stdout is not None
        assert search.stdout.read(1) == b"{"

        def can_be_rebuilt() -> bool:
            return run("collections", "rebuild", "images").returncode == 0

        eventually(can_be_rebuilt)
        assert search.poll() is None
        assert len(json.loads(b"{" + search.stdout.read())["queries"]) == 60


def test_only_the_model_of_the_collection_is_opened(gallery: Path, demo_bundle: Path) -> None:
    """A search needs no other one, not even that of WARMCLIP_BUNDLE, and says which it uses."""
    models = gallery.parent / "models"
    shutil.copytree(demo_bundle, models / "mine")
    answer("index", gallery, WARMCLIP_BUNDLE=str(models / "mine"))
    done = run("search", "a star", WARMCLIP_BUNDLE=str(models / "gone"))
    assert done.returncode == 0, done.stderr
    assert str(models / "mine") in "".join(done.stderr.split("\n"))
    done = run("search", "a star", "--bundle", models / "gone")
    assert done.returncode == 2


def test_least_score_and_paths_for_other_programs(gallery: Path) -> None:
    """Hits below the score are left out; paths alone end with a line feed, or with a NUL."""
    answer("index", gallery)
    (query,) = answer("search", "a star", "-n", "12")["queries"]
    scores = [hit["score"] for hit in query["hits"]]
    least = (scores[3] + scores[4]) / 2
    done = run("search", "a star", "-n", "12", "--min-score", str(least), "--paths")
    assert done.stdout.splitlines() == [hit["path"] for hit in query["hits"][:4]]
    done = run("search", "a star", "-n", "2", "-0")
    assert done.stdout == "".join(hit["path"] + "\0" for hit in query["hits"][:2])


def test_pictures_that_are_not_there(gallery: Path) -> None:
    """They are marked, and --existing fills their places with the next ones."""
    answer("index", gallery)
    (query,) = answer("search", "a star", "-n", "4")["queries"]
    first, *others = [hit["path"] for hit in query["hits"]]
    Path(first).unlink()
    (query,) = answer("search", "a star", "-n", "3")["queries"]
    assert [hit["exists"] for hit in query["hits"]] == [False, True, True]
    lines = run("search", "a star", "-n", "3").stdout.splitlines()
    assert ["(not there)" in line for line in lines] == [False, True, False, False]
    (query,) = answer("search", "a star", "-n", "3", "--existing")["queries"]
    assert [hit["path"] for hit in query["hits"]] == others


def test_text_that_is_longer_than_the_model_reads(gallery: Path) -> None:
    """It is searched for by its beginning, and that is said."""
    answer("index", gallery)
    done = run("search", *["star"] * 100, "--paths")
    assert "the model does not read the end of 'star star" in " ".join(done.stderr.split())
    assert len(done.stdout.splitlines()) == 10
    assert run("search", *["star"] * 20).stderr == ""


def test_horse_that_cannot_start(tmp_path: Path) -> None:
    """Its worker says why at once: the horse had waited for ever to close what it reads."""
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run("worker", "--burst", WARMCLIP_JOBS="leaving:train", PYTHONPATH=path)
    assert (done.returncode, "SystemExit: 3" in done.stderr) == (2, True), done.stderr


def test_folder_that_was_deleted(tmp_path: Path) -> None:
    """A command that needs none works; a path in it is refused with a sentence."""
    for arguments, code in (("models", 0), ("index .", 2)):
        (tmp_path / "gone").mkdir()
        program = f'rmdir ../gone && exec "$0" -m warmclip.cli {arguments}'
        done = subprocess.run(
            ["/bin/sh", "-c", program, sys.executable],
            cwd=tmp_path / "gone", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_cursor_of_a_terminal(gallery: Path) -> None:
    """It is there while a bar is drawn: whoever is stopped or killed leaves it as it is."""
    drawn = run("index", gallery, TTY_COMPATIBLE="1").stderr
    before = drawn[: drawn.index("indexing")]
    assert before.rindex("\x1b[?25l") < before.rindex("\x1b[?25h")


def test_second_run_does_nothing(gallery: Path) -> None:
    """Unchanged files are skipped, and that is no failure."""
    answer("index", gallery)
    report = answer("index", gallery)
    assert (report["indexed"], report["unchanged"]) == (0, 12)


def test_contact_sheet(gallery: Path, tmp_path: Path) -> None:
    """People look at pictures: the sheet is a PNG that shows the hits."""
    answer("index", gallery)
    sheet = tmp_path / "found.png"
    done = run("search", "--each", "a star", "a circle", "--limit", "3", "--sheet", sheet)
    assert done.returncode == 0, done.stderr
    assert f"the sheet is {sheet}" in " ".join(done.stderr.split())
    with Image.open(sheet) as drawn:
        assert drawn.width > 300
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 20


def test_partly_bad_folder(gallery: Path) -> None:
    """What could not be read is listed with its reason, and the exit code is 1."""
    (gallery / "broken.png").write_bytes(b"no picture")
    done = run("index", gallery)
    assert done.returncode == 1
    assert "12 indexed" in done.stdout
    assert "broken.png" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (["index", "."], {"WARMCLIP_BUNDLE": "no/such/model"}, 2, "make export-model"),
        (["index", "."], {"WARMCLIP_PROVIDER": "rocm"}, 2, "WARMCLIP_PROVIDER"),
        (["index", ".", "--collection", "a b"], {}, 2, "a b"),
        (["index", ".", "--provider", "coreml"], {}, 2, "CoreMLExecutionProvider"),
        (["index", ".", "--detach"], {}, 2, "--queue"),
        (["index", ".", "--exclude", "a["], {}, 2, "the pattern to exclude 'a[' has a [ without"),
        (["index", ".", "--exclude", ""], {}, 2, "the pattern to exclude '' has no name"),
        (["index", ".", "--exif-transpose", "--queue"], {}, 2, "warmclip worker"),
        (["index", ".", "--decode", "scaled", "--queue"], {}, 2, "warmclip worker"),
        (["index", ".", "--decode", "fast"], {}, 2, "'fast' is not one of 'full'"),
        (["search"], {}, 2, "--image"),
        (["search", "x", "--collection", "nothing"], {}, 2, "warmclip index"),
        (["search", "x", "--image", "none.png"], {}, 2, "none.png"),
        (["search", " "], {}, 2, "empty"),
        (["search", "-"], {}, 2, "no words or picture after it"),
        (["search", "--", "---"], {}, 2, "has only signs"),
        (["search", "--", "car", "-night"], {}, 2, "write the sign by itself"),
        (["search", "nan:car"], {}, 2, "the weight nan"),
        (["search", "car", "+", "none.jpg"], {}, 2, "none.jpg: there is no such file"),
        (["search", "--image", "http://a.example/b.jpg"], {}, 2, "nothing is downloaded"),
        (["search", "--image", "-", "--image", "-"], {}, 2, "standard input has one picture"),
        (["search", "x", "--min-score", "nan"], {}, 2, "min_score=nan: use a number from -1 to 1"),
        (["search", "x", "--paths", "--json"], {}, 2, "not both"),
        (["search", "x", "--sheet", "found.jpg"], {}, 2, "PNG"),
        (["search", "x", "--since", "2026-13-01"], {}, 2, "since='2026-13-01' is no day"),
        (["search", "x", "--folder", "/etc"], {"WARMCLIP_ROOTS": "/mnt"}, 2, "outside the roots"),
        (["search", "x", "--queue", "--decode", "scaled"], {}, 2, "without --queue"),
        (["search", "x"], {"QDRANT_URL": "http://u:hunter2@127.0.0.1:9"}, 3, "QDRANT_URL"),
        (["status"], {"REDIS_URL": "redis://u:hunter2@127.0.0.1:9"}, 3, "REDIS_URL"),
        (["worker"], {"REDIS_URL": "redis://:hunter2@127.0.0.1:9"}, 3, "127.0.0.1:9"),
        (["worker", "--reserve", ""], {}, 2, "--reserve='': name at least one queue"),
        (["serve", "--allow-host", "https://a.example"], {}, 2, "between https:// and the next"),
        (["serve", "--allow-host", "*"], {}, 2, "--allow-host '*'"),
        (["migrate", "nothing"], {}, 2, "nothing"),
    ],
)
def test_what_cannot_be_done(
    arguments: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    """One paragraph on stderr, the right exit code, no traceback, no password."""
    if sys.platform == "darwin" and "coreml" in arguments:
        pytest.skip("this machine has CoreML")
    done = run(*arguments, **environment)
    told = " ".join(done.stderr.split())
    assert done.returncode == code, told
    assert said in told
    assert "Traceback" not in told
    assert "hunter2" not in told + done.stdout


def test_error_as_json() -> None:
    """A script reads the error as it reads the answer."""
    assert answer("search", expected=2)["error"]["type"] == "SettingsError"


def test_version() -> None:
    """The first thing that a bug report needs."""
    done = run("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "warmclip")


def test_root_named_later(gallery: Path) -> None:
    """Naming a root gives its pictures other ids; --prune removes what had the former ones."""
    answer("index", gallery)
    roots = f"photos={gallery}"
    refused = answer("index", gallery, "--prune", expected=2, WARMCLIP_ROOTS=roots)
    assert "--yes" in refused["error"]["message"]
    report = answer("index", gallery, "--prune", "--yes", WARMCLIP_ROOTS=roots)
    assert (report["reused"], report["pruned"]) == (12, 12)
    (query,) = answer("search", "a shape", "--limit", "50", WARMCLIP_ROOTS=roots)["queries"]
    assert len(names(query["hits"])) == 12


def test_help_is_quick() -> None:
    """Help loads no model runtime; how fast it is, `make bench` need not say."""
    code = (
        "import sys, warmclip.cli as cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'open_clip', 'onnx', 'onnxruntime', 'rq', 'numpy'}\n"
        "heavy |= {'qdrant_client', 'qdrant_edge'}\n"
        "print('LOADED', sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    for command in ("index", "search", "migrate", "worker", "status", "bench"):
        assert command in done.stdout


def test_name_that_is_not_utf8(gallery: Path) -> None:
    """Names are bytes: such a file is indexed, found, and shown."""
    odd = gallery / os.fsdecode(b"caf\xe9.png")
    try:
        sorted(gallery.iterdir())[0].rename(odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert answer("index", gallery)["indexed"] == 12
    (query,) = answer("search", "a shape", "--limit", "12")["queries"]
    assert str(odd) in [hit["path"] for hit in query["hits"]]
    done = run("search", "a shape", "--limit", "12")
    assert r"caf\xe9.png" in done.stdout


def test_queue_without_a_worker_then_with_one(gallery: Path) -> None:
    """Jobs wait for a worker; status shows them; a burst worker does them and leaves."""
    refused = answer("index", gallery / "none", "--queue", "--detach", expected=1)
    assert list(refused["skipped"]) == [str(gallery / "none")]
    queued = answer("index", gallery, "--queue", "--detach", "--exclude", "none")
    assert queued["images"] == 12
    waiting = answer("status")
    assert {queue["name"]: queue["queued"] for queue in waiting["queues"]} == {"default": 1}
    assert waiting["workers"] == []
    assert run("worker", "--burst").returncode == 0
    assert answer("index", gallery)["unchanged"] == 12


def test_failed_jobs_get_another_chance(gallery: Path) -> None:
    """A job that failed for a reason that is gone now is queued again, and succeeds."""
    answer("index", gallery, "--queue", "--detach")
    assert run("worker", "--burst", WARMCLIP_MAX_JOB_ITEMS="1").returncode == 0
    (failure,) = answer("status")["failures"]
    assert "WARMCLIP_MAX_JOB_ITEMS" in failure["reason"]
    again = answer("status", "--requeue-failed")
    assert again == {"jobs": [failure["job"]], "images": 12}
    assert run("worker", "--burst").returncode == 0
    assert answer("status")["failures"] == []
    assert answer("index", gallery)["unchanged"] == 12
    assert answer("status", "--requeue", "--requeue-failed") == {"jobs": [], "images": 0}


def test_search_while_a_worker_owns_the_store(gallery: Path) -> None:
    """The embedded store has one owner; a search reads it there, and finds the same."""
    answer("index", gallery)
    alone = answer("search", "a star", "--limit", "5")
    command = [sys.executable, "-m", "warmclip.cli", "worker"]
    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not answer("status")["workers"]:
            assert time.monotonic() < deadline
        shared = answer("search", "a star", "--limit", "5")
        assert names(shared["queries"][0]["hits"]) == names(alone["queries"][0]["hits"])
        second = run("worker", "--burst")
        assert second.returncode == 3
        assert "QDRANT_URL" in second.stderr
        queued = answer("index", gallery, "--queue")
        assert queued["unchanged"] == 12
        for options, count in ((("--folder", gallery), 5), (("--until", "1999-12-31"), 0)):
            asked = answer("search", "a star", "-n", "5", "--queue", *options)
            assert len(asked["queries"][0]["hits"]) == count
        terms = ("a", "star", "-", f"2:{next(gallery.iterdir())}", "--min-score", "0", "-n", "12")
        here, there = (answer("search", *terms, *more)["queries"] for more in ((), ("--queue",)))
        assert names(there[0]["hits"]) == names(here[0]["hits"])
        command = [sys.executable, "-m", "warmclip.cli", "search", "--image", "-", "-f", "--queue"]
        picture = sorted(gallery.iterdir())[2]
        with picture.open("rb") as stdin:
            found = subprocess.run(command, stdin=stdin, capture_output=True, check=True)
        assert found.stdout.splitlines()[0] == os.fsencode(picture)
    finally:
        worker.terminate()
        assert worker.wait(timeout=30) == 0


def test_bench_prints_figures() -> None:
    """The benchmark measures every case and says of what machine it speaks."""
    figures = answer("bench", "--rounds", "1")
    assert figures["machine"]
    assert {case["name"] for case in figures["cases"]} >= {"cropped images", "texts"}
    assert all(case["per_second"] > 0 for case in figures["cases"])


@pytest.mark.parametrize(
    "command",
    [
        *("index", "search", "migrate", "audit", "duplicates"),
        *("worker", "serve", "status", "bench", "doctor"),
    ],
)
def test_file_with_variables_of_every_command(command: str, tmp_path: Path) -> None:
    """Each reads it before it does anything, and says which variable cannot be used."""
    file = tmp_path / "the.env"
    file.write_text("WARMCLIP_BATCH_SIZE=none\n")
    needed = {"index": ["."], "search": ["red"], "migrate": ["images"], "audit": ["images"]}
    done = run(command, *needed.get(command, []), "--env-file", file)
    assert done.returncode == 2, done.stderr
    assert "WARMCLIP_BATCH_SIZE='none'" in " ".join(done.stderr.split())


def test_environment_beside_a_file(tmp_path: Path) -> None:
    """What the environment says comes first; what only the file says counts as well."""
    file = tmp_path / ".env"
    file.write_text("redis_url=redis://127.0.0.1:9\nWARMCLIP_EXIF=none\n")
    done = run("status", "--env-file", file, WARMCLIP_EXIF="ignore")
    assert done.returncode == 3
    assert "127.0.0.1:9" in " ".join(done.stderr.split())
    assert run("status", "--env-file", tmp_path / "none").returncode == 2


def test_several_workers_get_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is told where it is."""
    from typer.testing import CliRunner

    from warmclip.cli import app
    from warmclip.work import supervisor

    file = tmp_path / ".env"
    file.write_text("QDRANT_URL=http://qdrant\n")
    told: list[Sequence[Sequence[str]]] = []

    def run(self: supervisor.Supervisor) -> int:
        told.append(self._workers)
        return 0

    monkeypatch.setattr(supervisor.Supervisor, "run", run)
    options = ["worker", "--workers", "2", "--reserve", "high", "--env-file", str(file)]
    assert CliRunner().invoke(app, options).exit_code == 0
    (workers,) = told
    queues = ["--queues=high,default", "--queues=high,default", "--queues=high"]
    assert [arguments[0] for arguments in workers] == queues
    assert all(f"--env-file={file}" in arguments for arguments in workers)
