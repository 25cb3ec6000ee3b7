"""Every outage tried on every command: what each of them says, and after how many seconds.

``make outages`` runs it and prints the table of ``docs/explanation/outages.md``.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from running import WORKER, environment_of, eventually, running_worker
from serving import Served, draw, running_server
from standins import qdrant
from standins.qdrant import Fault, QdrantStandIn
from standins.redis_server import RedisServer, redis_server
from warmclip.settings import Settings

_BUNDLE = Path(__file__).parents[1] / "models" / "demo" / "bundle"
_MOST_S = 60.0  # for one command
_MOST_WORDS = 200
_HEAD = "| command | seconds | outcome | words |\n|---|---|---|---|\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One installation: Redis, Qdrant, a worker and a server."""

    redis: RedisServer
    store: QdrantStandIn
    served: Served
    environment: dict[str, str]
    pictures: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one command made of one outage."""

    command: str
    seconds: float
    outcome: str
    words: str


Outage = Callable[[Site, ExitStack], None]
"""Begins an outage; what ends it goes onto the stack."""


def redis_absent(site: Site, stack: ExitStack) -> None:
    """It was stopped."""
    site.redis.admin.shutdown(nosave=True)
    folder = site.redis.log.parent

    def start() -> None:
        stack_of_all.enter_context(redis_server(folder, port=site.redis.port))

    stack.callback(start)


def redis_frozen(site: Site, stack: ExitStack) -> None:
    """It is there and does nothing."""
    pid = int(site.redis.admin.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    stack.callback(os.kill, pid, signal.SIGCONT)


def redis_denies(site: Site, stack: ExitStack) -> None:
    """Its user may write nothing any more."""
    with_admin = site.redis.admin
    with_admin.acl_setuser("default", enabled=True, commands=["-@write"])
    stack.callback(with_admin.acl_setuser, "default", enabled=True, commands=["+@all"])


def redis_full(site: Site, stack: ExitStack) -> None:
    """It takes nothing more."""
    site.redis.admin.config_set("maxmemory", "1")
    stack.callback(site.redis.admin.config_set, "maxmemory", "0")


def qdrant_absent(site: Site, stack: ExitStack) -> None:
    """It was stopped."""
    site.store.close()
    stack.callback(_serve_again, site)


def qdrant_frozen(site: Site, stack: ExitStack) -> None:
    """It takes connections, and that is all."""
    port = int(site.store.url.rpartition(":")[2])
    site.store.close()
    stack.callback(_serve_again, site)
    stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=100))


def qdrant_slow(site: Site, stack: ExitStack) -> None:
    """Each answer takes 20 seconds."""
    _fail(site, stack, Fault(delay_s=20.0))


def qdrant_no_json(site: Site, stack: ExitStack) -> None:
    """It answers with a page, as a proxy before it."""
    _fail(site, stack, Fault(text="<html>a proxy</html>"))


def qdrant_cut(site: Site, stack: ExitStack) -> None:
    """It closes the connection in the middle of each answer."""
    _fail(site, stack, Fault(cut=True))


def qdrant_read_only(site: Site, stack: ExitStack) -> None:
    """The key may only read."""
    site.store.engine.read_only = True
    stack.callback(setattr, site.store.engine, "read_only", False)


def qdrant_full(site: Site, stack: ExitStack) -> None:
    """It answers 500 to all, as one without memory or disk."""
    _fail(site, stack, Fault(status=500))


def qdrant_fails_at_points(site: Site, stack: ExitStack) -> None:
    """It answers 500 to what asks for points or writes them, and calls itself well."""
    _fail(site, stack, Fault(status=500), on="/points")


def _fail(site: Site, stack: ExitStack, fault: Fault, on: str = "") -> None:
    site.store.fail(fault, on=on, times=100_000)
    stack.callback(site.store.clear_faults)


def none(site: Site, stack: ExitStack) -> None:
    """All is well: what the commands take here."""


OUTAGES: tuple[tuple[str, str, Outage], ...] = (
    ("No outage", "what the same commands take on this machine", none),
    ("Redis", "absent", redis_absent),
    ("Redis", "frozen", redis_frozen),
    ("Redis", "its user may not write (ACL)", redis_denies),
    ("Redis", "out of memory", redis_full),
    ("Qdrant", "absent", qdrant_absent),
    ("Qdrant", "frozen", qdrant_frozen),
    ("Qdrant", "20 s for each answer", qdrant_slow),
    ("Qdrant", "answers that are no JSON", qdrant_no_json),
    ("Qdrant", "closes the connection in the middle of an answer", qdrant_cut),
    ("Qdrant", "a key that may only read", qdrant_read_only),
    ("Qdrant", "answers 500 (out of memory or disk)", qdrant_full),
    ("Qdrant", "answers 500 for points, and calls itself well", qdrant_fails_at_points),
)

stack_of_all = ExitStack()


def _serve_again(site: Site) -> None:
    port = int(site.store.url.rpartition(":")[2])
    stack_of_all.callback(QdrantStandIn(site.store.engine, port).close)


@contextmanager
def site() -> Iterator[Site]:
    """Everything runs, and three pictures are stored."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        pictures = folder / "pictures"
        draw(pictures, 3)
        redis = stack.enter_context(redis_server(folder / "redis"))
        store = stack.enter_context(qdrant.serve(folder / "qdrant"))
        environment = environment_of(
            folder / "home",
            _BUNDLE,
            REDIS_URL=redis.url(),
            QDRANT_URL=store.url,
            WARMCLIP_ROOTS=str(pictures),
        )
        served = stack.enter_context(running_server(environment))
        stack.enter_context(running_worker(Settings.from_env(environment), environment))
        served.wait(served.begin(pictures))
        found = Site(
            redis=redis, store=store, served=served, environment=environment, pictures=pictures
        )
        eventually(lambda: _search_status(found) == 200)
        yield found


