"""Whether the services and folders that warmclip needs are there: Redis, Qdrant, home, model."""

import base64
import fcntl
import json
import os
import ssl
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from warmclip.errors import BundleError, WarmclipError
from warmclip.inference.bundle import ModelBundle
from warmclip.settings import Settings, with_qdrant_port, without_password
from warmclip.work.broker import open_broker

State = Literal["ok", "absent", "wrong", "unreachable"]

_ANSWER_S = 5.0
_MOST_BYTES = 64 * 1024
_BAD = 400  # and above: the answer is a refusal
_FAILS = 500  # and above: it starts, or is broken, or a proxy before it says so


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """One thing that warmclip needs, and its state."""

    name: str
    state: State  # absent: not there, and that is no error
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """The dependency as JSON can carry it."""
        return asdict(self)


def read_dependencies(settings: Settings) -> tuple[Dependency, ...]:
    """Check each of them."""
    checks: dict[str, Callable[[Settings], tuple[State, str]]] = {
        "model": _check_model,
        "Redis": _check_redis,
        "Qdrant": check_qdrant if settings.qdrant_url else _check_embedded,
        "roots": _check_roots,
    }
    found = [Dependency(name="home", state="ok", detail=os.fspath(settings.home))]
    for name, check in checks.items():
        state, detail = check(settings)
        found.append(Dependency(name=name, state=state, detail=detail))
    return tuple(found)


def _check_model(settings: Settings) -> tuple[State, str]:
    try:
        manifest = ModelBundle.open(settings.bundle).manifest
    except BundleError as exc:
        return ("wrong" if settings.bundle.exists() else "absent"), str(exc)
    weights = " (RANDOM weights)" if manifest.is_random else ""
    precisions = sorted({name for tower in manifest.graphs.values() for name in tower})
    return "ok", (
        f"{settings.bundle}: {manifest.name}{weights}, dim {manifest.dim}, "
        f"{', '.join(precisions)}, fingerprint {manifest.fingerprint[:12]}"
    )


def _check_redis(settings: Settings) -> tuple[State, str]:
    where = without_password(settings.redis_url) if settings.redis_url else "private"
    try:
        with open_broker(settings) as connection:
            hello = connection.execute_command("HELLO")  # type: ignore[no-untyped-call]  # redis-py has no types for it
    except WarmclipError as exc:
        return ("unreachable" if exc.may_pass else "wrong"), str(exc)
    return "ok", f"{where}, {_server_version(hello)}"


def _server_version(hello: Any) -> str:
    """Name and version from an answer to HELLO, a command that every user may run."""
    pairs = hello.items() if isinstance(hello, dict) else zip(hello[::2], hello[1::2], strict=False)
    told = {_text(key): _text(value) for key, value in pairs}
    return f"{told.get('server', 'an unknown server')} {told.get('version', '')}".strip()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _check_embedded(settings: Settings) -> tuple[State, str]:
    folder = settings.home / "qdrant"
    if not folder.is_dir():
        return "ok", "embedded, no vectors yet"
    holder = _holder(folder / ".owner")
    return "ok", f"embedded in {folder}" + (f", in use by process {holder}" if holder else "")


def _holder(lock: Path) -> str | None:
    """The process that owns the embedded store, if any does."""
    try:
        with lock.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return stream.read(20).decode("ascii", "replace").strip() or "?"
    except OSError:
        pass
    return None


def check_qdrant(settings: Settings, timeout_s: float = _ANSWER_S) -> tuple[State, str]:
    """Ask a server without its client, which would load httpx and look up proxies here."""
    assert settings.qdrant_url is not None  # noqa: S101 - it is called only where it is set
    where = without_password(settings.qdrant_url)
    if (outage := find_qdrant_outage(settings, timeout_s)) is not None:
        return "unreachable", outage
    try:
        status, _ = _get(settings, "/collections", timeout_s)
        _, hello = _get(settings, "/", timeout_s)
    except (OSError, HTTPException, ValueError) as exc:
        return "unreachable", _no_answer(settings.qdrant_url, exc)
    if status in (401, 403):
        return "wrong", f"{where} answers {status}; check QDRANT_API_KEY"
    if status != 200:
        return "wrong", f"{where} answers {status}, as no Qdrant does; check QDRANT_URL"
    try:
        version = str(json.loads(hello)["version"])
    except (ValueError, KeyError, TypeError):
        version = "of unknown version"
    return "ok", f"{where}, qdrant {version}"


def find_qdrant_outage(settings: Settings, timeout_s: float) -> str | None:
    """Why a Qdrant server does not answer, in a sentence; None if it does, or none is used.

    It is asked what every search asks first: one that fails at that may still call itself ready. A
    key that is refused is no outage.
    """
    if settings.qdrant_url is None:
        return None
    try:
        status, answer = _get(settings, "/aliases", timeout_s)
        if status < _BAD and len(answer) < _MOST_BYTES:  # longer ones were not read to their end
            json.loads(answer)
    except json.JSONDecodeError:
        return _no_answer(settings.qdrant_url, "what answers sends no JSON, or breaks off")
    except (OSError, HTTPException, ValueError) as exc:
        return _no_answer(settings.qdrant_url, exc)
    if status >= _FAILS:
        return _no_answer(settings.qdrant_url, f"status {status}")
    return None


def _no_answer(url: str, reason: object) -> str:
    words = str(reason) or type(reason).__name__
    where = without_password(url)
    return (
        f"no answer from Qdrant at {where} ({words}); start it or look at its load, or correct "
        "QDRANT_URL"
    )


def _get(settings: Settings, path: str, timeout_s: float) -> tuple[int, bytes]:
    parts = urlsplit(with_qdrant_port(settings.qdrant_url or ""))
    host = parts.hostname or ""
    connection: HTTPConnection = (
        HTTPSConnection(host, parts.port, timeout=timeout_s, context=ssl.create_default_context())
        if parts.scheme == "https"
        else HTTPConnection(host, parts.port, timeout=timeout_s)
    )
    headers = {}
    if settings.qdrant_api_key:
        headers["api-key"] = settings.qdrant_api_key
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST_BYTES)
    finally:
        connection.close()


def _check_roots(settings: Settings) -> tuple[State, str]:
    if not settings.roots:
        if settings.redis_url is None:
            return "ok", "any of your files"
        return "absent", "none: a worker refuses jobs that name files until WARMCLIP_ROOTS is set"
    named = [f"{root.name}={root.folder}".removeprefix("=") for root in settings.roots]
    gone = [str(folder) for folder in settings.missing_roots]
    if gone:
        return "wrong", f"{', '.join(named)}; not there: {', '.join(gone)}"
    return "ok", ", ".join(named)
