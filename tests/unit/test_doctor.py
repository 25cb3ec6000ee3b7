"""The doctor's parts: what it makes of children that end well, fail, die or hang."""

import io
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from warmclip.doctor import tiny_graph as tiny
from warmclip.doctor.conclusion import Conclusion, draw_conclusion
from warmclip.doctor.dependencies import Dependency
from warmclip.doctor.machine import read_machine
from warmclip.doctor.matrix import COLUMNS, PLAIN, Row, Variant
from warmclip.doctor.probe import ProbeResult, absent, run_probe
from warmclip.doctor.render import render_report
from warmclip.doctor.report import Report, examine
from warmclip.inference.ort.session import OnnxSession
from warmclip.inference.providers import CPU
from warmclip.process_table import is_running
from warmclip.settings import Settings

_PRELUDE = """
import os, signal, subprocess, sys, time
from warmclip.doctor import processes
from warmclip.doctor.processes import Subject
"""


def child(code: str, *, deadline_s: float = 20, stop: threading.Event | None = None) -> ProbeResult:
    """Run a cell whose child is a few lines of Python."""
    command = [sys.executable, "-c", _PRELUDE + code]
    return run_probe(command, deadline_s=deadline_s, stop=stop or threading.Event())


def subject(make: str = "dict", use: str = "lambda made: None", kind: str = "main") -> str:
    """A child that does one thing in one kind of process."""
    return (
        f"s = Subject(make={make}, use={use}, slack_s=1,"
        " command=[sys.executable, '-P', '-m', 'warmclip.doctor.onnx_subject'])\n"
        f"sys.exit(processes.run(s, {kind!r}))"
    )


def test_child_that_does_it() -> None:
    """It is ok, with the seconds that the thing itself took, and what it told."""
    cell = child(subject(use="lambda made: {'version': '1'}"))
    assert cell.is_ok
    assert cell.seconds is not None
    assert cell.seconds < 5
    assert cell.facts == {"version": "1"}
    assert [step["step"] for step in cell.steps] == ["makes it", "uses it"]


def test_child_without_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be made, as on a full disk, the cell is tried all the same."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert child(subject()).is_ok


def test_child_that_raises() -> None:
    """The error's first line is the reason, and the step is named."""
    cell = child(subject(use="lambda made: int('no\\nnumber')"))
    assert (cell.status, cell.step) == ("error", "uses it")
    assert cell.reason is not None
    assert cell.reason.startswith("ValueError: invalid literal")


@pytest.mark.parametrize("kind", ["main", "fork"])
@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV", "SIGKILL"])
def test_child_that_dies_of_a_signal(name: str, kind: str) -> None:
    """The signal is told by name, with the line that the dying process left."""
    who = "True" if kind == "main" else "os.getpid() != leader"
    code = f"""
leader = os.getpid()
def use(made):
    if {who}:
        os.write(2, b"some chatter\\nUnable to reach MTLCompilerService\\nbye\\n")
        os.kill(os.getpid(), signal.{name})
"""
    cell = child(code + subject(use="use", kind=kind))
    assert (cell.status, cell.reason) == ("signal", name)
    assert cell.step == ("uses it" if kind == "main" else "uses its own")
    assert cell.said == "Unable to reach MTLCompilerService"


def test_forked_child_that_hangs_leaves_nobody_behind(tmp_path: Path) -> None:
    """A hang is told with its step and seconds, and every process of the cell is gone after it."""
    code = f"""
leader = os.getpid()
def use(made):
    if os.getpid() != leader:
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        while True:
            try: time.sleep(1)
            except BaseException: pass
"""
    cell = child(code + subject(use="use", kind="fork"))
    assert (cell.status, cell.step) == ("hang", "uses its own")
    assert cell.seconds is not None
    assert 1 <= cell.seconds < 10  # its own slack, not the deadline
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_child_that_hangs_before_it_said_a_word() -> None:
    """The deadline counts from the start, too."""
    cell = child("time.sleep(60)", deadline_s=1)
    assert (cell.status, cell.step) == ("hang", "starts")


def test_child_that_floods() -> None:
    """What a library prints is no story of ours, and megabytes of it are not kept."""
    noise = "os.write(1, b'x' * 1_000_000 + b'\\n5\\n[]\\n'); os.write(2, b'y' * 5_000_000)\n"
    cell = child(noise + subject())
    assert cell.is_ok
    assert len(str(cell.to_dict())) < 10_000


def test_cell_that_nobody_waits_for() -> None:
    """When the doctor is stopped, its children are."""
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    child("time.sleep(60)", stop=stop)
    assert time.monotonic() - started < 10


