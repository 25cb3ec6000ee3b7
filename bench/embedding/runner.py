"""Runs contenders: one warm process for each, over fixtures that they share."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from bench.embedding.adapters.adapter import Array
from bench.embedding.cases import FILL, FIRST, PEAK, SHARE, Case, Scale, Step, single_name
from bench.embedding.contenders import CONTENDERS, GEMM, TORCH, Contender
from bench.embedding.fixtures import Fixtures
from bench.embedding.flops import tower_shape
from bench.embedding.pictures import make_album, make_photograph
from bench.embedding.process import OWN_PYTHON, ContenderFailed, Process
from bench.embedding.results import Results
from warmclip.progress import Progress

_MOST_ITEMS = 1000  # texts that one step of one round takes


class Runner:
    """Runs one contender at a time; those that wait are warm and do nothing.

    Args:
        fixtures: where they are written.
        results: told what contenders say of themselves, and how their vectors compare.
        peers_python: of the virtual environment of transformers and fastembed.
    """

    def __init__(self, fixtures: Fixtures, results: Results, peers_python: Path) -> None:
        self.fixtures = fixtures
        self._results = results
        self._peers_python = peers_python
        self._path = fixtures.folder / "fixtures.json"
        fixtures.write(self._path)
        self._processes: dict[str, Process] = {}
        self._warm: set[tuple[str, str, int]] = set()
        self._unable: dict[str, str] = {}
        self._expected: dict[str, Array] = {}
        self._unchecked: dict[str, list[tuple[str, Array]]] = {}
        self._filled: set[str] = set()
        self._found: list[str] = []
        self._round = 0

    def begin_round(self) -> None:
        """From now on, texts are new."""
        self._round += 1
        self._expected.clear()
        self._unchecked.clear()

    def figures(self, case: Case, name: str) -> dict[str, float]:
        """What one contender makes of one case, by column.

        Raises:
            ContenderFailed: with the reason.
        """
        found: dict[str, float] = {}
        for index, step in enumerate(case.steps):
            if step.order["do"] == "library":
                answer = self._search_library(name, step)
            elif step.is_fresh:
                self._read_once(name)
                answer = self._start(name)
            else:
                answer = self._warmed(case, name, index, step)
            if name == GEMM:  # whose products are most of a tower's work
                answer["seconds"] *= self._whole(_tower(step))
            if "sample" in answer:
                self._check(f"{case.name} {index}", case, name, np.array(answer["sample"]))
            found |= step.read(answer)
        return found

    def close(self) -> None:
        """End all of them."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.close()

    def _warmed(self, case: Case, name: str, index: int, step: Step) -> dict[str, Any]:
        process = self._running(name)
        order = dict(step.order)
        if name == GEMM:
            order |= {"do": "products", "tower": _tower(step)}
        texts = {"start": _MOST_ITEMS * (len(case.steps) * self._round + index)}
        key = (name, case.name, index)
        if key not in self._warm:
            others = {"start": texts["start"] + _MOST_ITEMS // 2}
            process.ask({**order, **others, **step.warm_up})
            self._warm.add(key)
        return process.ask({**order, **texts})

    def _running(self, name: str) -> Process:
        if name in self._unable:
            raise ContenderFailed(self._unable[name])
        if name in self._processes and self._processes[name].has_ended():
            self._processes.pop(name).close()
            self._warm = {key for key in self._warm if key[0] != name}
        if name not in self._processes:
            process = self._new(CONTENDERS[name], name)
            self._processes[name] = process
            try:
                self._results.descriptions[name] = process.ask({"do": "describe"})
            except ContenderFailed as exc:
                self._unable[name] = str(exc)
                raise
        return self._processes[name]

    def _read_once(self, name: str) -> None:
        """The first start of all reads the disk, and warmclip may write its cache: not timed."""
        if name not in self._processes and (name, "start", 0) not in self._warm:
            self._start(name)
        self._warm.add((name, "start", 0))

    def _start(self, name: str) -> dict[str, Any]:
        """Exec to first vector, on this side of the pipe; then what it needs to work."""
        process = self._new(CONTENDERS[name], f"{name} anew")
        try:
            answer = process.ask({"do": "first"})
            seconds = time.perf_counter() - process.started
            memory = process.ask({"do": "memory"})
        finally:
            process.close()
        columns = {FIRST: seconds, PEAK: memory["peak_mb"]}
        if "pss_mb" in memory:
            columns[SHARE] = memory["pss_mb"]
        return {"sample": answer["sample"], **columns}

    def _search_library(self, name: str, step: Step) -> dict[str, Any]:
        """Open it and search it in a new process; in the first round another one fills it."""
        filled = {}
        if name not in self._filled:
            seconds = self._ask_anew(name, {"do": "fill"})["seconds"]
            filled[FILL] = self.fixtures.library / seconds
            self._filled.add(name)
        answer = self._ask_anew(name, step.order)
        found = sorted(answer["found"])
        self._found = self._found or found
        if found != self._found:
            raise ContenderFailed("it finds other pictures than the contender before it")
        return answer | filled

    def _ask_anew(self, name: str, order: Mapping[str, Any]) -> dict[str, Any]:
        """One order to a process of its own."""
        process = self._new(CONTENDERS[name], f"{name} anew")
        try:
            return process.ask(order)
        finally:
            process.close()

    def _new(self, contender: Contender, log_name: str) -> Process:
        python = self._peers_python if contender.in_peers_venv else OWN_PYTHON
        if not python.exists():
            raise ContenderFailed(f"{python} is missing; `make bench` makes it")
        log = self.fixtures.folder / f"{log_name.replace(' ', '-')}.log"
        return Process(contender, self._path, log, python)

    def _whole(self, tower: str) -> float:
        """A tower's operations by those of its products with weights: a little more than 1."""
        shape = tower_shape(self.fixtures.architecture, tower)
        assert shape is not None  # noqa: S101 - else the contender has left
        return shape.flops / sum(it.flops for it in shape.gemms)

    def _check(self, what: str, case: Case, name: str, vectors: Array) -> None:
        """Whoever computes them, the vectors are the same: all do the same work."""
        if CONTENDERS[name].least_cosine is None:
            return
        if name == TORCH:
            self._expected[what] = vectors
            for earlier, theirs in self._unchecked.pop(what, []):
                reason = self._difference(case, earlier, theirs, vectors)
                if reason:
                    self._results.fail(case.name, earlier, reason)
        elif what not in self._expected:
            self._unchecked.setdefault(what, []).append((name, vectors))
        elif reason := self._difference(case, name, vectors, self._expected[what]):
            raise ContenderFailed(reason)

    def _difference(self, case: Case, name: str, vectors: Array, expected: Array) -> str | None:
        """Why these are not the vectors that open_clip makes."""
        if expected.shape != vectors.shape:
            return f"its vectors have the shape {vectors.shape}, open_clip's {expected.shape}"
        worst = float(np.sum(vectors * expected, axis=1).min())
        self._results.note_cosine(case.name, name, worst)
        least = CONTENDERS[name].least_cosine or 0.0
        return None if worst >= least else f"cosine {worst:.4f} to open_clip's vectors"


@contextmanager
def open_fixtures(model: Fixtures, scale: Scale, progress: Progress) -> Iterator[Fixtures]:
    """Make pictures in a temporary folder, which goes at the end.

    Args:
        model: a model alone, in all the forms that it is there in.
        scale: how many pictures, how large.
        progress: told how many are made.
    """
    total = len(scale.singles_mp) + sum(len(album.megapixels) for album in scale.albums)
    # A horse whose worker was killed closes its store meanwhile: what it still writes may stay.
    with TemporaryDirectory(prefix="warmclip-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        done = 0
        singles = {}
        for megapixels in scale.singles_mp:
            progress(done, total, "making photographs")
            path = folder / f"{megapixels:g}.jpg"
            make_photograph(path, megapixels, seed=round(1000 * megapixels))
            singles[single_name(megapixels)] = os.fspath(path)
            done += 1
        folders: dict[str, tuple[str, ...]] = {}
        for album in scale.albums:
            folders[album.name] = ()
            for drawn in make_album(album, folder / album.name):
                folders[album.name] += (drawn,)
                done += 1
                progress(done, total, "making photographs")
        pixels = folder / "pixels.npy"
        np.save(pixels, _squares(folders["small"], model.side_px, max(scale.batches)))
        yield replace(
            model,
            folder=folder,
            pixels=pixels,
            singles=singles,
            folders=folders,
            points=scale.points,
            library=scale.library,
        )


def _tower(step: Step) -> str:
    return "image" if step.order["do"] == "pixels" else "text"


def _squares(paths: tuple[str, ...], side_px: int, count: int) -> Array:
    """Ready pictures: one after the other, over and over, at a plain normalisation."""
    rows = []
    for path in paths:
        with Image.open(path) as picture:
            square = picture.resize((side_px, side_px))
        rows.append((np.asarray(square, np.float32) / 127.5 - 1).transpose(2, 0, 1))
    return np.stack([rows[number % len(rows)] for number in range(count)])
