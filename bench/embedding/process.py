"""A contender as this process sees it: a child behind two pipes."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.embedding.contenders import Contender, environment
from warmclip.errors import WarmclipError

_REPOSITORY = Path(__file__).parents[2]
_ORDER_TIMEOUT_S = 900  # compiling takes minutes
_STOP_PATIENCE_S = 20


class ContenderFailed(WarmclipError):
    """A contender ended, or did not do what it is there for."""


class Process:
    """It is exec'd, so that no two thread pools share a process, and stays warm.

    Attributes:
        started: on the clock of ``time.perf_counter``.
    """

    def __init__(self, contender: Contender, materials: Path, log: Path, python: Path) -> None:
        self.name = contender.name
        self._log = log
        options = json.dumps(contender.options)
        with log.open("wb") as stderr:
            self.started = time.perf_counter()
            self._child = subprocess.Popen(
                [python, "-m", "bench.embedding.child", materials, contender.subject, options],
                cwd=_REPOSITORY,
                env=environment(str(_REPOSITORY)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                process_group=0,  # Ctrl+C is for us: we end it
            )

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Send an order and wait for its answer.

        Raises:
            ContenderFailed: it ended, cannot run here, or took too long.
        """
        assert self._child.stdin is not None  # noqa: S101 - both are pipes
        assert self._child.stdout is not None  # noqa: S101
        deadline = threading.Timer(_ORDER_TIMEOUT_S, self._child.kill)
        deadline.daemon = True
        deadline.start()
        try:
            self._child.stdin.write(json.dumps(order) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = self._child.stdout.readline()  # what it said before it left
        finally:
            deadline.cancel()
        if not line:
            raise ContenderFailed(f"it ended, code {self._child.wait()}: {self._said()}")
        answer: dict[str, Any] = json.loads(line)
        if "skipped" in answer:
            raise ContenderFailed(answer["skipped"])
        return answer

    def has_ended(self) -> bool:
        """Whether it takes no orders any more."""
        return self._child.poll() is not None

    def close(self) -> None:
        """Let it end."""
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended by itself
                self._child.stdin.close()
        try:
            self._child.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def kill(self) -> None:
        """End it now, whatever it is at."""
        self._child.kill()

    def _said(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


OWN_PYTHON = Path(sys.executable)
