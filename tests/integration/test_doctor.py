"""The doctor as people call it: real processes, some of which hang or die."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from processes import read_commands
from running import eventually
from standins.faulty import environment
from warmclip.doctor.matrix import _Run
from warmclip.doctor.report import try_providers
from warmclip.inference.providers import PROVIDERS
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.settings import Settings

pytestmark = pytest.mark.usefixtures("server_binary")

_PATIENCE_S = 150.0
_HEAVY = ("onnxruntime", "numpy", "torch", "open_clip", "qdrant_client", "httpx", "PIL")


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Visit the doctor, for onnxruntime alone."""
    return subprocess.run(
        [sys.executable, "-m", "warmclip.cli", "doctor", "--quick", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )


def cells(report: dict[str, Any], row: str) -> dict[str, Any]:
    """One row of the matrix."""
    (found,) = [it["cells"] for it in report["matrix"] if it["name"] == row]
    cells: dict[str, Any] = found
    return cells


def test_matrix(demo_bundle: Path) -> None:
    """A session of the demo model works in main, exec and horse; a forked child ends badly.

    On Linux it hangs where it lets go of the session that it inherited.
    """
    done = run("--json", WARMCLIP_BUNDLE=str(demo_bundle))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    row = cells(report, "onnxruntime session, cpu")
    assert {kind: row[kind]["status"] for kind in ("main", "exec", "horse")} == {
        "main": "ok",
        "exec": "ok",
        "horse": "ok",
    }
    assert row["horse"]["again_s"] < row["horse"]["seconds"]
    assert str(demo_bundle) in report["graph"]
    assert report["machine"]["packages"]["onnxruntime"]
    assert {service["name"]: service["state"] for service in report["services"]} == {
        "home": "ok",
        "model": "ok",
        "Redis": "ok",
        "Qdrant": "ok",
        "roots": "ok",
    }
    if sys.platform == "linux":
        assert (row["fork"]["status"], row["fork"]["step"]) == (
            "hang",
            "lets go of the inherited one",
        )
        assert report["verdict"]["is_fork_unsafe"]
        assert "Forking is unsafe here because" in report["verdict"]["sentence"]


def test_trial_of_the_providers(demo_bundle: Path, tmp_path: Path) -> None:
    """A whole visit tries each provider on the model; a quick one shows what is known by then."""
    home = tmp_path / "home"
    environment = {"WARMCLIP_BUNDLE": str(demo_bundle), "WARMCLIP_HOME": str(home)}
    done = run("--json", **environment)
    assert json.loads(done.stdout)["providers"]["verdict"]["trials"] == []
    options = ["--bundle", str(demo_bundle), "--choice", "auto", "--home", str(home)]
    child = [sys.executable, "-P", "-m", "warmclip.doctor.provider_trials", "--deadline", "60"]
    tried = subprocess.run(
        [*child, *options],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=True,
    )
    (told,) = re.findall(r'^\{"done": "uses it".*$', tried.stdout, re.MULTILINE)
    verdict = json.loads(told)["facts"]["verdict"]
    assert {trial["tower"] for trial in verdict["trials"]} == {"image", "text"}
    assert all(trial["cosine"] > 0.999 for trial in verdict["trials"])


def test_provider_is_let_out_of_quarantine(demo_bundle: Path, tmp_path: Path) -> None:
    """--retry-provider forgets what was held against it, and says so; a wrong name is 2."""
    home = tmp_path / "home"
    Quarantine(home).add("coreml-fp16", "it strayed")
    Quarantine(home).add("openvino", "it crashed")
    environment = {"WARMCLIP_BUNDLE": str(demo_bundle), "WARMCLIP_HOME": str(home)}
    done = run("--json", "--retry-provider", "coreml", **environment)
    assert done.returncode == 0, done.stderr
    assert "coreml-fp16 out of quarantine" in done.stderr
    assert list(Quarantine(home).active()) == ["openvino"]
    done = run("--retry-provider", "rocm", **environment)
    assert done.returncode == 2
    assert "rocm" in done.stderr


def test_picture_on_paper(demo_bundle: Path) -> None:
    """Into a file it is plain text, as wide as a page, and ends with the verdict."""
    done = run(WARMCLIP_BUNDLE=str(demo_bundle))
    lines = done.stdout.splitlines()
    assert "`warmclip worker` does not fork" in " ".join(done.stdout.split())
    assert lines[-1].endswith("ms.")
    assert "\x1b" not in done.stdout
    assert max(map(len, lines)) <= 120
    (horse,) = [line for line in lines if "main process" in line and "warm horse" in line]
    assert "fork" in horse


@pytest.mark.parametrize("kind", ["missing", "damaged"])
def test_without_a_bundle(kind: str, tmp_path: Path, demo_bundle: Path) -> None:
    """Sessions are then of a built-in graph. Without a model it is 1, and the sentence says how to
    get one; one that is damaged is 2.
    """
    folder = tmp_path / "model"
    if kind == "damaged":
        shutil.copytree(demo_bundle, folder)
        (folder / "image.fp32.onnx").write_bytes(b"cut short")
    done = subprocess.run(
        [sys.executable, "-m", "warmclip.cli", "doctor", "--quick", "--json"],
        env=os.environ | {"WARMCLIP_BUNDLE": str(folder)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    report = json.loads(done.stdout)
    assert done.returncode == (2 if kind == "damaged" else 1), done.stderr
    assert ("`warmclip-export model` makes one" in report["verdict"]["sentence"]) == (
        kind == "missing"
    )
    assert report["graph"] == "a tiny built-in graph"
    assert cells(report, "onnxruntime session, cpu")["horse"]["status"] == "ok"
    (model,) = [service for service in report["services"] if service["name"] == "model"]
    assert model["state"] == ("wrong" if kind == "damaged" else "absent")


@pytest.mark.skipif(sys.platform != "linux", reason="a Mac has CoreML")
def test_provider_that_is_not_here(demo_bundle: Path) -> None:
    """Asked for by name and not there: 1, and the sentence names it."""
    done = run("--json", "--provider", "coreml", WARMCLIP_BUNDLE=str(demo_bundle))
    assert done.returncode == 1
    assert "coreml" in json.loads(done.stdout)["verdict"]["sentence"]


def test_redis_that_does_not_answer(demo_bundle: Path) -> None:
    """The matrix is shown all the same, and the exit code is 3."""
    done = run("--json", WARMCLIP_BUNDLE=str(demo_bundle), REDIS_URL="redis://:hunter2@127.0.0.1:9")
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert report["verdict"]["own_way_works"]
    assert "127.0.0.1:9" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_trial_has_the_time_of_the_setting(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that compiles for longer than usual can be waited for, here as in a worker."""
    for name, value in environment("hang").items():
        monkeypatch.setenv(name, value)
    settings = Settings(home=tmp_path / "home", bundle=demo_bundle, provider="auto", trial_s=9)
    tried = try_providers(settings, ())
    assert tried.is_ok, tried
    reasons = [it["reason"] for it in tried.facts["verdict"]["trials"] if "hang" in it["provider"]]
    assert len(reasons) == 2
    assert all("gave no answer within 9 s" in reason for reason in reasons)


def test_session_that_compiles_has_the_time_of_a_trial() -> None:
    """So do the cells of the matrix whose provider compiles, and no others."""
    run = _Run(deadline_s=20, compiling_s=300, slack_s=5, quick=False, progress=None)
    deadlines = {
        name: {run.deadline_of(it) for it in run.onnx_row(name, (), variants=2, provider=name)}
        for name in PROVIDERS
    }
    assert {name for name, found in deadlines.items() if found == {300}} == {
        *("coreml-fp16", "coreml-ane", "coreml-fp32", "tensorrt-fp16", "tensorrt-fp32")
    }
    assert deadlines["cpu"] == {20}
    (import_only, *_) = run.onnx_row("import onnxruntime", (), variants=1)
    assert run.deadline_of(import_only) == 20


def test_doctor_itself_loads_nothing_heavy(demo_bundle: Path) -> None:
    """What may crash or hang is in its children only, so that the doctor survives it."""
    code = f"""
import os, sys
from warmclip.doctor.report import examine
from warmclip.settings import Settings
report = examine(Settings.from_env(os.environ), os.environ, deadline_s=60, quick=True)
assert report.conclusion.own_way_works
print(*set({_HEAVY}) & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"WARMCLIP_BUNDLE": str(demo_bundle)},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=True,
    )
    assert done.stdout.strip() == ""


def test_stopped_by_ctrl_c(demo_bundle: Path) -> None:
    """It ends with 130 and leaves no child behind: of its cells, some have minutes left."""
    mark = f"{time.time_ns()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "warmclip.cli", "doctor", "--deadline", "300"],
        env=os.environ | {"WARMCLIP_BUNDLE": str(demo_bundle), "MARK": mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: len(with_mark(mark)) > 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(_PATIENCE_S) == 130
    assert [pid for pid in with_mark(mark) if pid != process.pid] == []


def with_mark(mark: str) -> list[int]:
    """The processes whose environment holds the mark."""
    commands = read_commands(with_environment=True)
    return [pid for pid, command in commands.items() if f" MARK={mark}" in command]
