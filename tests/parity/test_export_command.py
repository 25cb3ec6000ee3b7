"""The command warmclip-export from beginning to end, as a person runs it."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from standins.disk import free_blocks
from tiny_models import TINY_VIT, written
from warmclip.inference.bundle import ModelBundle
from warmclip_export import registry
from warmclip_export.__main__ import app
from warmclip_export.architecture import build_model
from warmclip_export.registry import tower_bytes


@pytest.fixture(autouse=True)
def fp32_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """One precision is enough here, and twice as quick."""
    monkeypatch.setattr("warmclip_export.exporter.PRECISIONS", ("fp32",))


def test_bundle_is_exported_checked_and_not_overwritten(tmp_path: Path) -> None:
    """export, parity, export again: done, done, refused; random weights are said loudly."""
    model = written(tmp_path, "tiny", TINY_VIT)
    out = str(tmp_path / "models")
    run = CliRunner().invoke
    export = ["model", "--model", model, "--pretrained", "random:2", "--out", out]

    made = run(app, [*export, "--json"])
    parity = ["parity", f"{out}/tiny-random-2", "--model", model, "--every", "20"]
    checked = run(app, [*parity, "--json"])
    again = run(app, export)

    assert (made.exit_code, checked.exit_code, again.exit_code) == (0, 0, 2)
    assert "RANDOM" in made.stderr
    report = json.loads(made.stdout)
    bundle = ModelBundle.open(report["bundle"])
    assert report["fingerprint"] == bundle.manifest.fingerprint
    assert report["random"] is True
    assert bundle.manifest.name == "tiny-random-2"
    assert all(stage["passed"] for stage in json.loads(checked.stdout)["stages"])
    assert "--force" in again.stderr


def test_temporary_folder_without_room(
    tmp_path: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export says so before it computes anything, and lint instead of onnxruntime's error."""
    model = written(tmp_path, "tiny", TINY_VIT)
    monkeypatch.setattr(os, "statvfs", free_blocks(1))

    export = ["model", "--model", model, "--pretrained", "random:2", "--out", str(tmp_path / "m")]
    made = CliRunner().invoke(app, export)
    linted = CliRunner().invoke(app, ["lint", str(demo_bundle)])

    for ran in (made, linted):
        assert ran.exit_code == 2
        assert "name another folder with TMPDIR" in ran.stderr
    assert "fetch the weights" not in made.stderr
    assert not list((tmp_path / "m").glob("*"))


def test_folder_of_the_bundle_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export says so before it computes anything; its temporary files may need that room too."""
    model = written(tmp_path, "tiny", TINY_VIT)
    largest = max(tower_bytes(TINY_VIT).values())
    monkeypatch.setattr(os, "statvfs", free_blocks(largest, block_bytes=1))
    out = tmp_path / "new" / "models"

    export = ["model", "--model", model, "--pretrained", "random:2", "--out", str(out)]
    made = CliRunner().invoke(app, export)

    assert made.exit_code == 2
    assert f"{tmp_path} has 0.01 GB free; the bundle takes about" in made.stderr
    assert "on the same disk: make room, or name another folder with --out" in made.stderr
    assert "fetch the weights" not in made.stderr
    assert not out.exists()


def test_sizes_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The towers are built without weights once: a large one takes seconds each time."""
    model = written(tmp_path, "tiny", TINY_VIT)
    built: list[object] = []

    def build(*arguments: object) -> object:
        built.append(arguments)
        return build_model(*arguments)  # type: ignore[arg-type]  # as they were given

    monkeypatch.setattr(registry, "build_model", build)
    export = ["model", "--model", model, "--pretrained", "random:2", "--out", str(tmp_path / "m")]

    made = CliRunner().invoke(app, [*export, "--precision", "int8"])

    assert made.exit_code == 0
    assert len(built) == 1


def test_machine_with_too_little_memory_is_told_and_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it begins, a person reads what an export takes and what there is; none is refused."""
    monkeypatch.setattr("warmclip_export.memory.find_memory", lambda: 300_000_000)
    model = written(tmp_path, "tiny", TINY_VIT)

    made = CliRunner().invoke(
        app, ["model", "--model", model, "--pretrained", "random:2", "--out", str(tmp_path)]
    )

    assert made.exit_code == 0
    assert "GB of memory, and at most 0.3 GB are to be had here" in made.stderr
    assert made.stderr.index("of memory") < made.stderr.index("fetch the weights")


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle removes what was written so far."""

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("warmclip_export.exporter.onnx_file.write_tower", interrupt)
    model = written(tmp_path, "tiny", TINY_VIT)
    out = tmp_path / "models"

    ended = CliRunner().invoke(
        app, ["model", "--model", model, "--pretrained", "random:2", "--out", str(out)]
    )

    assert ended.exit_code != 0
    assert list(out.iterdir()) == []
