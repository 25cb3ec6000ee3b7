"""Errors as problem documents (RFC 9457): a status, and a sentence that says what to do."""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from warmclip import errors
from warmclip.errors import WarmclipError
from warmclip.settings import Settings
from warmclip.work.broker import BROKER_ERRORS, as_ours

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[type[WarmclipError], int] = {
    errors.SettingsError: 422,
    errors.BundleError: 503,
    errors.ModelUnknown: 404,
    errors.ProviderUnavailable: 503,
    errors.ForkedSessionError: 503,
    errors.BadVectors: 502,
    errors.ImageUnreadable: 422,
    errors.ImagesUnreadable: 422,
    errors.TextRefused: 422,
    errors.SearchRefused: 422,
    errors.StoreError: 502,
    errors.StoreHeld: 503,
    errors.NotStored: 404,
    errors.SpaceMismatch: 409,
    errors.StoreUnreachable: 503,
    errors.PruneRefused: 409,
    errors.FolderUnreadable: 422,
    errors.SessionOver: 409,
    errors.JobRefused: 403,
    errors.JobFailed: 502,
    errors.HorseDied: 503,
    errors.QueueUnreachable: 503,
    errors.Overloaded: 503,
}
"""The HTTP status of each error; one that is not listed has the status of its base class."""

_RETRY_AFTER_S = "5"
_CLIENT_CLOSED_REQUEST = 499  # as nginx logs it
_UNREADABLE = "There was an error parsing the body"  # what FastAPI says of most that is no JSON
_MOST_CHARS = 2_000  # of a detail, which may quote what a client sent


class Problem(Exception):
    """An error that only the HTTP API has."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        super().__init__(detail)


SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "Always about:blank; see code."},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
        "code": {"type": "string", "description": "The error's class in warmclip, if it has one."},
        "errors": {
            "type": "array",
            "description": "Of a request that does not fit the description: what, and where.",
            "items": {
                "type": "object",
                "properties": {"where": {"type": "string"}, "what": {"type": "string"}},
            },
        },
    },
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem, with a sentence that says what to do",
        "content": {
            MEDIA_TYPE: {
                "schema": SCHEMA,
                "example": {
                    "type": "about:blank",
                    "title": "Service Unavailable",
                    "status": 503,
                    "detail": "no worker is listening on the queue 'high'; run `warmclip worker`",
                    "code": "QueueUnreachable",
                },
            }
        },
    }
}
"""The response of every route for any status that it does not name itself."""


def as_utf8(text: str) -> str:
    """A text with the bytes escaped that UTF-8 cannot carry: file names may have them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class ProblemResponse(JSONResponse):
    """A problem document; a 503 gets a Retry-After."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        body = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail[:_MOST_CHARS],
            **more,
        }
        headers = dict(headers or {})
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.setdefault("Retry-After", _RETRY_AFTER_S)
        super().__init__(body, status_code=status, headers=headers)

    def render(self, content: Any) -> bytes:
        """Write JSON in ASCII: a detail may hold what UTF-8 cannot carry."""
        return json.dumps(content, ensure_ascii=True).encode("ascii")


def problem_of_error(exc: WarmclipError) -> ProblemResponse:
    """The response to one of warmclip's own errors."""
    status = next(STATUS[kind] for kind in (*type(exc).__mro__, WarmclipError) if kind in STATUS)
    return ProblemResponse(status, str(exc), code=type(exc).__name__)


def problem_of_redis(exc: Exception, settings: Settings) -> ProblemResponse:
    """The response to an error of the connection to Redis, or to one that was made of it."""
    return problem_of_error(exc if isinstance(exc, WarmclipError) else as_ours(settings, exc))


def _allowed_methods(app: FastAPI, path: str) -> list[str]:
    """The methods of all routes of a path: Starlette names those of the first route only."""
    return sorted(
        method.upper()
        for template, methods in app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
        for method in methods
    )


Handler: TypeAlias = Callable[[Request, Any], Awaitable[Response]]


def add_problem_handlers(app: FastAPI, settings: Settings) -> None:
    """Have every error leave the app as a problem document."""

    async def on_warmclip_error(_request: Request, exc: WarmclipError) -> ProblemResponse:
        return problem_of_error(exc)

    async def on_broker_error(_request: Request, exc: Exception) -> ProblemResponse:
        return problem_of_redis(exc, settings)

    async def on_http_exception(request: Request, exc: HTTPException) -> ProblemResponse:
        detail = str(exc.detail)
        if detail == HTTPStatus(exc.status_code).phrase:
            detail = f"{request.method} {request.url.path}: nothing here answers that; "
            detail += "/openapi.json tells what there is"
        elif exc.__cause__ is not None and detail == _UNREADABLE:
            detail = f"the body is no JSON in UTF-8: {exc.__cause__}"
        headers = dict(exc.headers or {})
        if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # The page's own files are not in the description.
            headers["Allow"] = ", ".join(_allowed_methods(app, request.url.path)) or "GET, HEAD"
        return ProblemResponse(exc.status_code, detail, headers=headers)

    async def on_problem(_request: Request, exc: Problem) -> ProblemResponse:
        return ProblemResponse(exc.status, exc.detail, headers=exc.headers)

    async def on_invalid_request(request: Request, exc: RequestValidationError) -> ProblemResponse:
        # Without the values that were sent: they may be long, or secret.
        found = [
            {"where": ".".join(map(str, each["loc"])), "what": str(each["msg"])}
            for each in exc.errors()
        ]
        told = "; ".join(f"{each['where']}: {each['what']}" for each in found[:5])
        content_type = request.headers.get("content-type", "")
        if content_type.startswith("application/x-www-form-urlencoded"):  # the default of `curl -d`
            told += "; if JSON was sent, say so: Content-Type: application/json"
        return ProblemResponse(422, f"the request does not fit: {told}", errors=found[:20])

    async def on_bug(_request: Request, _exc: Exception) -> ProblemResponse:
        return ProblemResponse(500, "a bug in warmclip: the server's log has the traceback")

    async def on_disconnect(_request: Request, _exc: Exception) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)  # nobody receives it; metrics count it

    handlers: dict[type[Exception], Handler] = {
        WarmclipError: on_warmclip_error,
        HTTPException: on_http_exception,
        Problem: on_problem,
        RequestValidationError: on_invalid_request,
        ClientDisconnect: on_disconnect,
        Exception: on_bug,
        **dict.fromkeys(BROKER_ERRORS, on_broker_error),
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