def test_warm_horse_answers_twice() -> None:
    """An exec'd process keeps the thing: both answers are timed."""
    command = [sys.executable, "-P", "-m", "warmclip.doctor.onnx_subject", "--process", "horse"]
    cell = run_probe(command, deadline_s=60, stop=threading.Event())
    assert cell.is_ok
    assert [step["step"] for step in cell.steps][-2:] == ["answers", "answers again"]
    assert cell.again_s is not None
    assert cell.seconds is not None
    assert cell.again_s < cell.seconds


def test_horse_that_dies() -> None:
    """A horse that cannot do it fails the cell, with its own words."""
    command = [sys.executable, "-P", "-m", "warmclip.doctor.onnx_subject"]
    options = ["--graph", os.devnull, "--side", "8", "--process", "serve"]
    code = f"""
s = Subject(make=dict, use=lambda made: None, command={command + options[:4]!r})
sys.exit(processes.run(s, "horse"))
"""
    cell = child(code)
    assert cell.status == "error"
    assert cell.reason is not None
    assert "BundleError" in cell.reason


OK = ProbeResult(status="ok", seconds=0.5)
HORSE = ProbeResult(status="ok", seconds=0.5, again_s=0.01)
HANG = ProbeResult(status="hang", seconds=10, step="exits")
ABORT = ProbeResult(
    status="signal", reason="SIGABRT", step="makes it anew", said="Unable to reach it"
)
ERROR = ProbeResult(status="error", reason="RuntimeError: no such thing", step="answers")


def row(
    name: str = "import onnxruntime",
    *,
    provider: str | None = None,
    main: ProbeResult = OK,
    fork: ProbeResult = OK,
    spawned: ProbeResult = OK,
    horse: ProbeResult = HORSE,
) -> Row:
    """A row of the matrix."""
    cells = dict(zip(COLUMNS, (main, fork, spawned, horse), strict=True))
    return Row(name=name, provider=provider, cells=cells, forked=(Variant(name=PLAIN, cell=fork),))


def session(**cells: ProbeResult) -> Row:
    """The row that decides whether warmclip works here."""
    return row("onnxruntime session, cpu", provider="cpu", **cells)


def test_hang_in_a_fork_is_the_reason() -> None:
    """The sentence says what hangs, when, and what warmclip does instead."""
    found = draw_conclusion([row(fork=HANG), session()], "auto")
    assert found.is_fork_unsafe
    assert found.own_way_works
    assert found.sentence.startswith(
        "Forking is unsafe here because after import onnxruntime the forked child hangs when it "
        "exits (given 10 s). `warmclip worker` does not fork."
    )
    assert "10.0 ms" in found.sentence


def test_abort_in_a_fork_is_the_reason() -> None:
    """The users' own crash is told by its signal and its words."""
    found = draw_conclusion([row("open_clip ViT-B-32 on mps", fork=ABORT), session()], "auto")
    assert "dies of SIGABRT when it makes it anew (Unable to reach it)" in found.sentence


def test_what_fails_everywhere_is_not_the_forks_fault() -> None:
    """A row that fails in the main process as well says nothing about forking."""
    found = draw_conclusion([row("x", main=ERROR, fork=ERROR), session()], "auto")
    assert not found.is_fork_unsafe
    assert "no promise" in found.sentence


def test_what_is_not_installed_is_no_failure() -> None:
    """Rows that were not tried decide nothing."""
    cells = absent("torch is not installed")
    found = draw_conclusion(
        [row("import torch", main=cells, fork=cells, spawned=cells, horse=cells), session()], "auto"
    )
    assert (found.is_fork_unsafe, found.own_way_works) == (False, True)


@pytest.mark.parametrize("cells", [{"horse": ERROR}, {"spawned": HANG}])
def test_own_way_that_does_not_work(cells: dict[str, ProbeResult]) -> None:
    """If an exec'd process cannot do it either, that is what the sentence says."""
    found = draw_conclusion([row(fork=HANG), session(**cells)], "auto")
    assert not found.own_way_works
    assert "neither does it work here: onnxruntime session, cpu" in found.sentence


def test_provider_that_is_not_there() -> None:
    """A provider asked for by name and not found is a failure, whatever the others do."""
    found = draw_conclusion([row(), session()], "coreml")
    assert not found.own_way_works
    assert "'coreml'" in found.sentence


def test_folk_remedies_are_noted() -> None:
    """Variables that are set against the crash are named, with what they do."""
    machine = read_machine({"OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"})
    assert any("OBJC_DISABLE_INITIALIZE_FORK_SAFETY" in note for note in machine.notes)
    assert read_machine({}).packages["onnxruntime"]
    assert machine.cores >= 1


def test_two_builds_of_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has overwritten the other's files, which pip does not say: the doctor does."""
    assert not any("each other" in note for note in read_machine({}).notes)
    record = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n"
    )
    (record / "top_level.txt").write_text("onnxruntime\n")
    monkeypatch.syspath_prepend(tmp_path)
    machine = read_machine({})
    assert machine.packages["onnxruntime-gpu"] == "1.31.1"
    assert any("onnxruntime and onnxruntime-gpu are installed over" in it for it in machine.notes)