def try_all(site: Site, begin: Outage) -> Iterator[Trial]:
    """Each command during an outage, and how soon a search is answered after it."""
    with ExitStack() as outage:
        begin(site, outage)
        draw(site.pictures, 1, start=100)
        uses_store = not begin.__name__.startswith("redis")
        yield _run(site, "`search --queue`", "search", "red", "--queue")
        if uses_store:
            yield _run(site, "`search`", "search", "red")
            yield _run(site, "`collections list`", "collections", "list")
        yield _get(site, "HTTP search", "/api/v1/search?q=red")
        yield _run(site, "`index --queue`", "index", str(site.pictures), "--queue")
        if uses_store:
            yield _run(site, "`index`", "index", str(site.pictures))
        yield _run(site, "`status`", "status")
        yield _get(site, "/metrics", "/metrics")
        yield _get(site, "/readyz", "/readyz")
        yield _get(site, "/healthz", "/healthz")
    began = time.monotonic()
    eventually(lambda: _search_status(site) == 200, timeout_s=_MOST_S)
    yield Trial(
        command="worker, after it",
        seconds=time.monotonic() - began,
        outcome="goes on",
        words="until a search over HTTP was answered",
    )


def _run(site: Site, name: str, *arguments: str) -> Trial:
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*WORKER[:-1], *arguments],
            env=os.environ | site.environment,
            capture_output=True,
            text=True,
            timeout=_MOST_S,
            check=False,
        )
        outcome = f"exit code {done.returncode}"
        errors = [it for it in done.stderr.splitlines() if it.startswith("error:")]
        words = errors[-1].removeprefix("error: ") if errors else _last(done.stdout)
    except subprocess.TimeoutExpired:
        outcome, words = "no end", ""
    return Trial(
        command=name,
        seconds=time.monotonic() - began,
        outcome=outcome,
        words="" if outcome == "exit code 0" else words,
    )


def _get(site: Site, name: str, path: str) -> Trial:
    began = time.monotonic()
    answer = site.served.client.get(path, timeout=_MOST_S)
    words = ""
    if path == "/metrics":
        words = ", ".join(re.findall(r"^warmclip_\w+_up \S+$", answer.text, re.MULTILINE))
    elif path == "/healthz":
        checks = {k: it for k, it in answer.json().items() if k != "ok" and not it["ok"]}
        words = "; ".join(f"{name}: {it['detail']}" for name, it in checks.items())
    elif answer.status_code != 200:
        words = str(answer.json()["detail"])
    return Trial(
        command=name,
        seconds=time.monotonic() - began,
        outcome=str(answer.status_code),
        words=words,
    )


def _search_status(site: Site) -> int:
    try:
        return site.served.client.get("/api/v1/search?q=red", timeout=_MOST_S).status_code
    except httpx.TransportError:
        return 0


def _last(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def _shown(words: str) -> str:
    words = re.sub(r"127\.0\.0\.1:\d+", "HOST", words).replace("|", "/")
    return words if len(words) <= _MOST_WORDS else words[: _MOST_WORDS - 4] + " ..."


def main() -> None:
    """Print one table for each outage."""
    wanted = sys.argv[1:]
    for service, kind, begin in OUTAGES:
        if wanted and begin.__name__ not in wanted:
            continue
        sys.stdout.write(f"\n## {service}: {kind}\n\n{_HEAD}")
        with stack_of_all, site() as running:
            for trial in try_all(running, begin):
                row = (trial.command, f"{trial.seconds:.1f}", trial.outcome, _shown(trial.words))
                sys.stdout.write(f"| {' | '.join(row)} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
