"""Whether the whole of it works: asked of a worker, not guessed."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from warmclip.doctor.dependencies import ask_qdrant
from warmclip.errors import WarmclipError
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, shown
from warmclip.settings import Settings
from warmclip.work.broker import BROKER_ERRORS, as_ours

_DEADLINE_S = 10.0  # a worker may be at a chunk of pictures
_FRESH_S = 2.0  # many may ask, and each canary costs a worker some milliseconds


class Check(BaseModel):
    """One thing that is needed."""

    ok: bool
    detail: str


class HealthView(BaseModel):
    """All of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ok": True,
                    "redis": {"ok": True, "detail": "2 jobs wait, 1 worker"},
                    "worker": {"ok": True, "detail": "a text was embedded in 0.02 s on cpu"},
                    "qdrant": {"ok": True, "detail": "embedded, in a worker"},
                    "sessions": {"ok": True, "detail": "looked after"},
                }
            ]
        }
    )

    ok: bool
    redis: Check
    worker: Check
    qdrant: Check
    sessions: Check


class Health:
    """Looks at most every two seconds, whoever asks."""

    def __init__(self, services: AppContext) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._seen: HealthView | None = None
        self._seen_at = float("-inf")

    def look(self) -> HealthView:
        """What is so now, or was just now."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen_at > _FRESH_S:
                checks = {
                    "redis": _checked(self._redis, self._services.settings),
                    "worker": _checked(self._worker, self._services.settings),
                    "qdrant": self._qdrant(),
                    "sessions": self._sessions(),
                }
                self._seen = HealthView(ok=all(check.ok for check in checks.values()), **checks)
                self._seen_at = time.monotonic()
            return self._seen

    def _redis(self) -> str:
        status = self._services.status()
        waiting = {queue.name: queue.queued for queue in status.queues}
        depths = ", ".join(f"{count} in {name!r}" for name, count in waiting.items())
        return f"jobs that wait: {depths or 'none'}; workers: {len(status.workers)}"

    def _worker(self) -> str:
        began = time.monotonic()
        answer = self._services.workers.ask("canary", timeout_s=_DEADLINE_S)
        towers = ", ".join(f"{tower} on {name}" for tower, name in _pairs(answer["providers"]))
        took_s = time.monotonic() - began
        return f"a text was embedded in {took_s:.2f} s, wait included; towers: {towers}"

    def _qdrant(self) -> Check:
        if self._services.settings.qdrant_url is None:
            return Check(ok=True, detail="embedded: a worker owns it")
        state, detail = ask_qdrant(self._services.settings)
        return Check(ok=state == "ok", detail=detail)

    def _sessions(self) -> Check:
        trouble = self._services.foreman.trouble()
        return Check(ok=trouble is None, detail=trouble or "looked after")


def router(services: AppContext) -> APIRouter:
    """The routes of health."""
    routes = APIRouter(tags=["operation"], responses=RESPONSES)
    health = Health(services)

    @routes.get(
        "/healthz",
        responses={503: {"model": HealthView, "description": "Something is missing: it is told."}},
    )
    def healthz() -> HealthView:
        """Have a worker embed something new, under a deadline; ask Redis, Qdrant, and ourselves."""
        seen = health.look()
        if not seen.ok:
            return JSONResponse(seen.model_dump(), status_code=503)  # type: ignore[return-value]  # as FastAPI takes it
        return seen

    @routes.get("/readyz")
    def readyz() -> Mapping[str, bool]:
        """Whether requests can be taken: Redis answers. Needs no token."""
        services.ledger.ping()
        return {"ok": True}

    return routes


def _checked(look: Callable[[], str], settings: Settings) -> Check:
    try:
        return Check(ok=True, detail=look())
    except (WarmclipError, Problem) as exc:
        return Check(ok=False, detail=shown(str(exc)))
    except BROKER_ERRORS as exc:
        return Check(ok=False, detail=shown(str(as_ours(settings, exc))))


def _pairs(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), str(value)) for key, value in mapping.items()]
