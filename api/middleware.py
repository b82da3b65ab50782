"""Around every request: its id, its log line and figures, who may come at all, and how much.

Plain ASGI, because wrapping the body as Starlette's `BaseHTTPMiddleware` does would hide that a
client has gone away.
"""

from __future__ import annotations

import re
import time
import uuid
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_owl.api import auth, deps, errors, logs
from rag_owl.api.body import Body
from rag_owl.api.errors import Problem
from rag_owl.api.limits import RateLimits
from rag_owl.api.metrics import Metrics
from rag_owl.settings import Settings

log = logs.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_UPLOADS = re.compile(r"/v1/collections/[^/]+/documents(/[^/]+)?/?")
_QUESTIONS = re.compile(r"/v1/answers/?")
# What answers carry unless a route says otherwise: JSON is data, and nothing may be made of it.
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def split_list(setting: str) -> list[str]:
    return [part.strip() for part in setting.split(",") if part.strip()]


class Guard:
    """Around all of the app; only who may read answers of other origins is said further out."""

    def __init__(
        self, app: ASGIApp, settings: Settings, rates: RateLimits, metrics: Metrics
    ) -> None:
        self.app = app
        self._rates = rates
        self._metrics = metrics
        self._settings = settings
        # Where a key is needed, a page of another site can do nothing without it.
        self._is_open = not auth.needs_key(settings)
        self._hosts = {
            *_LOCAL_NAMES,
            *(host.lower() for host in split_list(settings.allowed_hosts)),
        }
        if auth.is_loopback(settings.host):
            self._hosts.add(settings.host.lower())
        self._checks_host = self._is_open or bool(settings.allowed_hosts)
        self._origins = {origin.rstrip("/") for origin in split_list(settings.cors_origins)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        call = _Call(scope, send, request_id)
        begun = time.perf_counter()
        self._metrics.open_requests.inc()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._check(scope, headers)
            if scope["path"].startswith("/v1/") and scope["method"] not in _SAFE_METHODS:
                # FastAPI reads a body before it asks for the key: strangers would fill the memory.
                request = Request(scope)
                request.state.caller = await deps.identify(request, request.app.state.rag_owl)
            await self.app(scope, self._limited(scope, headers, receive), call.send)
        except Exception as error:
            if not call.status:
                response = errors.respond(_plain(error), request_id, scope["path"])
                await response(scope, receive, call.send)
            elif not isinstance(error, ClientDisconnect):
                log.exception("an answer broke off")
                raise
        finally:
            self._metrics.open_requests.dec()
            self._note(scope, call.status or errors.CLIENT_GONE, time.perf_counter() - begun)

    async def _check(self, scope: Scope, headers: Headers) -> None:
        """Raises `Problem` for who may not come at all."""
        if self._checks_host and _without_port(headers.get("host", "")) not in self._hosts:
            self._metrics.refused.labels("host").inc()
            raise Problem(
                421,
                "this service is not known by that name; see the setting allowed_hosts",
                "Host",
            )
        if self._is_open and scope["method"] not in _SAFE_METHODS and self._is_foreign(headers):
            self._metrics.refused.labels("origin").inc()
            raise Problem(403, "a page of another origin may not change anything here", "Origin")
        client = scope.get("client")
        if client and scope["path"].startswith(("/v1", "/mcp")):
            try:
                await self._rates.check_address(client[0])
            except Problem:
                self._metrics.refused.labels("rate").inc()
                raise

    def _is_foreign(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:  # no page, or an old one of ours; a new browser says where it is from
            return headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        if origin in self._origins:
            return False
        try:
            return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
        except ValueError:  # "http://[": no browser says so
            return True

    def _limited(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """The body, with the limits of its path."""
        most = self._settings.max_request_bytes
        # Only where such a body goes to disk: of all other routes FastAPI has it in memory.
        if headers.get("content-type", "").lower().startswith("multipart/"):
            if _UPLOADS.fullmatch(scope["path"]):
                most = self._settings.max_upload_bytes
            elif _QUESTIONS.fullmatch(scope["path"]):
                most = self._settings.max_question_bytes
        declared = headers.get("content-length", "")
        return Body(receive, most, self._settings.body_seconds, declared)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        # The template, not the path: names of collections are nobody's business in the figures.
        name = getattr(route, "path", None) or "none"
        method = (
            scope["method"]
            if scope["method"] in (*_SAFE_METHODS, "POST", "PUT", "DELETE")
            else "other"
        )
        self._metrics.requests.labels(method, name, str(status)).inc()
        self._metrics.request_seconds.labels(method, name).observe(seconds)
        log.info(
            "request",
            method=method,
            path=scope["path"][:500],
            status=status,
            seconds=round(seconds, 4),
            key=scope["state"].get("key_id"),
        )


class _Call:
    """Sends, with the headers that every answer has, and remembers the status."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self._request_id
        await self._send(message)


def _plain(error: Exception) -> Exception:
    return Problem(errors.CLIENT_GONE, "gone") if isinstance(error, ClientDisconnect) else error


def _without_port(host: str) -> str:
    host = host.lower()
    name, separator, port = host.rpartition(":")
    if separator and port.isdecimal() and (":" not in name or name.endswith("]")):
        return name
    return host
