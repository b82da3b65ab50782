"""Errors over HTTP: the tree of `rag_owl.errors` as RFC 9457 problem documents.

{"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no job 'x'", "field": …}

`field` names the part of the request that it is about, where that is known. What an operator must
mend (a full disk, a damaged file) is written to the log with the request's id; strangers are told
that id and no path of this machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from rag_owl.api import logs
from rag_owl.errors import (
    Busy,
    Cancelled,
    Conflict,
    DatabaseUnavailable,
    DataFolderBusy,
    DataFolderError,
    Forbidden,
    InvalidInput,
    InvalidSettings,
    ModelError,
    ModelNotFound,
    NotFound,
    OutOfMemory,
    RagOwlError,
    RemoteModelBusy,
    RemoteModelError,
    RemoteModelTimeout,
    StorageUnavailable,
)

log = logs.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
CLIENT_GONE = 499  # nginx's: nobody is there to read it; for the log and the metrics
_MOST_DETAIL = 2_000  # characters: a message may quote what a stranger sent

# The first that fits. Errors of an operator's making come as 5xx without their message.
_STATUSES: tuple[tuple[type[RagOwlError], int], ...] = (
    (InvalidSettings, 500),
    (InvalidInput, 422),
    (ModelNotFound, 404),
    (NotFound, 404),
    (Forbidden, 403),
    (DataFolderBusy, 503),
    (Conflict, 409),
    (Busy, 503),
    (Cancelled, CLIENT_GONE),
    (OutOfMemory, 503),
    (RemoteModelBusy, 503),
    (RemoteModelTimeout, 504),
    (ModelError, 502),
    (DatabaseUnavailable, 503),
    (StorageUnavailable, 503),
    (DataFolderError, 507),
)
_OPENAI_PATHS = re.compile(r"/v1/(?:chat/completions|models(?:/.*)?)/?", re.DOTALL)
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# Of the errors of models, those that who asks can do something about. Others name files.
_TOLD = (ModelNotFound, OutOfMemory, RemoteModelError)
_FIELDS: tuple[tuple[type[RagOwlError], str], ...] = ((ModelNotFound, "model"),)


class Problem(Exception):
    """What only HTTP knows of: an answer with this status and these words."""

    def __init__(
        self,
        status: int,
        detail: str,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})


def problem_of(error: Exception, request_id: str = "") -> Problem:
    """Any exception as what the client is told of it."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RagOwlError):
        status = next((code for kind, code in _STATUSES if isinstance(error, kind)), 500)
        if isinstance(error, ModelError) and not isinstance(error, _TOLD):
            return Problem(
                status,
                "the model cannot be used now; its operator finds the reason in the log under "
                f"request {request_id}",
            )
        if isinstance(error, DataFolderError) or status == 500:
            return Problem(
                status,
                "the service cannot use its data now; its operator finds the reason in the log "
                f"under request {request_id}",
                headers={"Retry-After": "5"} if status == 503 else None,
            )
        field = getattr(error, "field", None) or next(
            (name for kind, name in _FIELDS if isinstance(error, kind)), None
        )
        headers = {}
        if isinstance(error, Busy):
            headers["Retry-After"] = str(error.retry_after)
        elif isinstance(error, DataFolderBusy):
            headers["Retry-After"] = "5"
        elif isinstance(error, RemoteModelBusy):
            headers["Retry-After"] = str(math.ceil(error.retry_after or 10))
        shown = error.public if isinstance(error, RemoteModelError) else str(error)
        return Problem(status, shown, field, headers)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        # 400 is FastAPI's for a body of broken UTF-8; ours are 408 for one that comes too slowly
        # and 413 for one that is too large.
        field = "body" if error.status_code in (400, 408, 413) else None
        return Problem(error.status_code, str(error.detail), field, error.headers)
    return Problem(
        500,
        "the service failed; its operator finds the reason in the log under request "
        f"{request_id}. Please report it.",
    )


def _of_validation(error: RequestValidationError) -> Problem:
    first: Mapping[str, Any] = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    inside = place[1:] if place and place[0] in ("body", "query", "path", "header") else place
    kind = str(first["type"])
    if kind == "json_invalid":
        return Problem(400, f"the body is not JSON: {first.get('ctx', {}).get('error')}", "body")
    field = ".".join(inside) if inside else (place[0] if place else None)
    return Problem(422, f"{field}: {first['msg']}", field)


def _allowed(request: Request) -> str:
    """All methods of this path: Starlette names those of the first route of it alone."""
    methods: set[str] = set()
    for route in _routes(request.app.routes):
        if route.matches(request.scope)[0] != Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return ", ".join(sorted(methods))


def _routes(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Also those of the routers that were included."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from _routes(included.routes)


def _is_no_json(request: Request, error: RequestValidationError) -> bool:
    """Whether there is a body, and it was not even read because of its type."""
    first = error.errors()[0]
    if tuple(first["loc"]) != ("body",) or first["type"] == "missing":
        return False
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind != "application/json" and not kind.endswith("+json")


def document(problem: Problem, request_id: str = "") -> dict[str, Any]:
    """The problem's JSON, also as the data of an `error` event."""
    try:
        title = HTTPStatus(problem.status).phrase
    except ValueError:
        title = "Client Closed Request"
    detail = problem.detail
    if len(detail) > _MOST_DETAIL:
        detail = detail[:_MOST_DETAIL] + "…"
    # A stranger's lone surrogate may be quoted in it, which UTF-8 cannot hold.
    detail = detail.encode("utf-8", "backslashreplace").decode()
    found: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": problem.status,
        "detail": detail,
    }
    if problem.field is not None:
        field = problem.field[:200].encode("utf-8", "backslashreplace").decode()
        found["field"] = field
    if request_id:
        found["request_id"] = request_id
    return found


def openai_document(problem: Problem, request_id: str = "") -> dict[str, Any]:
    """The problem in OpenAI's form."""
    kind = _OPENAI_TYPES.get(
        problem.status, "invalid_request_error" if problem.status < 500 else "server_error"
    )
    missing = problem.status == 404 and problem.field == "model"
    written = document(problem, request_id)
    return {
        "error": {
            "message": written["detail"],
            "type": kind,
            "param": written.get("field"),
            "code": "model_not_found" if missing else None,
        }
    }


def respond(error: Exception, request_id: str = "", path: str = "") -> JSONResponse:
    """A problem document; on the paths of OpenAI's interface its error, which knows no 422."""
    problem = problem_of(error, request_id)
    if problem.status >= 500 and not isinstance(error, Busy | DataFolderBusy):
        is_known = isinstance(error, RagOwlError | Problem)
        log.error("request failed", error=str(error), exc_info=None if is_known else error)
    if _OPENAI_PATHS.fullmatch(path):
        status = 400 if problem.status == 422 else problem.status
        return JSONResponse(openai_document(problem, request_id), status, problem.headers)
    return JSONResponse(
        document(problem, request_id),
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    """Every error of the tree, of validation and of routing leaves as a problem document."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, RequestValidationError) and _is_no_json(request, error):
            error = Problem(415, "send JSON, as application/json", "Content-Type")
        if isinstance(error, HTTPException) and error.status_code == 405:
            error = Problem(405, str(error.detail), headers={"Allow": _allowed(request)})
        return respond(error, getattr(request.state, "request_id", ""), request.scope["path"])

    for kind in (RagOwlError, RequestValidationError, HTTPException, Problem):
        app.add_exception_handler(kind, handle)
