"""The comparison with what a user would pick instead, as `make bench` starts it."""

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benching import over_after_a_round
from processes import read_commands

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "models" / "demo"
COMMAND = (sys.executable, "-m", "bench.embedding", "--quick", "--peers-python=/nowhere/python")

pytestmark = pytest.mark.skipif(
    find_spec("open_clip") is None, reason="compares with open_clip, which is not installed here"
)


def model(checkpoint: Path = DEMO / "warmclip-demo.safetensors") -> tuple[str, str]:
    """The options that name the demo model."""
    return (f"--bundle={DEMO / 'bundle'}", f"--checkpoint={checkpoint}")


def compare(*options: str) -> "subprocess.CompletedProcess[str]":
    """Run it."""
    return subprocess.run(
        [*COMMAND, *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_folders_queries_and_starts(tmp_path: Path) -> None:
    """Real contenders do the same work; JSON, Markdown and a plot tell of it, and who is absent."""
    cases = ("small-folder", "query", "start")
    done = compare("--rounds=2", *(f"--case={it}" for it in cases), *model(), f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr

    told = json.loads((tmp_path / "results.json").read_text())
    assert told["rounds"] == 2
    assert told["environment"]["packages"]["torch"]
    assert [case["name"] for case in told["cases"]] == list(cases)
    for case in told["cases"]:
        by_name = {each["name"]: each for each in case["contenders"]}
        for name in ("warmclip", "open_clip, torch"):
            assert by_name[name]["failure"] is None
            assert by_name[name]["worst_cosine"] is None or by_name[name]["worst_cosine"] > 0.999
            for title, column in by_name[name]["columns"].items():
                is_told = "PSS" not in title or sys.platform != "darwin"  # Linux alone tells it
                assert len(column["figures"]) == (2 if is_told else 0)
                assert all(figure > 0 for figure in column["figures"])
        ours, theirs = by_name["warmclip"], by_name["open_clip, torch"]
        first = next(iter(ours["columns"]))
        pairs = zip(
            ours["columns"][first]["figures"], theirs["columns"][first]["figures"], strict=True
        )
        is_rate = case["name"] == "small-folder"
        ratios = [own / other if is_rate else other / own for own, other in pairs]
        spread = ours["columns"][first]["times_as_fast_as_torch"]
        assert spread["lowest"] == pytest.approx(min(ratios))
        assert spread["highest"] == pytest.approx(max(ratios))
        assert "/nowhere/python is missing" in by_name["transformers, torch"]["failure"]

    by_words = {target["aim"]: target for target in told["aims"]}
    start = by_words["exec to first vector, seconds"]
    assert start["reached"] == (start["found"]["median"] <= start["target"] == 1.0)
    small = by_words["small photographs: warmclip to a loop with open_clip in torch"]
    assert small["reached"] == (small["found"]["median"] >= small["target"] == 2.2)

    markdown = (tmp_path / "results.md").read_text()
    for text in (markdown, done.stdout):
        assert "| warmclip " in text
        assert "times as fast as open_clip, torch" in text
        assert "/nowhere/python is missing" in text
    plot = ET.parse(tmp_path / "plot.svg").getroot()  # noqa: S314 - our own file
    titles = [element.text or "" for element in plot.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith("warmclip: ") for title in titles)


def test_library_is_searched_in_three_ways(tmp_path: Path) -> None:
    """All find the same pictures; only warmclip has a command; the filling counts once. It needs
    no model that has to be made.
    """
    absent = ("--bundle=/nowhere", "--checkpoint=/nowhere")
    done = compare("--rounds=2", "--case=library", *absent, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "results.json").read_text())
    (case,) = told["cases"]
    contenders = {each["name"]: each for each in case["contenders"]}
    assert len(contenders) == 3
    for name, contender in contenders.items():
        assert contender["failure"] is None
        figures = {column: it["figures"] for column, it in contender["columns"].items()}
        assert len(figures.pop("filled, points/s")) == 1
        command = figures.pop("`warmclip search`, s")
        assert len(command) == (2 if name == "warmclip, embedded store" else 0)
        if sys.platform == "darwin":
            figures.pop("memory of its own (PSS), MB")
        assert all(len(it) == 2 and min(it) > 0 for it in figures.values()), figures
    assert [target["aim"][:9] for target in told["aims"]] == ["a library"] * 4
    assert all(target["found"] for target in told["aims"] if "PSS" not in target["aim"])


def test_thumbnails_are_drawn_and_kept(tmp_path: Path) -> None:
    """The first tiles come twice in each round: drawn, and from the disk; open_clip has no part."""
    files = model(checkpoint=Path("/nowhere"))
    done = compare("--rounds=1", "--case=thumbnails", *files, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "results.json").read_text())
    ((contender,),) = (case["contenders"] for case in told["cases"])
    assert contender["failure"] is None
    cold, warm = (it["figures"][0] for it in contender["columns"].values())
    assert min(cold, warm) > 0
    assert len(told["aims"]) == 2


def test_contender_that_does_other_work(tmp_path: Path) -> None:
    """Vectors that are not open_clip's take a contender out; there is no figure of it."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(DEMO / "warmclip-demo.safetensors")
    shape = weights["visual.proj"].shape
    weights["visual.proj"] = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    save_file(weights, tmp_path / "other.safetensors")
    options = ("--rounds=1", "--case=small-folder", *model(tmp_path / "other.safetensors"))
    done = compare(*options, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "results.json").read_text())["cases"]
    by_name = {each["name"]: each for each in case["contenders"]}
    assert "to open_clip's vectors" in by_name["warmclip"]["failure"]
    assert all(not column["figures"] for column in by_name["warmclip"]["columns"].values())
    assert by_name["open_clip, torch"]["failure"] is None


def test_model_whose_text_tower_is_of_hugging_face(tmp_path: Path) -> None:
    """A folder takes the place of the hub, for its weights as a file and for open_clip."""
    from tiny_models import write_text_model, written
    from tiny_tokenizers import write_tokenizer

    files = tmp_path / "text"
    config = write_text_model("xlm-roberta", files)
    write_tokenizer("xlm-roberta", files)
    write_text_model("xlm-roberta", files)  # which the tokenizer's class may write as well
    config["text_cfg"] |= {"hf_model_name": "xlm-r", "hf_tokenizer_name": "xlm-r"}
    options = [f"--model={written(tmp_path, 'tiny', config)}", f"--tokenizer={files}"]
    weights = tmp_path / "tiny.safetensors"
    export = ["warmclip_export", "model", *options, "--pretrained=random:0", f"--out={tmp_path}"]
    for command in (export, ["bench.checkpoint", str(weights), *options]):
        subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, check=True, timeout=300)

    done = compare(
        *("--rounds=1", "--case=image-tower", "--case=text-tower", "--case=library"),
        *("--contender=warmclip", "--contender=open_clip, torch", f"--tokenizer={files}"),
        *(f"--bundle={tmp_path / 'tiny-random-0'}", f"--checkpoint={weights}", f"--out={tmp_path}"),
    )

    assert done.returncode == 0, done.stderr
    cases = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert [case["name"] for case in cases] == ["image-tower", "text-tower"]
    for case in cases:
        assert [each["name"] for each in case["contenders"]] == ["warmclip", "open_clip, torch"]
        assert [each["failure"] for each in case["contenders"]] == [None, None]
        assert case["contenders"][0]["worst_cosine"] > 0.999


def test_comparison_that_is_cut_short(tmp_path: Path) -> None:
    """Ctrl+C loses no round that was over, and leaves neither a contender nor a folder behind."""
    options = ("--rounds=1000", "--case=preprocessing", *model(), f"--out={tmp_path / 'out'}")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with over_after_a_round([*COMMAND, *options], REPOSITORY, environment) as process:
        (folder,) = tmp_path.glob("warmclip-bench-*")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "| warmclip " in printed
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rounds"] >= 1
    assert not folder.exists()
    deadline = time.monotonic() + 10
    while str(folder) in _running() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert str(folder) not in _running()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--case=images", *model()), "use one of image-tower, text-tower"),
        (("--contender=fastembeds", *model()), "use one of SQLite and numpy"),
        (("--case=query", *model(Path("/nowhere"))), "`make bench` makes it"),
    ],
)
def test_comparison_of_what_is_not_there(options: tuple[str, ...], words: str) -> None:
    """A case, a contender or a model that is not there is named before anything runs."""
    done = compare(*options)
    assert done.returncode == 2
    assert words in done.stderr


def _running() -> str:
    return "\n".join(read_commands().values())
