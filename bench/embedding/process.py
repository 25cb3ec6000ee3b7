"""A contender as this process sees it: a child that answers one order at a time."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import PIPE
from typing import Any

from bench.embedding.contenders import Contender, environment
from warmclip.children import ChildProcess, describe_exit
from warmclip.errors import WarmclipError

_REPOSITORY = Path(__file__).parents[2]
_ORDER_TIMEOUT_S = 900.0  # compiling takes minutes
_STOP_PATIENCE_S = 20.0


class ContenderFailed(WarmclipError):
    """A contender ended, or did not do what it is there for."""


class Process:
    """A contender that was exec'd, so that no two thread pools share a process, and stays warm.

    Attributes:
        started: on the clock of ``time.perf_counter``.
    """

    def __init__(self, contender: Contender, fixtures: Path, log: Path, python: Path) -> None:
        self.name = contender.name
        self._log = log
        options = json.dumps(contender.options)
        command: list[str | Path] = [
            python,
            "-m",
            "bench.embedding.child",
            fixtures,
            contender.adapter,
            options,
        ]
        with log.open("wb") as stderr:
            self.started = time.perf_counter()
            self._child = ChildProcess(
                command,
                cwd=_REPOSITORY,
                env=environment(str(_REPOSITORY)),
                stdin=PIPE,
                stderr=stderr,
            )

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Send an order and wait for its answer.

        Raises:
            ContenderFailed: it ended, cannot run here, or took too long.
        """
        gives_up_at = time.monotonic() + _ORDER_TIMEOUT_S
        self._child.send(order)
        try:
            answer = next(self._child.messages(lambda: gives_up_at - time.monotonic()), None)
        except TimeoutError as exc:
            self._child.kill()
            raise ContenderFailed(f"it gave no answer within {_ORDER_TIMEOUT_S:.0f} s") from exc
        if answer is None:
            raise ContenderFailed(f"it {describe_exit(self._child.end())}: {self._last_line()}")
        if "skipped" in answer:
            raise ContenderFailed(answer["skipped"])
        return answer

    def has_ended(self) -> bool:
        """Whether it takes no orders any more."""
        return not self._child.is_alive

    def close(self) -> None:
        """Let it end; it is killed if it does not end soon."""
        self._child.hang_up()
        self._child.wait(_STOP_PATIENCE_S)
        self._child.end()
        self._child.close()

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._child.kill()

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing to stderr"


OWN_PYTHON = Path(sys.executable)