@pytest.mark.parametrize(
    ("works", "states", "code"),
    [
        (True, ["ok", "absent"], 0),
        (False, ["unreachable"], 1),
        (True, ["ok", "wrong"], 2),
        (True, ["wrong", "unreachable"], 3),
    ],
)
def test_exit_codes(works: bool, states: list[str], code: int) -> None:
    """1 when warmclip cannot work, 2 for a wrong setting, 3 for a silent service."""
    assert report(works=works, states=states).exit_code == code
    assert report(works=works, states=states, trials=ERROR).exit_code == 1


VERDICT = {
    "asked": "auto",
    "chosen": {"image": "cpu"},
    "why": {"image": "20 images/s at batch 32"},
    "trials": [
        {
            "provider": name,
            "tower": "image",
            "passed": name == "cpu",
            "reason": reason,
            "cosine": cosine,
            "images_per_s": {1: 12.3},
            "load_s": None,
            "peak_rss_mb": 700.0,
            "partitions": 1,
            "cpu_nodes": 0,
        }
        for name, reason, cosine in (("cpu", "", 1.0), ("coreml-fp16", "strays", 0.5))
    ],
    "passed_over": {"openvino": "it is in quarantine"},
}


def report(
    *,
    works: bool = True,
    states: list[str],
    rows: tuple[Row, ...] = (),
    trials: ProbeResult | None = None,
) -> Report:
    """A visit with these findings."""
    return Report(
        machine=read_machine({"PYTORCH_ENABLE_MPS_FALLBACK": "1"}),
        dependencies=tuple(
            Dependency(name="s", state=state, detail="d\n\x1b[31m")  # type: ignore[arg-type]  # each is one of State
            for state in states
        ),
        graph="a graph",
        rows=rows,
        trials=trials or ProbeResult(status="ok", facts={"verdict": VERDICT}),
        conclusion=Conclusion(is_fork_unsafe=True, own_way_works=works, sentence="So it is."),
        seconds=1,
    )


@pytest.mark.parametrize("width", [72, 140])
def test_picture_shows_every_kind_of_cell(width: int) -> None:
    """Whatever became of a cell can be read, also on a narrow terminal; no name forges lines."""
    missing = absent("open_clip is not installed")
    rows = (
        row("a", fork=HANG, horse=HORSE),
        row("b", fork=ABORT, horse=ERROR),
        row("c", main=missing, fork=missing, spawned=missing, horse=missing),
    )
    console = Console(width=width, file=io.StringIO(), markup=False)
    console.print(render_report(report(states=["ok", "wrong"], rows=rows)))
    assert isinstance(console.file, io.StringIO)
    text = " ".join(console.file.getvalue().split())
    words = ("HANG", "SIGABRT", "RuntimeError", "installed", "then 10.0 ms", "So it is.")
    for word in (*words, "passed", "failed", "strays", "used", "it is in quarantine"):
        assert word in text
    assert "\x1b" not in text
    assert "PYTORCH_ENABLE_MPS_FALLBACK" in text


def test_colours_can_be_read() -> None:
    """What hangs is white on red; the step below it is red on the terminal's own ground."""
    console = Console(width=140, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(render_report(report(states=["ok"], rows=(row("a", fork=HANG),))))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    (hang,) = [line for line in lines if "HANG" in line]
    (step,) = [line for line in lines if "exits" in line and "│" in line]
    assert ";41m" in hang
    assert "31m" in step
    assert ";41m" not in step


def test_machine_without_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is examined as others are, also without a bundle."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    settings = Settings(home=tmp_path / "home", bundle=tmp_path / "none")
    report = examine(settings, {}, deadline_s=60.0, quick=True)
    assert report.graph == "a tiny built-in graph"
    (row,) = [it for it in report.rows if it.provider == CPU.name]
    assert row.cells["main"].status == "ok"


def test_built_in_graph_computes() -> None:
    """The graph for machines without a bundle runs in our own session."""
    side = tiny.SIDE_PX
    pixels = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1) * np.ones((2, 3, side, side), "f4")
    features = OnnxSession(tiny.TINY_GRAPH, CPU).run({"pixel_values": pixels})
    np.testing.assert_allclose(features, [[0, 1, 2], [0, 1, 2]])


def test_built_in_graph_is_what_it_says() -> None:
    """Made again with onnx, it is the same, byte for byte in its nodes."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(tiny.TINY_GRAPH.read_bytes())
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["GlobalAveragePool", "Flatten"]
    assert len(model.graph.initializer) == 0
    assert not model.metadata_props
