"""A contender's own process: it loads once, then takes orders from a pipe and times them.

Usage: python -m bench.embedding.child FIXTURES.json ADAPTER OPTIONS
Orders and answers are JSON, one a line.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.embedding.adapters.adapter import BATCH, Skipped
from bench.embedding.fixtures import Fixtures, captions

_CLASSES = {
    "warmclip": ("bench.embedding.adapters.warm", "Warmclip"),
    "open_clip": ("bench.embedding.adapters.open_clip_torch", "OpenClip"),
    "onnxruntime": ("bench.embedding.adapters.stock_onnxruntime", "StockOnnxruntime"),
    "transformers": ("bench.embedding.adapters.hugging_face", "Transformers"),
    "fastembed": ("bench.embedding.adapters.fast_embed", "FastEmbed"),
    "service": ("bench.embedding.adapters.service", "Service"),
    "gallery": ("bench.embedding.adapters.gallery", "Gallery"),
    "embedded-store": ("bench.embedding.adapters.library", "EmbeddedStore"),
    "local-qdrant": ("bench.embedding.adapters.library", "LocalQdrant"),
    "sqlite-numpy": ("bench.embedding.adapters.library", "SqliteNumpy"),
    "gemm": ("bench.embedding.adapters.gemm", "Gemm"),
}
_SHOWN = 2  # rows of an answer that are compared with the others'


def main() -> None:
    """Serve until the pipe ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    fixtures = Fixtures.read(Path(sys.argv[1]))
    module, name = _CLASSES[sys.argv[2]]
    options = json.loads(sys.argv[3])
    try:
        adapter = getattr(importlib.import_module(module), name)(fixtures, **options)
    except (Skipped, ImportError) as exc:
        answers.write(json.dumps({"skipped": str(exc)}) + "\n")
        return
    server = AdapterServer(adapter, fixtures)
    for line in sys.stdin:
        answers.write(json.dumps(server.answer(json.loads(line))) + "\n")
        answers.flush()


class AdapterServer:
    """Does to one adapter what it is told."""

    def __init__(self, adapter: Any, fixtures: Fixtures) -> None:  # an Adapter, Gemm, or Library
        self._adapter = adapter
        self._fixtures = fixtures
        self._is_searchable = False

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order; an answer has the seconds on the clock and of the processors."""
        match order["do"]:
            case "describe":
                description: dict[str, Any] = self._adapter.describe()
                return description
            case "pixels":
                pixels = self._fixtures.load_pixels(order["count"])
                return _time(lambda: self._adapter.pixels(pixels), order["repeats"])
            case "products":
                seconds = self._adapter.seconds(order["tower"], order["count"], order["repeats"])
                return {"seconds": seconds}
            case "texts":
                return self._texts(order["start"], order["count"], order["repeats"])
            case "preprocess":
                path = self._fixtures.singles[order["picture"]]
                return _time(lambda: self._adapter.preprocess(path), order["repeats"])
            case "folder":
                return self._folder(order)
            case "query":
                return self._query(order["start"], order["count"])
            case "fill":
                filled = _time(lambda: self._adapter.fill(self._fixtures.library), 1)
                self._adapter.prepare_command(self._fixtures.library)
                return filled
            case "library":
                return self._library(order["count"])
            case "service":
                return self._service(order)
            case "thumbnails":
                shown: dict[str, Any] = self._adapter.show()
                return shown
            case "first":
                path = self._fixtures.folders["small"][0]
                return {"sample": np.asarray(self._adapter.embed([path])).tolist()}
            case "memory":
                self._adapter.pixels(self._fixtures.load_pixels(BATCH))
                self._adapter.texts(captions(0, BATCH))
                return _memory()
            case _:
                raise ValueError(f"no such order: {order}")

    def _texts(self, start: int, count: int, repeats: int) -> dict[str, Any]:
        """Never the same twice: whoever keeps answers gains nothing."""
        lists = [captions(start + turn * count, count) for turn in range(repeats)]
        waiting = iter(lists)
        return _time(lambda: self._adapter.texts(next(waiting)), repeats)

    def _folder(self, order: dict[str, Any]) -> dict[str, Any]:
        paths = self._fixtures.folders[order["folder"]][: order["most"]]
        target = self._fixtures.folder / f"stored-{os.getpid()}-{time.monotonic_ns()}"
        answer = _time(lambda: self._adapter.folder(paths, target), 1)
        return answer | {"sample": self._adapter.vectors(paths, target).tolist()}

    def _query(self, start: int, count: int) -> dict[str, Any]:
        if not self._is_searchable:
            self._adapter.prepare_search()
            self._is_searchable = True
        texts = captions(start, count)
        seconds = []
        for text in texts:
            started = time.perf_counter()
            self._adapter.query(text)
            seconds.append(time.perf_counter() - started)
        return {"latencies": seconds}

    def _library(self, count: int) -> dict[str, Any]:
        """As a command, then opened and searched here, in all and in one folder."""
        # As little as a program imports that only searches.
        from bench.embedding.adapters.library import FOLDER, question

        command_s = self._adapter.time_command()
        opened = _time(self._adapter.open, 1)
        vectors = [question(number) for number in range(count)]
        everywhere = [_time(partial(self._adapter.search, it), 1)["seconds"] for it in vectors]
        inside = [_time(partial(self._adapter.search, it, FOLDER), 1)["seconds"] for it in vectors]
        found = self._adapter.search(vectors[0]) + self._adapter.search(vectors[0], FOLDER)
        return {
            "opened": opened["seconds"],
            "latencies": everywhere,
            "filtered": inside,
            "command": command_s,
            "found": found,
            **_memory(),
        }

    def _service(self, order: dict[str, Any]) -> dict[str, Any]:
        """Searches for texts that nobody has searched for, from so many clients at once."""
        texts = captions(order["start"], order["count"])
        found: dict[str, Any] = self._adapter.measure(order["way"], texts, order["clients"])
        return found


def _time(work: Callable[[], object], repeats: int) -> dict[str, Any]:
    cpu_before, started = _cpu_seconds(), time.perf_counter()
    for _ in range(repeats):
        made = work()
    seconds = time.perf_counter() - started
    answer: dict[str, Any] = {"seconds": seconds, "cpu": _cpu_seconds() - cpu_before}
    if isinstance(made, np.ndarray) and made.ndim == 2:  # vectors
        answer["sample"] = made[-_SHOWN:].tolist()
    return answer


def _cpu_seconds() -> float:
    """Of this process and of those children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _memory() -> dict[str, Any]:
    """In MB: the peak, and what would come back if this process went (Linux only)."""
    if sys.platform == "darwin":
        return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    # Not ru_maxrss, which on Linux begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return {
        "peak_mb": _kilobytes(status, "VmHWM:") / 1e3,
        "pss_mb": _kilobytes(rollup, "Pss:") / 1e3,
    }


def _kilobytes(text: str, field: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(field))


if __name__ == "__main__":
    main()
