"""macOS's facts about itself, by name: ``sysctl(8)`` lists them."""

import subprocess
from pathlib import Path

_TIMEOUT_S = 10.0


def read_sysctl(name: str, *, tool: Path = Path("/usr/sbin/sysctl")) -> str | None:
    """The value of a name, such as "kern.osversion"; None where the system tells none.

    Args:
        name: of the value.
        tool: the program that is asked.
    """
    try:
        done = subprocess.run(  # noqa: S603 - the system's own tool, with our own arguments
            [str(tool), "-n", name],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
