"""A model in a forked child: refused at once, in a sentence. Each test forks for real."""

import subprocess
import sys
from pathlib import Path

import pytest

# The parent is a process of its own: pytest's has threads and other sessions.
_PROLOGUE = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the test
from warmclip import Encoder
from warmclip.errors import ForkedSessionError
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.providers import CPU
from warmclip.inference.ort.session import OnnxSession
from PIL import Image
bundle = sys.argv[1]
picture = Image.new("RGB", (64, 64))

def fork(work, leave=os._exit):
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        try:
            print(work())
        except ForkedSessionError as exc:
            print("refused:", exc)
        sys.stdout.flush()
        leave(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(code: str, bundle: Path) -> str:
    """Run a parent that forks; a hang is a failure."""
    done = subprocess.run(
        [sys.executable, "-c", _PROLOGUE + code, str(bundle)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "call",
    [
        "encoder.encode_texts(['a'])",
        "encoder.encode_images([picture])",
        "encoder.encode_each([(0, picture)])",
        "encoder.warm()",
    ],
)
@pytest.mark.parametrize("warm", ["", "encoder.warm()"])
def test_inherited_encoder(demo_bundle: Path, call: str, warm: str) -> None:
    """Every way to use it is refused, warm or not, with the way out."""
    told = run(
        f"encoder = Encoder.open(bundle, provider='cpu')\n{warm}\nfork(lambda: {call})", demo_bundle
    )
    assert told.startswith("refused: ")
    assert "warmclip worker" in told
    assert len(told.splitlines()) == 1


def test_inherited_session(demo_bundle: Path) -> None:
    """A session by itself knows its process as well."""
    code = """
session = OnnxSession(ModelBundle.open(bundle).graph("image", "fp32"), CPU)
fork(lambda: session.run({}))
"""
    assert "warmclip worker" in run(code, demo_bundle)


def test_locks_held_at_the_fork(demo_bundle: Path) -> None:
    """Another thread's locks are held for ever in the child: none is waited for."""
    code = """
encoder = Encoder.open(bundle, provider='cpu')
encoder.warm()
session = OnnxSession(ModelBundle.open(bundle).graph("image", "fp32"), CPU)
guard = encoder._towers["image"]
locks = [encoder._lock, guard._lock, session._lock, guard._session._lock]
held = threading.Event()

def hold():
    for lock in locks:
        lock.acquire()
    held.set()
    time.sleep(60)

threading.Thread(target=hold, daemon=True).start()
held.wait()
fork(lambda: encoder.encode_images([picture]))
fork(lambda: encoder.encode_texts(["a"]))
fork(lambda: session.run({}))
sys.stdout.flush()
os._exit(0)
"""
    assert run(code, demo_bundle).count("refused: ") == 3


def test_busy_at_the_fork(demo_bundle: Path) -> None:
    """A child forked in the midst of a run is refused as well, however often."""
    code = """
encoder = Encoder.open(bundle, provider='cpu')
encoder.warm()

def work():
    while True:
        encoder.encode_images([picture] * 8)

threading.Thread(target=work, daemon=True).start()
for _ in range(20):
    fork(lambda: encoder.encode_images([picture]))
sys.stdout.flush()
os._exit(0)
"""
    assert run(code, demo_bundle).count("refused: ") == 20


def test_opening_in_a_forked_child(demo_bundle: Path) -> None:
    """A new Encoder would stand on what onnxruntime had set up before the fork."""
    told = run(
        "Encoder.open(bundle, provider='cpu')\nfork(lambda: Encoder.open(bundle, provider='cpu'))",
        demo_bundle,
    )
    assert "had loaded onnxruntime" in told
    assert "warmclip worker" in told


def test_opening_in_a_child_of_a_light_parent(demo_bundle: Path) -> None:
    """Who forks before anything was loaded has done nothing wrong."""
    told = run(
        "fork(lambda: Encoder.open(bundle, provider='cpu').encode_texts(['a']).shape)", demo_bundle
    )
    assert told == "(1, 128)\n"


def test_leaving_a_forked_child(demo_bundle: Path) -> None:
    """A child that ends like any program does not wait for the parent's threads."""
    code = """
encoder = Encoder.open(bundle, threads=2, provider='cpu')
encoder.warm()
print("exit code", fork(lambda: encoder.encode_texts(["a"]), leave=sys.exit))
"""
    assert "exit code 0" in run(code, demo_bundle)


def test_dropping_an_inherited_encoder(demo_bundle: Path) -> None:
    """Nor does one that lets go of it."""
    code = """
encoder = Encoder.open(bundle, threads=2, provider='cpu')
encoder.warm()

def drop():
    import gc
    globals().pop("encoder")
    gc.collect()
    return "dropped"

print("exit code", fork(drop))
"""
    told = run(code, demo_bundle)
    assert "dropped" in told
    assert "exit code 0" in told
