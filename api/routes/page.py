"""The page and its files, out of the package: no build step, nothing from another server."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from rag_owl.api.errors import Problem

router = APIRouter(include_in_schema=False)

_WEB = Path(__file__).resolve().parent.parent / "web"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# No inline script or style, no other server; blob: is what was fetched with a key.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Name -> (bytes, media type, ETag). Read once: a request's path is only looked up."""
    found = {}
    for path in _WEB.iterdir():
        if path.suffix in _TYPES:
            data = path.read_bytes()
            found[path.name] = data, _TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()}"'
    return found


@router.get("/")
def page(request: Request) -> Response:
    return _send(request, "index.html")


@router.get("/docs")
def docs(request: Request) -> Response:
    """The reference of the interface, made of openapi.json by a script of ours."""
    return _send(request, "docs.html")


@router.get("/static/{name}")
def static(request: Request, name: str) -> Response:
    return _send(request, name)


def _send(request: Request, name: str) -> Response:
    if name not in _files():
        raise Problem(404, f"no file {name!r} belongs to the page")
    data, media_type, etag = _files()[name]
    # Asked again each time, so that a newer version is seen at once.
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "ETag": etag}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)
