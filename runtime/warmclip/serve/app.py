"""The FastAPI app: every route, the handlers of errors, and the middlewares."""

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import Depends, FastAPI, Security
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry

from warmclip.serve import (
    assets,
    doctor,
    embedding,
    events,
    forgetting,
    health,
    metrics,
    originals,
    problems,
    search,
    sessions,
    thumbnails,
)
from warmclip.serve.admission import AdmissionMiddleware
from warmclip.serve.auth import Token
from warmclip.serve.context import AppContext
from warmclip.serve.rate_limiter import RateLimiter
from warmclip.serve.threads import THREADS
from warmclip.serve.unknown_parameters import refuse_unknown_parameters

_DESCRIPTION = """
Index pictures into Qdrant and search them, through warm workers that never fork a model.

Every error is a problem document (RFC 9457) whose `detail` says what to do.
"""


@asynccontextmanager
async def _raise_thread_limit(_app: FastAPI) -> AsyncIterator[None]:
    """Allow more threads than AnyIO's 40: most of them only wait."""
    current_default_thread_limiter().total_tokens = THREADS
    yield


def create_app(
    context: AppContext, token: Token | None = None, rate_limiter: RateLimiter | None = None
) -> FastAPI:
    """Build the app.

    Args:
        context: what its routes use; the caller starts and stops its scheduler.
        token: that requests must show.
        rate_limiter: bounds the requests of one address.
    """
    registry = CollectorRegistry()
    app = FastAPI(
        title="warmclip",
        version=importlib.metadata.version("warmclip"),
        description=_DESCRIPTION,
        openapi_url="/openapi.json",
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_raise_thread_limit,
        dependencies=[
            *([Security(HTTPBearer(auto_error=False))] if token else []),
            Depends(refuse_unknown_parameters),
        ],
    )
    problems.add_problem_handlers(app, context.settings)
    page = assets.read_assets()
    for router in (
        assets.make_router(page),
        events.make_router(context),
        sessions.make_router(context),
        search.make_router(context),
        forgetting.make_router(context),
        thumbnails.make_router(context),
        originals.make_router(context),
        embedding.make_router(context),
        health.make_router(context),
        doctor.make_router(context),
        metrics.make_router(context, registry),
    ):
        app.include_router(router)
    app.add_middleware(
        AdmissionMiddleware,
        hosts=context.hosts,
        token=token,
        open_paths=page,
        rate_limiter=rate_limiter,
    )
    app.add_middleware(metrics.RequestTiming, registry=registry)
    return app
