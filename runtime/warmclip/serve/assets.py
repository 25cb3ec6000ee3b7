"""The page's own files: read once, served by exact path, without a token as they hold no data."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Nothing from other sites, nothing inline, and no script may make HTML of text. Pictures come as
# blobs, since requests for them need the token.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Cache-Control": "no-cache",  # browsers ask each time, and so see an upgrade at once
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file, and the headers that it is sent with."""

    body: bytes
    headers: Mapping[str, str]


def read_assets() -> dict[str, Asset]:
    """Every file of the page, by the path at which it is served."""
    assets = {}
    for entry in files("warmclip.serve").joinpath("page").iterdir():
        media_type = _TYPES.get(entry.name.rpartition(".")[2])
        if media_type is None:  # what an editor left
            continue
        body = entry.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        path = "/" if entry.name == "index.html" else f"/page/{entry.name}"
        assets[path] = Asset(
            body=body, headers={**_HEADERS, "Content-Type": media_type, "ETag": etag}
        )
    return assets


def make_router(assets: Mapping[str, Asset]) -> APIRouter:
    """A route for each file; no other path leads to one."""
    router = APIRouter()

    async def serve_asset(request: Request) -> Response:
        asset = assets.get(request.scope["path"])
        if asset is None:  # routes also match a line break at the end
            raise HTTPException(404)
        if asset.headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=asset.headers)
        return Response(asset.body, headers=asset.headers)

    for path in assets:
        router.add_api_route(path, serve_asset, methods=["GET", "HEAD"], include_in_schema=False)
    return router
