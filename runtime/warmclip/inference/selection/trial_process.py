"""The process that a trial runs in: exec'd, in a process group of its own, and used once.

What becomes of it is part of the trial: it may answer, crash, or hang in native code until its
deadline.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

from warmclip.children import TRIAL_PREFIX, ChildProcess, describe_exit, own_temporary_folder
from warmclip.errors import CacheUnusable
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.providers import Provider
from warmclip.inference.selection.trial import Trial

_ALARM_GRACE_S = 5  # the child's own alarm comes after our deadline
_REASON_CHARS = 300


def run_trial(
    bundle: ModelBundle,
    provider: Provider,
    tower: Tower,
    *,
    home: Path,
    threads: int,
    deadline_s: float,
    waiting: Callable[[], None] | None = None,
) -> Trial:
    """Try a provider in a child process, and kill the child if it does not end in time.

    Args:
        bundle: whose graph and golden vectors.
        provider: an entry of the table.
        tower: image or text.
        home: where what is compiled is kept.
        threads: of the session.
        deadline_s: for everything, from the start of the process.
        waiting: called about every second.

    Raises:
        CacheUnusable: what the provider compiles cannot be kept.
    """
    request = {
        "bundle": str(bundle.folder.absolute()),
        "provider": provider.name,
        "tower": tower,
        "home": str(home),
        "threads": threads,
        "alarm_s": int(deadline_s) + _ALARM_GRACE_S,
    }
    # -P: no module of the working directory shadows one of ours.
    command = [sys.executable, "-P", "-m", "warmclip.inference.selection.trial"]
    gives_up_at = time.monotonic() + deadline_s
    stage, answer, timed_out = "starting", None, False
    with (
        own_temporary_folder(TRIAL_PREFIX) as environment,
        # The child leaves when its stdin ends, should this process die.
        ChildProcess([*command, json.dumps(request)], stdin=PIPE, env=environment) as child,
    ):
        try:
            for message in child.messages(
                lambda: gives_up_at - time.monotonic(), on_tick=waiting or (lambda: None)
            ):
                stage = message.get("stage", stage)
                answer = message.get("trial", answer)
                if "cache_unusable" in message:
                    raise CacheUnusable(message["cache_unusable"])
        except TimeoutError:
            timed_out = True
        code = child.end()
    if answer is not None:
        return Trial.from_dict(answer)
    if timed_out:
        reason = f"gave no answer within {deadline_s:.0f} s, while {stage}"
    else:
        reason = f"{describe_exit(code)} while {stage}{_last_line(child.stderr_text)}"
    return Trial(provider=provider.name, tower=tower, passed=False, died=True, reason=reason)


def _last_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    return f": {lines[-1].strip()[:_REASON_CHARS]}" if lines else ""
