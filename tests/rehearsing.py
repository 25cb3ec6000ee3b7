"""Tests on Linux made to look like a Mac: ``make rehearse-mac TESTS=tests/unit``.

A process finds what ``standins/mac`` says. Temporary folders lie as deep as a Mac's, behind a
link, and 256 files may be open. What is given on the command line goes to pytest.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

_MAC = Path(__file__).parent / "standins" / "mac"
_OPEN_FILES = 256  # launchd's limit
# With what is above it here as long as a Mac's, which Chromium's own socket just fits into.
_TEMPORARY = "folders/zz/zyxvpxvq6csfxvn_n0000/T"


def main() -> int:
    """Run pytest there; returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="mac-", dir="/tmp") as made:
        top = Path(made)
        top.chmod(0o755)
        temporary = top / "private" / "var" / _TEMPORARY
        temporary.mkdir(parents=True)
        temporary.chmod(0o1777)  # root tries as somebody else what is forbidden
        (top / "private" / "tmp").mkdir()
        (top / "private" / "tmp").chmod(0o1777)
        for name in ("tmp", "var"):
            (top / name).symlink_to(f"private/{name}")
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, hard))
        environment = os.environ | {
            "MAC_REHEARSAL": made,
            "PATH": f"{_MAC / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(_MAC),
            "TMPDIR": str(top / "var" / _TEMPORARY),
        }
        # Assertions are not rewritten: pytest would read the tests by itself.
        command = [sys.executable, "-m", "pytest", "--assert=plain", "-p", "mac_plugin"]
        return subprocess.run([*command, *sys.argv[1:]], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
