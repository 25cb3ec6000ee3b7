"""`make mutants`: the code is broken in one place at a time, and its fast tests must notice.

It works in a clone of what is committed, so the folder that somebody edits stays as it is.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
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
_LONGEST_S = 20.0  # of the tests on one mutant, and ten times what they take on none: an endless
# loop is noticed so


def main(cosmic_ray: Path, modules: list[str], sample: int | None) -> None:
    """Break some modules; prints a line for each survivor, and one for each module."""
    with (_ROOT / "tests" / "mutants.toml").open("rb") as stream:
        tests: dict[str, list[str]] = tomllib.load(stream)["modules"]
    shutil.rmtree(_WORK, ignore_errors=True)
    tree = _WORK / "tree"
    subprocess.run(["git", "clone", "--quiet", str(_ROOT), str(tree)], check=True)
    for module in tests:
        if not modules or any(name in module for name in modules):
            _report(module, _break_module(cosmic_ray, tree, module, tests[module], sample))


def _break_module(
    cosmic_ray: Path, tree: Path, module: str, tests: list[str], sample: int | None
) -> list[dict[str, Any]]:
    """What became of every mutant of one module, or of a sample of them."""
    name = module.replace("/", ".").removesuffix(".py")
    config, session = _WORK / f"{name}.toml", _WORK / f"{name}.sqlite"
    address = _WORK / f"{name}.socket"
    forked_pytest = [sys.executable, str(tree / "tests" / "forked_pytest.py")]
    command = [*forked_pytest, "request", str(address)]

    def run(program: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [cosmic_ray / program, *arguments], cwd=tree, stdout=subprocess.PIPE, check=True
        )
        return done.stdout.decode()

    serve = [*forked_pytest, "serve", str(address), "-x", "-q", *tests]
    with _served(serve, address, tree):
        started = time.monotonic()  # the tests pass while nothing is broken
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
        Path(importlib.util.cache_from_source(str(tree / module))).unlink(missing_ok=True)
        run("cosmic-ray", "init", config, session)
        run("cr-filter-operators", session, config)
        if sample is not None:
            _draw(session, sample)
        run("cosmic-ray", "exec", config, session)
    found = []
    for line in run("cosmic-ray", "dump", session).splitlines():
        item, result = json.loads(line)
        if result and result["worker_outcome"] != "skipped":
            found.append({"mutation": item["mutations"][0], **result})
    return found


def _draw(session: Path, sample: int) -> None:
    """Leave so many mutants in a session, the same ones each time, or all if there are fewer."""
    with closing(sqlite3.connect(session)) as connection, connection:
        # A job's id is another one in each session; where its mutant stands is not.
        rows = connection.execute(
            "SELECT job_id FROM mutation_specs"
            " WHERE job_id NOT IN (SELECT job_id FROM work_results)"
            " ORDER BY operator_name, operator_args, occurrence"
        ).fetchall()
        drawn = random.Random(0).sample(rows, min(sample, len(rows)))
        for row in set(rows) - set(drawn):
            connection.execute("DELETE FROM mutation_specs WHERE job_id = ?", row)
            connection.execute("DELETE FROM work_items WHERE job_id = ?", row)


@contextmanager
def _served(command: list[str], address: Path, tree: Path) -> Iterator[None]:
    environment = {**os.environ, "PYTHONPATH": "runtime:export"}
    with (_WORK / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=log)
    try:
        while not address.exists():
            if server.poll() is not None:
                raise SystemExit(f"the tests could not be started: {log.name}")
            time.sleep(0.05)
        yield
    finally:
        server.kill()
        server.wait()


def _report(module: str, results: list[dict[str, Any]]) -> None:
    for result in results:
        if result["test_outcome"] == "survived":
            line = result["mutation"]["start_pos"][0]
            sys.stdout.write(f"{module}:{line} survived\n{result['diff']}\n")
    counts = Counter(result["test_outcome"] for result in results)
    killed = len(results) - counts["survived"]
    sys.stdout.write(f"{module}: {killed} of {len(results)} mutants were noticed\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cosmic_ray", type=Path, help="the folder of its programs")
    parser.add_argument("modules", nargs="*", help="parts of their paths; all, if none is named")
    parser.add_argument("--sample", type=int, help="so many mutants of each; all, if not given")
    arguments = parser.parse_args()
    main(arguments.cosmic_ray.absolute(), arguments.modules, arguments.sample)
