"""A process that uses an embedded store, and dies at a step: a rename, or a deletion of files."""

from pathlib import Path

from running import start_python

_PROGRAM = """
import os
import signal
import sys
from pathlib import Path
from warmclip.store.qdrant import QdrantStore

left = int(sys.argv[2])

def die(event, arguments):
    global left
    if event in ("os.rename", "shutil.rmtree"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

store = QdrantStore.embedded(Path(sys.argv[1]))
sys.addaudithook(die)
"""


def end_at_step(folder: Path, step: int, use: str) -> int:
    """Open a store, and use it until its n-th step.

    Args:
        folder: of the store.
        step: at which the process dies; the first is 1.
        use: statements with the store, ``store``.

    Returns:
        The process's exit code: that of SIGKILL, unless it took fewer steps.
    """
    with start_python(_PROGRAM + use, folder, step) as child:
        child.communicate()
    return child.returncode
