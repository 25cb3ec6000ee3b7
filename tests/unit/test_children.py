"""Child processes: lines of JSON, deadlines, groups, and how they ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import PIPE

import pytest

from standins.answering import AnsweringProgram
from standins.debugger import debugger_at
from warmclip import children
from warmclip.children import ChildProcess, describe_exit, signal_name

PATIENCE_S = 30.0


def python(code: str) -> list[str]:
    """A child that runs some lines."""
    return [sys.executable, "-c", code]


def within(seconds: float) -> Callable[[], float]:
    """A deadline from now on."""
    gives_up_at = time.monotonic() + seconds
    return lambda: gives_up_at - time.monotonic()


def test_messages_among_other_lines() -> None:
    """JSON objects are messages; what else a library prints, in whatever pieces, is passed by."""
    code = """
import os, time
for piece in (b'{"a": 1}\\nnoise\\n[1]\\n"x"\\n{"b"', b': 2}\\n{"c": 3', b'}\\n\\xff\\n{"cut'):
    os.write(1, piece)
    time.sleep(0.05)
"""
    with ChildProcess(python(code)) as child:
        assert list(child.messages(within(PATIENCE_S))) == [{"a": 1}, {"b": 2}, {"c": 3}]
        assert child.end() == 0


def test_orders_are_answered() -> None:
    """A line is sent as it is asked for, answered, and the child leaves when we hang up."""
    code = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    with ChildProcess(python(code), stdin=PIPE) as child:
        for number in range(3):
            child.send({"number": number})
            assert next(child.messages(within(PATIENCE_S))) == {"number": number}
        assert child.is_alive
        child.hang_up()
        assert child.wait(PATIENCE_S)
        assert child.end() == 0


def test_large_message_to_a_slow_reader() -> None:
    """What does not fit into a pipe at once arrives whole."""
    text = "x" * 300_000
    code = """
import sys, time
time.sleep(0.2)
print('{"length": %d}' % len(sys.stdin.readline()))
"""
    with ChildProcess(python(code), stdin=PIPE) as child:
        child.send({"text": text})
        assert list(child.messages(within(PATIENCE_S))) == [{"length": len(text) + 13}]


def test_child_that_has_ended_takes_orders() -> None:
    """Sending to it raises nothing; reading says that it is over, again and again."""
    with ChildProcess(python(""), stdin=PIPE) as child:
        assert child.wait(PATIENCE_S)
        child.send({"too": "late"})
        for _ in range(2):
            with pytest.raises(EOFError):
                child.read(PATIENCE_S)


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(600)",
        "import os, time\nos.close(1)\ntime.sleep(600)",
        'while True: print(\'{"go": "on"}\', flush=True)',
    ],
    ids=["silent", "closes stdout", "talks on"],
)
def test_deadline(code: str) -> None:
    """A child that does not end in time is told of, whatever it does meanwhile, and is killed."""
    ticks = []
    with ChildProcess(python(code)) as child:
        with pytest.raises(TimeoutError, match=str(child.pid)):
            for _ in child.messages(within(0.5), on_tick=lambda: ticks.append(1), tick_s=0.1):
                pass
        assert ticks
        assert child.end() == -signal.SIGKILL


def test_a_message_may_move_the_deadline() -> None:
    """The deadline is asked for anew after each message."""
    code = """
import time
for _ in range(4):
    print('{"step": 1}', flush=True)
    time.sleep(0.3)
