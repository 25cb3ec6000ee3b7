"""`make mutants`: the code is broken in one place at a time, and its fast tests must notice.

It works in clones of what is committed, so the folder that somebody edits stays as it is. What was
looked at and left is in ``mutants_left.toml``.
"""

import argparse
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_WORK = _ROOT / "build" / "mutants"
_LONGEST_S = 5.0  # of the tests on one mutant, and ten times what they take on none: an endless
# loop is noticed so

# How a record or a signature is declared, which decides nothing for who uses it rightly. The star
# before what must be named is none to cosmic-ray, which would multiply.
_DECLARATION = re.compile(r"@dataclass\(|.*[(,]\s*\*,|\s*\*,$")


def main(cosmic_ray: Path, modules: list[str], sample: int | None) -> None:
    """Break some modules; prints each survivor, and a line for each module.

    One that is stopped midway (Ctrl+C, SIGTERM) is reported with the mutants that were tried.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tests: dict[str, list[str]] = _read("mutants.toml")["modules"]
    left = _read("mutants_left.toml")
    for module in tests:
        if not modules or any(name in module for name in modules):
            results, is_stopped = _break_module(cosmic_ray, module, tests[module], sample)
            is_sample = sample is not None or is_stopped
            _report(module, results, left.get(module, {}), is_sample=is_sample)
            if is_stopped:
                raise SystemExit("stopped: the other mutants were not tried")


def _read(name: str) -> dict[str, Any]:
    with (_ROOT / "tests" / name).open("rb") as stream:
        return tomllib.load(stream)


def _break_module(
    cosmic_ray: Path, module: str, tests: list[str], sample: int | None
) -> tuple[list[dict[str, Any]], bool]:
    """What became of the mutants of one module, or of a sample, and whether that was stopped."""
    work = _WORK / module.replace("/", ".").removesuffix(".py")
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "tree"
    subprocess.run(["git", "clone", "--quiet", str(_ROOT), str(tree)], check=True)
    config, session, address = work / "config.toml", work / "session.sqlite", work / "socket"
    forked_pytest = [sys.executable, str(tree / "tests" / "forked_pytest.py")]
    command = [*forked_pytest, "request", str(address)]

    def run(program: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [cosmic_ray / program, *arguments], cwd=tree, stdout=subprocess.PIPE, check=True
        )
        return done.stdout.decode()

    serve = [*forked_pytest, "serve", str(address), "-x", "-q", *tests]
    is_stopped = False
    with _served(serve, address, tree):
        for _ in range(
            2
        ):  # the tests pass while nothing is broken; the first run waits for imports
            started = time.monotonic()
            subprocess.run(command, cwd=tree, stdout=subprocess.DEVNULL, check=True)
        longest_s = _LONGEST_S + 10 * (time.monotonic() - started)
        config.write_text(
            f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {longest_s:.0f}\n'
            f'excluded-modules = []\ntest-command = "{" ".join(command)}"\n'
            '[cosmic-ray.distributor]\nname = "local"\n'
            # The bars of `str | None` are no operators, and what pytest calls is decorated.
            "[cosmic-ray.filters.operators-filter]\n"
            'exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*", "core/RemoveDecorator"]\n'
        )
        lines = (tree / module).read_text(encoding="utf-8").splitlines()
        Path(importlib.util.cache_from_source(str(tree / module))).unlink(missing_ok=True)
        run("cosmic-ray", "init", config, session)
        run("cr-filter-operators", session, config)
        _draw(session, lines, sample)
        try:
            run("cosmic-ray", "exec", config, session)
        except KeyboardInterrupt:
            is_stopped = True
    found = []
    for line in run("cosmic-ray", "dump", session).splitlines():
        item, result = json.loads(line)
        if result and result["worker_outcome"] != "skipped":
            found.append({"mutation": item["mutations"][0], **result})
    return found, is_stopped


def _draw(session: Path, lines: list[str], sample: int | None) -> None:
    """Leave the mutants of what is no declaration; or so many, the same ones each time."""
    with closing(sqlite3.connect(session)) as connection, connection:
        # A job's id is another one in each session; where its mutant stands is not.
        rows = connection.execute(
            "SELECT job_id, start_pos_row FROM mutation_specs"
            " WHERE job_id NOT IN (SELECT job_id FROM work_results)"
            " ORDER BY operator_name, operator_args, occurrence"
        ).fetchall()
        drawn = [job_id for job_id, row in rows if not _DECLARATION.match(lines[row - 1])]
        if sample is not None:
            drawn = random.Random(0).sample(drawn, min(sample, len(drawn)))
        for job_id in {job_id for job_id, _ in rows} - set(drawn):
            connection.execute("DELETE FROM mutation_specs WHERE job_id = ?", (job_id,))
            connection.execute("DELETE FROM work_items WHERE job_id = ?", (job_id,))


@contextmanager
def _served(command: list[str], address: Path, tree: Path) -> Iterator[None]:
    environment = {**os.environ, "PYTHONPATH": "runtime:export"}
    with address.with_name("server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=log)
    try:
        while not address.exists():
            if server.poll() is not None:
                raise SystemExit(f"the tests could not be started: {log.name}")
            time.sleep(0.05)
        yield
    finally:
        server.terminate()  # it ends the tests that it runs
        server.wait()


def _report(
    module: str,
    results: list[dict[str, Any]],
    left: dict[str, dict[str, list[str]]],
    *,
    is_sample: bool,
) -> None:
    """Say what was not noticed, but for what was left with a reason.

    Args:
        module: its path.
        results: of its mutants.
        left: "equivalent" and "accepted" -> reason -> lines as their mutants have them.
        is_sample: whether there are mutants that were not tried.
    """
    known = {
        _spaced(line): kind
        for kind, reasons in left.items()
        for lines in reasons.values()
        for line in lines
    }
    counts: Counter[str] = Counter()
    seen = set()
    for result in results:
        if result["test_outcome"] != "survived":
            continue
        line = _spaced("".join(re.findall(r"^\+(?!\+\+ )(.*)", result["diff"], re.MULTILINE)))
        seen.add(line)
        counts[known.get(line, "unknown")] += 1
        if line not in known:
            number = result["mutation"]["start_pos"][0]
            sys.stdout.write(f"{module}:{number} survived\n{result['diff']}\n")
    noticed = len(results) - counts.total()
    late = [r["mutation"]["start_pos"][0] for r in results if r["output"] == "timeout"]
    lines = ", ".join(map(str, sorted(late)))
    of_which = f", of which {len(late)} ran out of time (lines {lines})" if late else ""
    sys.stdout.write(
        f"{module}: {noticed} of {len(results)} mutants were noticed{of_which}; equivalent are "
        f"{counts['equivalent']}, accepted {counts['accepted']}, unexplained {counts['unknown']}\n"
    )
    if not is_sample:
        for line in sorted(known.keys() - seen):
            sys.stdout.write(f"{module}: not left any more: {line}\n")
    sys.stdout.flush()


def _spaced(line: str) -> str:
    """A line with one space where it has any: a mutant's may have two."""
    return " ".join(line.split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cosmic_ray", type=Path, help="the folder of its programs")
    parser.add_argument("modules", nargs="*", help="parts of their paths; all, if none is named")
    parser.add_argument("--sample", type=int, help="so many mutants of each; all, if not given")
    arguments = parser.parse_args()
    main(arguments.cosmic_ray.absolute(), arguments.modules, arguments.sample)
