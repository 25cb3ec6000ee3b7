import json
import logging
import stat
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from warmclip.inference.selection.quarantine import FILE, Quarantine


def test_added_and_found_by_another_process(tmp_path: Path) -> None:
    """What one process writes, the next one reads, with the reason and the expiry."""
    tmp_path.chmod(0o755)  # a home that others may read
    assert Quarantine(tmp_path).add("coreml-fp16", "computed\nNaN")
    record = Quarantine(tmp_path).active()["coreml-fp16"]
    assert record.reason == "computed NaN"
    since, until = map(datetime.fromisoformat, (record.since, record.until))
    assert until - since == timedelta(days=1)


def test_long_reason(tmp_path: Path) -> None:
    """Of what a dying process printed, so much is kept as people read."""
    Quarantine(tmp_path).add("coreml-fp16", "x" * 501)
    assert Quarantine(tmp_path).active()["coreml-fp16"].reason == "x" * 500


def test_home_that_is_not_there_yet(tmp_path: Path) -> None:
    """Reading makes nothing; writing makes the home, closed to others."""
    home = tmp_path / "home"
    assert Quarantine(home).active() == {}
    assert Quarantine(home).clear() == []
    assert not home.exists()
    Quarantine(home).add("coreml-fp16", "aborted")
    assert stat.S_IMODE((home / FILE).stat().st_mode) == 0o600


def test_reference_is_never_quarantined(tmp_path: Path) -> None:
    """There is always something to fall back to."""
    assert not Quarantine(tmp_path).add("cpu", "it crashed")
    assert Quarantine(tmp_path).active() == {}


def test_record_runs_out(tmp_path: Path) -> None:
    """A quarantine ends by itself."""
    Quarantine(tmp_path).add("coreml-fp16", "aborted", hours=0)
    Quarantine(tmp_path).add("coreml-fp32", "aborted", hours=1)
    assert list(Quarantine(tmp_path).active()) == ["coreml-fp32"]


def test_cleared_by_name_by_family_and_all(tmp_path: Path) -> None:
    """A user takes back one, its relatives, or everything, and is told what was there."""
    quarantine = Quarantine(tmp_path)
    for name in ("coreml-fp16", "coreml-fp32", "openvino"):
        quarantine.add(name, "aborted")
    assert quarantine.clear("coreml-fp16") == ["coreml-fp16"]
    assert quarantine.clear("coreml-fp16") == []
    assert quarantine.clear("coreml") == ["coreml-fp32"]
    assert quarantine.clear() == ["openvino"]
    assert quarantine.active() == {}


def test_family_holds_for_its_members(tmp_path: Path) -> None:
    """A crash before anybody knew which variant was used counts against all of them."""
    Quarantine(tmp_path).add("coreml", "aborted")
    assert Quarantine(tmp_path).find("coreml-fp16") is not None
    assert Quarantine(tmp_path).find("cpu") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"a": 1}',
        '{"a": {"reason": "", "since": "", "until": "soon"}}',
        '{"a": {"reason": "", "since": "", "until": "2999-01-01T00:00:00"}}',
        "[" * 9999,
    ],
)
def test_damaged_file_is_said_aloud_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    """A broken file stops nobody from working."""
    (tmp_path / FILE).write_text(content)
    with caplog.at_level(logging.WARNING):
        assert Quarantine(tmp_path).active() == {}
    assert str(tmp_path / FILE) in caplog.text
    Quarantine(tmp_path).add("coreml-fp16", "aborted")
    assert list(json.loads((tmp_path / FILE).read_text())) == ["coreml-fp16"]


def test_many_processes_add_at_once(tmp_path: Path) -> None:
    """No record is lost when several workers see their provider fail together."""
    code = (
        "import sys, pathlib; from warmclip.inference.selection.quarantine import Quarantine as Q\n"
        "for i in range(20): Q(pathlib.Path(sys.argv[1])).add(f'x{sys.argv[2]}-{i}', 'aborted')"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)])
        for number in range(4)
    ]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(Quarantine(tmp_path).active()) == 80
    assert {path.name for path in tmp_path.iterdir()} == {FILE, f".{FILE}.lock"}