"""
    ends = [time.monotonic() + 0.5]  # less than all of it takes
    with ChildProcess(python(code)) as child:
        for message in child.messages(lambda: ends[-1] - time.monotonic(), tick_s=0.1):
            assert message == {"step": 1}
            ends.append(time.monotonic() + PATIENCE_S)
        assert child.end() == 0


def test_whoever_does_not_wait_any_more() -> None:
    """What the tick raises ends the waiting, and the child with it."""

    def stop() -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        ChildProcess(python("import time\ntime.sleep(600)")) as child,
    ):
        list(child.messages(within(PATIENCE_S), on_tick=stop))
    assert not child.is_alive


@pytest.mark.parametrize("has_waitid", [True, False])
@pytest.mark.parametrize("ends_first", [True, False])
def test_children_of_the_child(
    *, ends_first: bool, has_waitid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end with it, also those of a child that has ended by itself before anybody asked."""
    if not has_waitid:  # as on macOS before Python 3.13
        monkeypatch.delattr(os, "waitid", raising=False)
    with closing(AnsweringProgram()) as program:
        code = f"""
import os, subprocess, sys, time
subprocess.Popen({program.command}, stdout=subprocess.DEVNULL)
sys.stdin.readline()
if not {ends_first}:
    time.sleep(600)
os._exit(3)
"""
        with ChildProcess(python(code), stdin=PIPE) as child:
            assert program.answers()
            child.send({"you may": "end"})
            if ends_first:
                assert child.wait(PATIENCE_S)
                assert program.answers() is hasattr(os, "waitid")
            assert child.end() == (3 if ends_first else -signal.SIGKILL)
            assert not program.answers()


def test_kill_is_repeatable() -> None:
    """A second kill, and one after the end, do nothing."""
    with ChildProcess(python("import time\ntime.sleep(600)")) as child:
        child.kill()
        child.kill()
        assert child.wait(PATIENCE_S)
        assert child.end() == child.end() == -signal.SIGKILL
        child.kill()


def test_killed_and_does_not_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left behind after a while, which is said once, and seen to its end when that comes."""
    monkeypatch.setattr(children, "_DYING_S", 0.5)
    with ChildProcess(python("import time\ntime.sleep(600)")) as child:
        with debugger_at(child.pid):
            assert child.end() == child.end() == -signal.SIGKILL
            assert child.is_alive
        (said,) = caplog.messages
        assert f"process {child.pid} was killed" in said
        assert child.wait(PATIENCE_S)
        assert child.end() == -signal.SIGKILL


def test_last_words() -> None:
    """The end of stderr is kept, however much came before it, and never blocks the child."""
    code = """
import os, sys
os.close(1)
for _ in range(5000): sys.stderr.write("x" * 99 + "\\n")
sys.stderr.write("the last line\\n")
"""
    with ChildProcess(python(code)) as child:
        assert list(child.messages(within(PATIENCE_S))) == []
        assert child.end() == 0
        assert child.stderr_text.endswith("\nthe last line\n")
        assert len(child.stderr_text) <= 64 * 1024


def test_descriptors_are_closed() -> None:
    """A child that is over leaves none of its pipes open here, its own pipes included."""
    before = set(Path("/dev/fd").iterdir())
    ours, theirs = os.pipe()
    read_from, write_to = os.pipe()
    child = ChildProcess(
        python(f"import os\nos.write({write_to}, b'{{}}\\n')"),
        stdout=subprocess.DEVNULL,
        messages_from=read_from,
        commands_to=theirs,
        pass_fds=[write_to],
    )
    os.close(write_to)
    assert list(child.messages(within(PATIENCE_S))) == [{}]
    assert child.end() == 0
    child.close()
    os.close(ours)
    assert set(Path("/dev/fd").iterdir()) == before


def test_how_it_ended() -> None:
    """A code, or a signal by name; a number that no signal has stays a number."""
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-signal.SIGABRT) == "was killed by SIGABRT"
    assert signal_name(signal.SIGSEGV) == "SIGSEGV"
    assert signal_name(99) == "signal 99"


def test_the_module_is_light() -> None:
    """The parent of a worker imports it: it must load neither a model's libraries nor numpy."""
    code = """
import sys
import warmclip.children
heavy = {"numpy", "onnxruntime", "PIL", "pydantic", "redis", "rq"} & set(sys.modules)
sys.exit(", ".join(heavy) or 0)
"""
    done = subprocess.run(python(code), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
