"""`make kills`: `index`, `forget`, `collections optimize` and the conversion of a store, killed at
random moments.

Each time a command is killed with SIGKILL somewhere between its start and its end, then run again
to its end. What the store holds must be what a store holds in which nothing was ever killed:
the same points with the same payloads and vectors.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from warmclip.settings import Settings
from warmclip.store.folder_keys import FOLDERS_FIELD
from warmclip.store.open import open_store
from warmclip.store.payload import to_json
from warmclip.store.protocol import Payload, Point, Space, collection_of
from warmclip_export import drawing

_BUNDLE = Path(__file__).parents[1] / "models" / "demo" / "bundle"
_PICTURES = 150
_POINTS = 4_000
_SPACE = Space(fingerprint="5" * 64, dim=128)
_FROM = 0.2  # of a command's time: before it, Python starts
_PATIENCE_S = 300.0

Contents = dict[str, tuple[dict[str, Any], np.ndarray[Any, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A command, and the home in which it begins."""

    name: str
    home: Path
    arguments: Sequence[str]
    expected: Contents


def main() -> int:
    """Kill each command so many times; 1 if a store was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="of each command")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    _say(f"seed {options.seed}")
    moments = random.Random(options.seed)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="warmclip-killing-") as name:
        folder = Path(name).resolve()
        for make in (_index, _forget, _optimize, _convert):
            failures += _try(make(folder), options.kills, moments, folder / "home")
    return 1 if failures else 0


def _try(scenario: Scenario, kills: int, moments: random.Random, home: Path) -> int:
    """Kill it so many times; returns how often the store was not as it should be."""
    whole_s = max(_whole_s(scenario, home) for _ in range(2))
    killed = failures = 0
    while killed < kills:
        _restore(scenario.home, home)
        at_s = moments.uniform(_FROM * whole_s, whole_s)
        if not _kill(scenario.arguments, home, at_s):
            continue  # it was quicker
        killed += 1
        reason = _check(scenario, home)
        sys.stderr.write(f"{scenario.name} {killed} of {kills}\n")
        if reason:
            failures += 1
            kept = Path(tempfile.mkdtemp(prefix=f"warmclip-killed-{scenario.name}-"))
            shutil.copytree(home, kept / "home")
            _say(f"{scenario.name}, killed after {at_s:.3f} s: {reason}; the home is in {kept}")
    _say(f"{scenario.name}: {killed} kills within {whole_s:.1f} s, {failures} stores not as new")
    return failures


def _check(scenario: Scenario, home: Path) -> str:
    done = _run(scenario.arguments, home)
    if done.returncode != 0:
        return f"the next run ended with {done.returncode}: {done.stderr.strip()}"
    found = _contents(home)
    if found.keys() != scenario.expected.keys():
        missing = scenario.expected.keys() - found.keys()
        return f"{len(missing)} points are missing, {len(found) - len(scenario.expected)} too many"
    for id_, (payload, vector) in scenario.expected.items():
        if found[id_][0] != payload:
            return f"the payload of {payload['path']} is {found[id_][0]}"
        if not np.allclose(found[id_][1], vector, atol=1e-5):
            return f"the vector of {payload['path']} is another one"
    left = [it for it in home.rglob("*") if it.name.startswith(".") and it.is_dir()]
    return f"left behind: {left}" if left else ""


def _whole_s(scenario: Scenario, home: Path) -> float:
    _restore(scenario.home, home)
    started = time.monotonic()
    done = _run(scenario.arguments, home)
    seconds = time.monotonic() - started
    if done.returncode != 0 or _contents(home).keys() != scenario.expected.keys():
        raise RuntimeError(f"{scenario.name} fails without a kill: {done.stderr}")
    return seconds


def _restore(base: Path, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(base, home)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "warmclip.cli", *arguments]


def _environment(home: Path) -> dict[str, str]:
    return os.environ | {"WARMCLIP_HOME": str(home), "WARMCLIP_BUNDLE": str(_BUNDLE)}


def _run(arguments: Sequence[str], home: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        _command(arguments),
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )


def _kill(arguments: Sequence[str], home: Path, at_s: float) -> bool:
    """Start a command and kill it; whether it was still running."""
    process = subprocess.Popen(
        _command(arguments),
        env=_environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(at_s)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


def _contents(home: Path) -> Contents:
    """Every point of the collection in use, without the time at which it was indexed."""
    with open_store(Settings(home=home, bundle=_BUNDLE)) as store:
        points = list(store.scroll("images", with_vectors=True))
    found = {}
    for point in points:
        payload = asdict(point.payload)
        del payload["indexed_at"]
        found[point.id] = (payload, np.asarray(point.vector))
    return found


def _index(folder: Path) -> Scenario:
    """New files, changed ones, moved ones, and some that are gone."""
    pictures, home, fresh = folder / "pictures", folder / "indexed", folder / "fresh"
    drawing.write_gallery(pictures, _PICTURES, seed=3)
    files = sorted(pictures.iterdir())
    _expect(_run(["index", *map(str, files[::3])], home))
    for number, file in enumerate(files[::3]):
        if number % 5 == 0:
            file.unlink()
        elif number % 5 == 1:
            file.rename(file.with_name(f"moved-{file.name}"))
        elif number % 5 == 2:
            shutil.copyfile(files[number * 3 + 1], file)
    _expect(_run(["index", str(pictures)], fresh))
    return Scenario(
        name="index",
        home=home,
        arguments=["index", str(pictures), "--prune", "--yes"],
        expected=_contents(fresh),
    )


def _forget(folder: Path) -> Scenario:
    """Half of a collection, of files that are not there."""
    home, fresh = folder / "remembered", folder / "forgotten"
    _fill(home, _points(lambda _: True))
    _fill(fresh, _points(lambda number: number % 2 == 0))
    return Scenario(
        name="forget", home=home, arguments=["forget", "/p/1", "--yes"], expected=_contents(fresh)
    )


def _optimize(folder: Path) -> Scenario:
    """A collection that was changed since it was compacted."""
    home = folder / "written"
    _fill(home, _points(lambda number: number % 2 == 0))
    _expect(_run(["collections", "optimize", "images"], home))
    _fill(home, _points(lambda number: number % 3 == 0))
    return Scenario(
        name="optimize",
        home=home,
        arguments=["collections", "optimize", "images"],
        expected=_contents(home),
    )


def _convert(folder: Path) -> Scenario:
    """A store as qdrant-client's local mode kept it."""
    from qdrant_client import QdrantClient, models

    home, fresh = folder / "former", folder / "converted"
    points = _points(lambda number: number < _POINTS // 2)
    _fill(fresh, points)
    home.mkdir(mode=0o700)
    (home / "qdrant").mkdir(mode=0o700)
    client = QdrantClient(path=str(home / "qdrant"))
    collection = collection_of("images", _SPACE.fingerprint)
    size = models.VectorParams(size=_SPACE.dim, distance=models.Distance.COSINE)
    client.create_collection(collection, size)
    alias = models.CreateAlias(collection_name=collection, alias_name="images")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    structs = []
    for point in points:
        payload = to_json(point.payload)
        del payload[FOLDERS_FIELD]
        vector = np.asarray(point.vector).tolist()
        structs.append(models.PointStruct(id=point.id, vector=vector, payload=payload))
    client.upsert(collection, structs)
    client.close()
    return Scenario(
        name="convert", home=home, arguments=["collections", "list"], expected=_contents(fresh)
    )


def _points(wanted: Callable[[int], bool]) -> list[Point]:
    rows = np.random.default_rng(0).standard_normal((_POINTS, _SPACE.dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [
        Point(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))),
            vector=row,
            payload=Payload(
                path=f"/p/{number % 2}/{number}.jpg",
                sha256=f"{number:064x}",
                size_bytes=1,
                mtime_ns=0,
                width_px=1,
                height_px=1,
                fingerprint=_SPACE.fingerprint,
                provider="cpu",
                versions={},
                indexed_at="2026-01-01T00:00:00+00:00",
            ),
        )
        for number, row in enumerate(rows)
        if wanted(number)
    ]


def _fill(home: Path, points: Sequence[Point]) -> None:
    home.mkdir(mode=0o700, exist_ok=True)
    with open_store(Settings(home=home, bundle=_BUNDLE)) as store:
        store.ensure_collection("images", _SPACE)
        store.upsert("images", points)


def _expect(done: "subprocess.CompletedProcess[str]") -> None:
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
